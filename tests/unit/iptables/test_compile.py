"""What the golden texts do not show: order, guards, and the corners of the decisions."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from netplane.core.iptables.compile import compile_ports
from netplane.core.iptables.layout import chain_of
from netplane.core.model.address import Family
from netplane.core.plan.node import DetectorKind, LocalDetector
from netplane.core.plan.port import Backend, PortPlan
from netplane.rendering import environment
from tests.unit.iptables.plans import port, ruleset, view

SVC = "KUBE-SVC-XPGD46QRK7WJZT7O"
SVL = "KUBE-SVL-XPGD46QRK7WJZT7O"
EXT = "KUBE-EXT-XPGD46QRK7WJZT7O"
FW = "KUBE-FW-XPGD46QRK7WJZT7O"
ONE = ("10.180.0.1:80",)


def test_every_rule_is_in_its_chain_and_every_target_exists() -> None:
    compiled = ruleset(
        port(cluster=ONE, node_port=30080, load_balancer_ips=("1.2.3.4",)),
        port("ns1/svc2:p80", "172.30.0.42", node_port=30081),
    )
    for chains in compiled.tables.values():
        for chain, rules in chains.items():
            assert {chain_of(rule) for rule in rules} <= {chain}
    targets = {
        rule.rpartition(" -j ")[2]
        for rules in compiled.tables["nat"].values()
        for rule in rules
        if " -j KUBE-" in rule
    }
    assert targets <= compiled.tables["nat"].keys()


def test_node_ports_come_last_in_kube_services() -> None:
    rules = ruleset(port(cluster=ONE)).tables["nat"]["KUBE-SERVICES"]
    assert [rule.rpartition(" -j ")[2] for rule in rules] == [SVC, "KUBE-NODEPORTS"]


def test_groups_hold_each_per_service_chain_once() -> None:
    compiled = ruleset(
        port(cluster=("10.180.0.1:80", "10.180.0.2:80"), node_port=30080),
        port("ns1/svc2:p80", "172.30.0.42"),
        port("ns1/svc3:p80", "172.30.0.43", cluster=ONE),
    )
    grouped = [chain for group in compiled.groups for chain in group]
    assert [len(group) for group in compiled.groups] == [4, 2]
    assert grouped == [
        c
        for c in compiled.tables["nat"]
        if c.startswith(("KUBE-S", "KUBE-E")) and c != "KUBE-SERVICES"
    ]


@pytest.mark.parametrize(
    ("planned", "chains"),
    [
        pytest.param(port(cluster=ONE), {SVC}, id="only the ClusterIP"),
        pytest.param(port(), set(), id="no endpoints"),
        pytest.param(port(local=ONE, internal_local=True), {SVL}, id="internal Local"),
        pytest.param(port(internal_local=True, has_endpoints=True), set(), id="none local"),
        pytest.param(port(cluster=ONE, node_port=30080), {SVC, EXT}, id="external Cluster"),
        pytest.param(
            port(cluster=ONE, local=ONE, node_port=30080, external_local=True),
            {SVC, SVL, EXT},
            id="external Local",
        ),
        pytest.param(
            port(cluster=ONE, node_port=30080, external_local=True),
            {SVC, EXT},
            id="external Local, none local: pods and the node are still served",
        ),
        pytest.param(
            port(cluster=ONE, load_balancer_ips=("1.2.3.4",), source_ranges=("10.0.0.0/8",)),
            {SVC, EXT, FW},
            id="source ranges",
        ),
        pytest.param(
            port(load_balancer_ips=("1.2.3.4",), source_ranges=("10.0.0.0/8",)),
            set(),
            id="source ranges without endpoints",
        ),
        pytest.param(
            port(cluster=ONE, node_port=30080, source_ranges=("10.0.0.0/8",)),
            {SVC, EXT},
            id="source ranges restrict load balancer addresses only",
        ),
    ],
)
def test_which_chains_a_service_port_has(planned: PortPlan, chains: set[str]) -> None:
    nat = ruleset(planned).tables["nat"]
    assert {c for c in nat if c.startswith(("KUBE-SVC", "KUBE-SVL", "KUBE-EXT", "KUBE-FW"))} == (
        chains
    )


@pytest.mark.parametrize(
    ("count", "dice"),
    [
        (1, []),
        (2, ["0.50000000000"]),
        (3, ["0.33333333349", "0.50000000000"]),
        (
            7,
            [
                "0.14285714272",
                "0.16666666651",
                "0.20000000019",
                "0.25000000000",
                "0.33333333349",
                "0.50000000000",
            ],
        ),
    ],
)
def test_the_dice_are_what_the_kernel_keeps_of_kube_proxys(count: int, dice: list[str]) -> None:
    cluster = tuple(f"10.180.0.{i}:80" for i in range(1, count + 1))
    rules = ruleset(port(cluster=cluster)).tables["nat"][SVC][1:]
    assert len(rules) == count
    found = [rule.split("--probability ")[1].split(" ")[0] for rule in rules[:-1]]
    assert found == dice
    assert "--probability" not in rules[-1]


def test_a_frontend_a_collision_took_away_has_no_rule() -> None:
    planned = msgspec.structs.replace(port(cluster=ONE, node_port=30080), cluster_ip="")
    compiled = ruleset(planned)
    nat = compiled.tables["nat"]
    assert "-d" not in " ".join(nat["KUBE-SERVICES"][:-1])
    assert [rule.rpartition(" -j ")[2] for rule in nat[SVC]] == ["KUBE-SEP-SXIVWICOYRO3J4NJ"]


def test_everyone_is_a_source_range_iptables_prints_without_a_match() -> None:
    planned = port(cluster=ONE, load_balancer_ips=("1.2.3.4",), source_ranges=("0.0.0.0/0",))
    first = ruleset(planned).tables["nat"][FW][0]
    assert first == f'-A {FW} -m comment --comment "ns1/svc1:p80 loadbalancer IP" -j {EXT}'


@pytest.mark.parametrize(
    ("detector", "expected"),
    [
        pytest.param(LocalDetector(), None, id="no detector, no masquerade"),
        pytest.param(
            LocalDetector(DetectorKind.CLUSTER_CIDR, "10.244.0.0/16"),
            "! -s 10.244.0.0/16 -d 172.30.0.41/32 -p tcp",
            id="cidr, before the destination",
        ),
        pytest.param(
            LocalDetector(DetectorKind.BRIDGE_INTERFACE, "cbr0"),
            "-d 172.30.0.41/32 ! -i cbr0 -p tcp",
            id="bridge, after the destination",
        ),
        pytest.param(
            LocalDetector(DetectorKind.INTERFACE_PREFIX, "veth"),
            "-d 172.30.0.41/32 ! -i veth+ -p tcp",
            id="prefix",
        ),
        pytest.param(
            LocalDetector(DetectorKind.CLUSTER_CIDR, "0.0.0.0/0"), None, id="everyone is inside"
        ),
    ],
)
def test_who_is_masqueraded_on_the_cluster_ip(
    detector: LocalDetector, expected: str | None
) -> None:
    first = ruleset(port(cluster=ONE), on=view(detector=detector)).tables["nat"][SVC][0]
    if expected is None:
        assert "KUBE-MARK-MASQ" not in first
    else:
        assert first.startswith(f"-A {SVC} {expected} ")
        assert first.endswith(" -j KUBE-MARK-MASQ")


def test_pods_of_everywhere_skip_the_local_policy_without_a_match() -> None:
    everyone = view(detector=LocalDetector(DetectorKind.CLUSTER_CIDR, "0.0.0.0/0"))
    planned = port(cluster=ONE, local=ONE, node_port=30080, external_local=True)
    first = ruleset(planned, on=everyone).tables["nat"][EXT][0]
    assert first == (
        f'-A {EXT} -m comment --comment "pod traffic for ns1/svc1:p80 external destinations"'
        f" -j {SVC}"
    )


@pytest.mark.parametrize(
    ("family", "addresses", "localhost", "expected"),
    [
        pytest.param(Family.IPV4, None, True, [""], id="everywhere, localhost too"),
        pytest.param(Family.IPV4, None, False, ["! -d 127.0.0.0/8"], id="not on localhost"),
        pytest.param(Family.IPV6, None, True, ["! -d ::1/128"], id="never on IPv6's localhost"),
        pytest.param(
            Family.IPV4,
            ("10.0.0.1", "127.0.0.1", "192.0.2.1"),
            False,
            ["-d 10.0.0.1/32", "-d 192.0.2.1/32"],
            id="chosen addresses, loopback left out",
        ),
        pytest.param(Family.IPV4, ("127.0.0.1",), True, ["-d 127.0.0.1/32"], id="chosen loopback"),
        pytest.param(Family.IPV6, ("::1", "fd00::1"), True, ["-d fd00::1/128"], id="ipv6"),
        pytest.param(Family.IPV4, (), False, [], id="none of ours"),
    ],
)
def test_where_node_ports_answer(
    family: Family, addresses: tuple[str, ...] | None, localhost: bool, expected: list[str]
) -> None:
    node = msgspec.structs.replace(
        view(family), node_port_addresses=addresses, localhost_node_ports=localhost
    )
    rules = ruleset(on=node).tables["nat"]["KUBE-SERVICES"]
    matches = [rule.removeprefix("-A KUBE-SERVICES ") for rule in rules]
    assert [match[: match.index("-m comment")].strip() for match in matches] == expected
    assert all(rule.endswith(" -j KUBE-NODEPORTS") for rule in rules)


FOREIGN = ('p80" -j ACCEPT', "p80\n-A INPUT -j ACCEPT", "p80\\", "p80$(id)")


@pytest.mark.parametrize("text", FOREIGN)
def test_foreign_text_does_not_reach_a_rule(text: str) -> None:
    changes: tuple[dict[str, Any], ...] = (
        {"port_name": text},
        {"cluster_ip": text},
        {"cluster": (Backend(text, 80),)},
        {"external_ips": (text,)},
        {"load_balancer_ips": (text,)},
        {"source_ranges": (text,)},
        {"node_port": text},
        {"health_check_node_port": text},
        {"port": text},
        {"affinity_seconds": text},
    )
    good = port(cluster=ONE, load_balancer_ips=("1.2.3.4",), source_ranges=("10.0.0.0/8",))
    ruleset(good)
    for change in changes:
        bad = msgspec.structs.replace(good, **change)
        # Wherever it stands in a batch, and though everything else was let through before.
        for ports in ((bad,), (good, bad), (bad, good)):
            with pytest.raises(AssertionError, match="must not reach a rule"):
                ruleset(*ports)


def test_ports_come_out_alike_whatever_they_are_rendered_with() -> None:
    ports = tuple(
        port(f"ns1/svc{i}", f"172.30.{i >> 8}.{i & 255}", cluster=ONE if i % 3 else ())
        for i in range(600)
    )
    together = list(compile_ports(ports, view(), environment()))
    assert together == [next(compile_ports((p,), view(), environment())) for p in ports]


def test_a_plan_that_leads_nowhere_is_a_bug() -> None:
    with pytest.raises(AssertionError, match=f"no chain {SVC}"):
        ruleset(port(has_endpoints=True), on=view(detector=LocalDetector()))
