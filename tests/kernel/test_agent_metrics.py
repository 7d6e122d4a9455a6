"""Every metric the dashboard shows is fed by a real agent, with values that can be true."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from netplane.agent.manifest import dashboard
from netplane.apply.netns import Namespace
from tests.support.agent_process import AgentProcess, running_agent
from tests.support.kernel_state import ruleset
from tests.support.manifests import Object, endpoint_slice, kube_list, node, service
from tests.support.netns import ip, run_tool
from tests.support.owned_table import owned_table

pytestmark = [pytest.mark.kernel, pytest.mark.e2e]

_TRIGGER = "endpoints.kubernetes.io/last-change-trigger-time"
_CONNECTIONS = 7
_DNS = "172.30.0.53"


@pytest.fixture(params=["iptables", "nftables"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _write(folder: Path, *endpoints: str) -> None:
    """Make the cluster so, with these endpoints of default/web and default/dns."""
    web = endpoint_slice("web", endpoints)
    web["metadata"]["annotations"] = {_TRIGGER: dt.datetime.now(dt.UTC).isoformat()}
    udp = [{"name": "dns", "port": 53, "protocol": "UDP"}]
    objects: list[Object] = [
        node("node-1", ip="192.0.2.1"),
        service("web"),
        web,
        service("dns", cluster_ips=[_DNS], ports=udp),
        endpoint_slice("dns", endpoints, ports=udp),
        service("local", cluster_ips=["172.30.0.11"], internalTrafficPolicy="Local"),
        endpoint_slice("local", ["10.244.9.9"]),
        *(service(f"bad-{number}", cluster_ips=["172.30.0.256"]) for number in range(20)),
    ]
    written = folder / "state.json.new"
    written.write_bytes(kube_list(*objects))
    written.rename(folder / "state.json")


@contextlib.contextmanager
def _reachable(netns: Namespace) -> Iterator[None]:
    """Two endpoints in the namespace itself, a server on them, and a way to the Services."""
    lines = [f"addr add 10.244.1.{host}/32 dev lo" for host in (7, 8)]
    lines += ["link add out0 type veth peer name out1", "link set out1 up"]
    lines += ["addr add 192.0.2.1/24 dev out0", "link set out0 up"]
    ip("-n", str(netns), batch=[*lines, "route add 172.30.0.0/16 dev out0"])
    with netns.call(lambda: socket.create_server(("", 8080))):
        yield


def _connect(netns: Namespace) -> None:
    for _ in range(_CONNECTIONS):
        with netns.call(socket.socket) as client:
            client.settimeout(5)
            client.connect(("172.30.0.10", 80))


def _fail_once(agent: AgentProcess, mode: str, folder: Path) -> None:
    """A change that cannot be written, until it can."""
    with owned_table(agent.namespace, mode):
        _write(folder, "10.244.1.7", "10.244.1.8")
        agent.until(lambda: "could not be written" in agent.said)
    agent.until(lambda: "10.244.1.8" in ruleset(agent.namespace))
    agent.until(lambda: "written again" in agent.said)


def _damage(agent: AgentProcess, mode: str) -> None:
    damage = {
        "nftables": ["nft", "flush", "map", "ip", "netplane", "services"],
        "iptables": ["iptables", "-t", "nat", "-F", "KUBE-SERVICES"],
    }
    run_tool(damage[mode], inside=agent.namespace)
    agent.until(lambda: "are repaired" in agent.said)


def _foreign_commit(agent: AgentProcess) -> None:
    """Somebody else writes a table of his own, which does no harm."""
    run_tool(["nft", "add", "table", "inet", "other"], inside=agent.namespace)


def test_the_dashboard_is_fed(netns: Namespace, tmp_path: Path, mode: str) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    _write(folder, "10.244.1.7")
    options = ["-f", str(folder), "--mode", mode, "--sync-period", "1s", "-v"]
    with (
        _reachable(netns),
        running_agent(netns, tmp_path / "said.log", *options) as agent,
    ):
        agent.until(lambda: agent.healthy)
        assert agent.get("/livez").status == 200
        _connect(netns)
        with netns.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
            client.sendto(b"?", (_DNS, 53))
            found = agent.metrics()  # the first scrape reads the counters, and waits for them
            name = "netplane_service_new_connections_total"
            assert found[f'{name}{{namespace="default",service="web"}}'] == _CONNECTIONS
            assert found[f'{name}{{namespace="default",service="dns"}}'] == 1
            _foreign_commit(agent)
            _write(folder, "10.244.1.8")
            agent.until(lambda: "10.244.1.7" not in ruleset(netns))
            agent.until(lambda: "stale UDP flow" in agent.said)
        _fail_once(agent, mode, folder)
        _damage(agent, mode)
        agent.until(lambda: agent.healthy)
        _judge(agent.metrics(), mode)


def _judge(found: dict[str, float], mode: str) -> None:
    shown = set(re.findall(r"((?:kubeproxy|netplane|process)_\w+)", _expressions()))
    told = {name.partition("{")[0] for name in found}
    assert shown <= told

    def total(name: str, **labels: str) -> float:
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        fitting = [n for n in found if n.partition("{")[0] == name and all(w in n for w in wanted)]
        return sum(found[n] for n in fitting)

    now = time.time()
    proxy = "kubeproxy_sync_proxy_rules_"
    assert total("kubeproxy_proxy_healthz_total", code="200") >= 1
    assert total("kubeproxy_proxy_livez_total", code="200") == 1
    assert total("netplane_watch_age_seconds") < 120
    assert total("kubeproxy_network_programming_duration_seconds_count", ip_family="IPv4") > 0
    for part in ("full", "partial"):
        duration = f"kubeproxy_sync_{part}_proxy_rules_duration_seconds"
        assert 0 < total(f"{duration}_sum") < 60
        assert total(f"{duration}_count") > 0
    for kind in ("last_timestamp_seconds", "last_queued_timestamp_seconds"):
        assert now - 60 < found[f'{proxy}{kind}{{ip_family="IPv4"}}'] <= now + 1
    assert (
        total(f"{proxy}service_changes_pending") == total(f"{proxy}endpoint_changes_pending") == 0
    )
    assert total(f"{proxy}service_changes_total") == 3
    assert total(f"{proxy}endpoint_changes_total") >= 7
    failures = (
        "nftables_sync_failures" if mode == "nftables" else "iptables_partial_restore_failures"
    )
    assert total(f"{proxy}{failures}_total") + total(f"{proxy}iptables_restore_failures_total") > 0
    assert total("netplane_transactions_total", result="committed") >= 3
    assert total("netplane_transactions_total", result="failed") >= 1
    assert total("netplane_drift_found_total") >= total("netplane_drift_repaired_total") >= 1
    assert 0 < total("netplane_repair_duration_seconds_sum") < 60
    refused = total("netplane_refused_objects", kind="Service", reason="not_an_address")
    assert refused == 20
    assert found[_no_local("IPv4")] == 1
    assert total("netplane_conntrack_deletions_total", ip_family="IPv4") == 1
    assert total("kubeproxy_conntrack_reconciler_sync_duration_seconds_count") >= 1
    assert total("netplane_log_messages_dropped_total", kind="refused") == 10
    assert 20e6 < total("process_resident_memory_bytes") < 200e6
    assert 0 < total("process_cpu_seconds_total") < 60
    if mode == "nftables":
        assert total("netplane_generation_conflicts_total") >= 1
        assert total("netplane_transactions_total", result="conflict") >= 1
    else:
        assert total(f"{proxy}iptables_total", ip_family="IPv4", table="nat") > 15
        assert total(f"{proxy}iptables_total", ip_family="IPv4", table="filter") >= 5
        assert f'{proxy}iptables_last{{ip_family="IPv4",table="nat"}}' in found


def _no_local(family: str) -> str:
    name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total"
    return f'{name}{{ip_family="{family}",traffic_policy="internal"}}'


def _expressions() -> str:
    panels = json.loads(dashboard())["panels"]
    return "\n".join(target["expr"] for panel in panels for target in panel["targets"])


def test_the_way_of_a_change_is_timed_even_where_it_could_not_be_written_at_once(
    netns: Namespace, tmp_path: Path
) -> None:
    """The slow ones are what the metric is for; what is older than the agent is not its work."""
    folder = tmp_path / "manifests"
    folder.mkdir()
    _write(folder, "10.244.1.7")
    name = "kubeproxy_network_programming_duration_seconds"
    count = f'{name}_count{{ip_family="IPv4"}}'
    with running_agent(netns, tmp_path / "said", "-f", str(folder), "--mode", "nftables") as agent:
        agent.until(lambda: agent.healthy)
        assert agent.metrics()[count] == 0
        begin = time.monotonic()
        _fail_once(agent, "nftables", folder)
        agent.until(lambda: agent.metrics()[count] == 1)
        took = time.monotonic() - begin
        assert 0.25 < agent.metrics()[f'{name}_sum{{ip_family="IPv4"}}'] <= took


def test_the_rules_that_the_metric_counts_are_those_of_the_kernel(
    netns: Namespace, tmp_path: Path
) -> None:
    _write(tmp_path, "10.244.1.7")
    options = ["-f", str(tmp_path), "--mode", "iptables", "--metrics-top-services", "0"]
    name = "kubeproxy_sync_proxy_rules_iptables_total"
    with running_agent(netns, tmp_path / "said.log", *options) as agent:
        agent.until(lambda: agent.healthy)
        for endpoints in (("10.244.1.7",), ("10.244.1.7", "10.244.1.8"), ()):
            _write(tmp_path, *endpoints)
            agent.until(functools.partial(_has, netns, set(endpoints)))
            agent.until(lambda: _counted(agent, name) == _there(netns))
        assert not any("new_connections" in key for key in agent.metrics())


def _has(netns: Namespace, endpoints: set[str]) -> bool:
    """Whether the rules know these endpoints of default/web, and no others."""
    save = run_tool(["iptables-save"], inside=netns)
    return set(re.findall(r"10\.244\.1\.\d+", save)) == endpoints


def _counted(agent: AgentProcess, name: str) -> dict[tuple[str, str], int]:
    found = {}
    for key, value in agent.metrics().items():
        if key.startswith(f"{name}{{"):
            family, table = re.findall(r'"(\w+)"', key)
            found[family, table] = int(value)
    return found


def _there(netns: Namespace) -> dict[tuple[str, str], int]:
    found = {}
    for family, program in (("IPv4", "iptables-save"), ("IPv6", "ip6tables-save")):
        for table in ("filter", "nat"):
            save = run_tool([program, "-t", table], inside=netns)
            found[family, table] = len(re.findall(r"^-A KUBE-", save, re.MULTILINE))
    return found
