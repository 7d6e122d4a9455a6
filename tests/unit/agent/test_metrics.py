"""The metrics: kube-proxy's names as they are, ours, bounds on their number, no global state."""

from __future__ import annotations

import json
import re

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

from netplane.agent.telling.metrics import Metrics, reason_name
from netplane.core.model.address import Family
from netplane.core.model.problem import Problem
from netplane.core.model.reasons import Reason


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("nftables", watch_age=lambda: 4.5, top_services=2)


def _value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


_KUBE_PROXY = """
sync_proxy_rules_duration_seconds histogram ip_family
sync_full_proxy_rules_duration_seconds histogram ip_family
sync_partial_proxy_rules_duration_seconds histogram ip_family
network_programming_duration_seconds histogram ip_family
sync_proxy_rules_last_timestamp_seconds gauge ip_family
sync_proxy_rules_last_queued_timestamp_seconds gauge ip_family
sync_proxy_rules_endpoint_changes_pending gauge
sync_proxy_rules_endpoint_changes_total counter
sync_proxy_rules_service_changes_pending gauge
sync_proxy_rules_service_changes_total counter
sync_proxy_rules_iptables_total gauge ip_family table
sync_proxy_rules_iptables_last gauge ip_family table
sync_proxy_rules_iptables_restore_failures_total counter ip_family
sync_proxy_rules_iptables_partial_restore_failures_total counter ip_family
sync_proxy_rules_nftables_sync_failures_total counter ip_family
sync_proxy_rules_no_local_endpoints_total gauge ip_family traffic_policy
conntrack_reconciler_sync_duration_seconds histogram ip_family
conntrack_reconciler_deleted_entries_total counter ip_family
proxy_healthz_total counter code
proxy_livez_total counter code
"""


@pytest.mark.parametrize("line", _KUBE_PROXY.split("\n")[1:-1], ids=lambda line: line.split()[0])
def test_kube_proxys_names_types_and_labels(line: str, metrics: Metrics) -> None:
    name, kind, *labels = line.split()
    ours = {
        next(iter(metric.describe())).name: metric
        for metric in vars(metrics).values()
        if isinstance(metric, prometheus_client.metrics.MetricWrapperBase)
    }
    bare = name.removesuffix("_total") if kind == "counter" else name
    metric = ours[f"kubeproxy_{bare}"]
    assert metric._type == kind
    assert list(metric._labelnames) == labels


def test_buckets(metrics: Metrics) -> None:
    metrics.synced(Family.IPV4, seconds=0.0011, full=False, at=12.0)
    page = metrics.page().body.decode()
    name = "kubeproxy_sync_proxy_rules_duration_seconds"
    bounds = re.findall(rf'^{name}_bucket{{ip_family="IPv4",le="(.*)"}}', page, re.MULTILINE)
    assert [float(b) for b in bounds[:-1]] == pytest.approx([0.001 * 2**k for k in range(15)])
    metrics.programming_duration.labels("IPv4").observe(1)
    page = metrics.page().body.decode()
    name = "kubeproxy_network_programming_duration_seconds"
    bounds = re.findall(rf'^{name}_bucket{{ip_family="IPv4",le="(.*)"}}', page, re.MULTILINE)
    wanted = [0.25, 0.5, *range(1, 60), *range(60, 116, 5), *range(120, 301, 30)]
    assert [float(b) for b in bounds[:-1]] == wanted


def test_a_sync(metrics: Metrics) -> None:
    metrics.synced(Family.IPV6, seconds=0.5, full=True, at=12.0)
    for part, count in (("", 1), ("full_", 1), ("partial_", None)):
        name = f"kubeproxy_sync_{part}proxy_rules_duration_seconds_count"
        assert _value(metrics, name, ip_family="IPv6") == count
    name = "kubeproxy_sync_proxy_rules_last_timestamp_seconds"
    assert _value(metrics, name, ip_family="IPv6") == 12.0


@pytest.mark.parametrize(
    ("mode", "full", "name"),
    [
        ("nftables", True, "nftables_sync_failures_total"),
        ("iptables", True, "iptables_restore_failures_total"),
        ("iptables", False, "iptables_partial_restore_failures_total"),
    ],
)
def test_a_failure_counts_under_its_modes_name(mode: str, full: bool, name: str) -> None:
    metrics = Metrics("nftables" if mode == "nftables" else "iptables", watch_age=lambda: 0.0)
    metrics.failed(Family.IPV4, full=full)
    assert _value(metrics, f"kubeproxy_sync_proxy_rules_{name}", ip_family="IPv4") == 1


def test_conntrack_deletions_have_both_names(metrics: Metrics) -> None:
    metrics.conntrack_deleted(Family.IPV4, 3, 0.01)
    for name in (
        "kubeproxy_conntrack_reconciler_deleted_entries_total",
        "netplane_conntrack_deletions_total",
    ):
        assert _value(metrics, name, ip_family="IPv4") == 3


def test_the_watch_age_is_asked_for_when_scraped(metrics: Metrics) -> None:
    assert _value(metrics, "netplane_watch_age_seconds") == 4.5


def _problem(name: str, reason: str, field: str = "spec.clusterIP") -> Problem:
    return Problem("Service", "default", name, field, "x", reason)


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_name(reason: Reason) -> None:
    assert reason_name(_problem("a", f"{reason.value} and more")) == reason.name.lower()


def test_refusals_are_counted_by_object_and_forgotten_when_mended(metrics: Metrics) -> None:
    bad = Reason.NOT_AN_ADDRESS.value
    metrics.refused(
        [
            _problem("a", bad),
            _problem("a", bad, "spec.externalIPs[0]"),
            _problem("b", bad),
            _problem("c", "this address is default/a's"),
        ]
    )
    name = "netplane_refused_objects"
    assert _value(metrics, name, kind="Service", reason="not_an_address") == 2
    assert _value(metrics, name, kind="Service", reason="other") == 1
    metrics.refused([])
    assert _value(metrics, name, kind="Service", reason="not_an_address") is None


def test_only_the_busiest_services_are_told_apart(metrics: Metrics) -> None:
    metrics.connections({f"ns/s{number}": number for number in range(1000)})
    name = "netplane_service_new_connections_total"
    assert _value(metrics, name, namespace="ns", service="s999") == 999
    assert _value(metrics, name, namespace="ns", service="s998") == 998
    assert metrics.page().body.count(name.encode() + b"{") == 2


def test_no_service_is_told_apart_unless_asked() -> None:
    metrics = Metrics("iptables", watch_age=lambda: 0.0)
    metrics.connections({"ns/a": 1})
    assert b"netplane_service_new_connections" not in metrics.page().body


def test_two_agents_in_one_process_share_nothing(metrics: Metrics) -> None:
    other = Metrics("nftables", watch_age=lambda: 0.0)
    metrics.healthz.labels(200).inc()
    assert _value(other, "kubeproxy_proxy_healthz_total", code="200") is None
    assert b"kubeproxy" not in prometheus_client.generate_latest()


def test_the_page_is_what_the_request_accepts(metrics: Metrics) -> None:
    page = metrics.page()
    assert page.content_type.startswith("text/plain")
    assert list(text_string_to_metric_families(page.body.decode()))
    openmetrics = metrics.page("application/openmetrics-text; version=1.0.0")
    assert openmetrics.content_type.startswith("application/openmetrics-text")
    assert openmetrics.body.endswith(b"# EOF\n")


def test_label_values_are_escaped(metrics: Metrics) -> None:
    metrics.connections({'ns/"}\n# HELP': 1})
    assert json.dumps('"}\n# HELP')[1:-1].encode() in metrics.page().body
