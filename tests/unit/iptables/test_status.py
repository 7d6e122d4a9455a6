from __future__ import annotations

import pytest

from netplane.core.iptables.compile import compile_jumps
from netplane.core.iptables.layout import Ruleset
from netplane.core.iptables.parse import Observed, parse_save
from netplane.core.iptables.status import drift, frontends
from netplane.core.model.address import Family
from netplane.core.plan.status import EndpointStatus
from netplane.rendering import environment
from tests.unit.iptables.plans import port, ruleset, saved

TWO = ("10.180.0.1:80", "10.180.0.2:80")
FULL = port(
    cluster=TWO,
    local=("10.180.0.2:80",),
    node_port=30080,
    load_balancer_ips=("1.2.3.4",),
    source_ranges=("192.0.2.0/24",),
    external_local=True,
)


def _counted(compiled: Ruleset, counts: dict[str, int]) -> Observed:
    """A save with counters: each rule's packets are those of the first text it contains."""
    lines = []
    for line in saved(compiled).split("\n"):
        packets = next((n for text, n in counts.items() if text in line), 0)
        lines.append(f"[{packets}:0] {line}" if line.startswith("-A") else line)
    return parse_save("\n".join(lines))


def test_frontends_endpoints_and_connections() -> None:
    observed = _counted(
        ruleset(FULL),
        {
            'cluster IP" -m tcp --dport 80 -j KUBE-SVC': 7,
            "DNAT --to-destination 10.180.0.1:80": 3,
            "DNAT --to-destination 10.180.0.2:80": 4,
            "--dport 30080": 2,
        },
    )
    cluster_ip, external, node_port = frontends(Family.IPV4, observed)
    assert (cluster_ip.kind, cluster_ip.address, cluster_ip.port) == (
        "ClusterIP",
        "172.30.0.41",
        80,
    )
    assert (cluster_ip.verdict, cluster_ip.connections) == ("balance", 7)
    assert cluster_ip.endpoints == (
        EndpointStatus("10.180.0.1", 80, 3),
        EndpointStatus("10.180.0.2", 80, 4),
    )
    assert (external.kind, external.address) == ("External", "1.2.3.4")
    assert external.endpoints == (EndpointStatus("10.180.0.2", 80, 4),)
    assert (node_port.kind, node_port.address, node_port.port) == ("NodePort", "", 30080)
    assert node_port.connections == 2
    assert {f.label for f in (cluster_ip, external, node_port)} == {"ns1/svc1:p80"}


def test_refusals() -> None:
    found = frontends(
        Family.IPV4,
        _counted(
            ruleset(
                port(node_port=30080),
                port("ns1/svc2", "172.30.0.42", internal_local=True, has_endpoints=True),
                port(
                    "ns1/svc3",
                    "172.30.0.43",
                    cluster=TWO,
                    external_ips=("1.2.3.4",),
                    external_local=True,
                ),
            ),
            {},
        ),
    )
    assert [(f.label, f.kind, f.verdict, len(f.endpoints), f.connections) for f in found] == [
        ("ns1/svc1:p80", "ClusterIP", "reject", 0, None),
        ("ns1/svc1:p80", "NodePort", "reject", 0, None),
        ("ns1/svc2", "ClusterIP", "drop", 0, None),
        ("ns1/svc3", "ClusterIP", "balance", 2, 0),
        ("ns1/svc3", "External", "drop", 0, None),
    ]


def test_ipv6_endpoints() -> None:
    planned = port(cluster_ip="fd00:30::41", cluster=("[fd00:10::1]:80",))
    (status,) = frontends(Family.IPV6, _counted(ruleset(planned), {}))
    assert (status.address, status.family) == ("fd00:30::41", "IPv6")
    assert status.endpoints == (EndpointStatus("fd00:10::1", 80, 0),)


def test_without_counters_connections_are_unknown() -> None:
    (status,) = frontends(Family.IPV4, parse_save(saved(ruleset(port(cluster=TWO)))))
    assert status.connections is None
    assert status.endpoints[0].connections is None


def _drift(*edits: tuple[str, str]) -> tuple[str, ...]:
    text = saved(ruleset(FULL))
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return drift(Family.IPV4, parse_save(text), compile_jumps(environment()))


def test_no_drift() -> None:
    assert _drift() == ()
    assert drift(Family.IPV4, Observed(), compile_jumps(environment())) == ()


@pytest.mark.parametrize(
    ("edit", "finding"),
    [
        pytest.param(
            ("-A PREROUTING -m comment", "-A PREROUTING -p tcp -m comment"),
            "IPv4 nat: the jump is missing: -A PREROUTING -m comment"
            ' --comment "kubernetes service portals" -j KUBE-SERVICES',
            id="jump",
        ),
        pytest.param(
            (":KUBE-FORWARD - [0:0]\n", ""),
            "IPv4 filter: the chain KUBE-FORWARD is missing",
            id="fixed chain",
        ),
        pytest.param(
            ("-j DNAT --to-destination 10.180.0.1:80", "-j RETURN"),
            "IPv4 nat: KUBE-SEP-SXIVWICOYRO3J4NJ translates to no endpoint,"
            " its share of connections is lost",
            id="endpoint chain",
        ),
        pytest.param(
            (" -j KUBE-FW-XPGD46QRK7WJZT7O", " -j RETURN"),
            "IPv4 nat: nothing leads to the chain KUBE-FW-XPGD46QRK7WJZT7O",
            id="orphan",
        ),
        pytest.param(
            (" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS", " -j RETURN"),
            "IPv4 nat: the last rule of KUBE-SERVICES does not lead to KUBE-NODEPORTS",
            id="way to the node ports",
        ),
    ],
)
def test_drift(edit: tuple[str, str], finding: str) -> None:
    assert finding in _drift(edit)
