"""Passes into numbers: what each metric is after a pass, a failure, a repair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from netplane.agent.keeper import Kept
from netplane.agent.telling.measures import Measures
from netplane.agent.telling.metrics import Metrics
from netplane.apply.engine import Applied, RuleCount
from netplane.apply.flows import Flow
from netplane.apply.follow_up import FollowUp
from netplane.core.model.address import Family
from netplane.core.model.service import Protocol, ServiceName
from netplane.core.plan.changes import Changes
from netplane.core.plan.incremental import Replanned
from netplane.core.plan.node import FamilyView, NodeView
from netplane.core.plan.port import PortPlan

_NODE = NodeView(name="node-1", families=tuple(FamilyView(family=f) for f in Family))
_BOTH = tuple(Family)
_WEB = ServiceName("default", "web")
_LOCAL = "kubeproxy_sync_proxy_rules_no_local_endpoints_total"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("iptables", watch_age=lambda: 0.0)


@pytest.fixture
def measures(metrics: Metrics) -> Measures:
    return Measures(metrics)


def _kept(*flows: Flow, applied: Applied | None = None, **told: Any) -> Kept:
    return Kept(
        node=_NODE,
        applied=applied or _applied(),
        after=FollowUp(flows=[*flows]),
        collisions=(),
        health_checks=(),
        **told,
    )


def _applied(*, refused: Mapping[ServiceName, str] | None = None, **told: Any) -> Applied:
    return Applied(changes=Changes(), refused=refused or {}, **told)


def _value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, {"ip_family": "IPv4", **labels})


@pytest.mark.parametrize(("observed", "kind"), [(True, "full"), (False, "partial")])
def test_a_pass_is_timed_as_what_it_was(
    measures: Measures, metrics: Metrics, observed: bool, kind: str
) -> None:
    measures.passed(_kept(applied=_applied(observed=observed)), 0.25, at=1234.0)
    for part, count in (("full", None), ("partial", None), (kind, 1)):
        name = f"kubeproxy_sync_{part}_proxy_rules_duration_seconds_count"
        if count:
            assert _value(metrics, name) == count
    assert _value(metrics, "kubeproxy_sync_proxy_rules_duration_seconds_sum") == 0.25
    assert _value(metrics, "kubeproxy_sync_proxy_rules_last_timestamp_seconds") == 1234.0


def test_flows_are_counted_in_their_family_and_timed_where_they_were_read(
    measures: Measures, metrics: Metrics
) -> None:
    flow = Flow("10.244.1.9", 4000, "172.30.0.53", 53, "10.244.1.7", 53, 1, 0)
    measures.passed(_kept(flow, flow_seconds={Family.IPV4: 0.002}), 9.0, at=0.0)
    name = "kubeproxy_conntrack_reconciler_sync_duration_seconds"
    assert _value(metrics, f"{name}_sum") == 0.002, "not the time of the whole pass"
    assert _value(metrics, f"{name}_count", ip_family="IPv6") is None
    assert _value(metrics, "netplane_conntrack_deletions_total") == 1
    assert _value(metrics, "netplane_conntrack_deletions_total", ip_family="IPv6") == 0


def test_conflicts_are_told_as_a_total_and_counted_once(
    measures: Measures, metrics: Metrics
) -> None:
    for conflicts in (2, 2, 5):
        measures.passed(_kept(conflicts=conflicts), 0.1, at=0.0)
    assert _value(metrics, "netplane_generation_conflicts_total") == 5
    assert _value(metrics, "netplane_transactions_total", result="conflict") == 5


def test_rules_of_each_table(measures: Measures, metrics: Metrics) -> None:
    measures.passed(_kept(rules={(Family.IPV4, "nat"): RuleCount(40, 3)}), 0.1, at=0.0)
    proxy = "kubeproxy_sync_proxy_rules_iptables"
    assert _value(metrics, f"{proxy}_total", table="nat") == 40
    assert _value(metrics, f"{proxy}_last", table="nat") == 3


def test_how_a_write_ended(measures: Measures, metrics: Metrics) -> None:
    measures.failed(_BOTH, full=True)
    measures.failed(_BOTH, full=False)
    measures.passed(_kept(applied=_applied(refused={_WEB: "no"})), 0.1, at=0.0)
    ended = {r: _value(metrics, "netplane_transactions_total", result=r) for r in _RESULTS}
    assert ended == {"committed": 0, "refused": 1, "conflict": 0, "failed": 2}
    proxy = "kubeproxy_sync_proxy_rules_iptables"
    assert _value(metrics, f"{proxy}_restore_failures_total") == 1
    assert _value(metrics, f"{proxy}_partial_restore_failures_total") == 1


_RESULTS = ("committed", "refused", "conflict", "failed")


def test_ports_without_a_local_endpoint_follow_the_changes(
    measures: Measures, metrics: Metrics
) -> None:
    port = PortPlan(
        service=_WEB,
        port_name="",
        protocol=Protocol.TCP,
        family=Family.IPV4,
        cluster_ip="172.30.0.10",
        port=80,
        internal_local=True,
        has_endpoints=True,
    )
    nothing, lacking = ((), ()), ((port,), ())
    for before, after, wanted in (
        (nothing, lacking, 1),
        (lacking, lacking, 1),
        (lacking, nothing, 0),
    ):
        replanned = (Replanned(_WEB, before, after),)
        measures.passed(_kept(applied=_applied(replanned=replanned)), 0.1, at=0.0)
        assert _value(metrics, _LOCAL, traffic_policy="internal") == wanted
        assert _value(metrics, _LOCAL, traffic_policy="external") == 0


def test_a_repair_and_a_change_in_the_past(measures: Measures, metrics: Metrics) -> None:
    measures.repaired(_BOTH, 0.5)
    assert _value(metrics, "netplane_drift_found_total") == 1
    assert _value(metrics, "netplane_drift_repaired_total") == 1
    assert _value(metrics, "netplane_repair_duration_seconds_sum") == 0.5
    measures.programmed(_BOTH, [-3.0])  # the clocks of two machines differ
    assert _value(metrics, "kubeproxy_network_programming_duration_seconds_sum") == 0
