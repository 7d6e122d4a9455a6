"""Which elements a service port is, traffic case by traffic case."""

from __future__ import annotations

import random
import re

import pytest

from netplane.core.model.address import Family
from netplane.core.model.service import Protocol, ServiceName
from netplane.core.nftables.compile import allowed_ranges, compile_family, elements_of
from netplane.core.nftables.layout import SETS, Key, Keys, Value, Values, Verdict
from netplane.core.nftables.listing import read_listing
from netplane.core.nftables.program import Pick, with_room
from netplane.core.plan.plan import FamilyPlan
from netplane.core.plan.port import PortPlan
from netplane.rendering import environment
from tests.support.port_plans import backends, plan, port, random_plan, translated, view

ALL = backends("10.244.1.1", "10.244.2.1", "10.244.2.2")
HERE = ALL[:1]
TCP, UDP = 6, 17
LABEL = "default/web:http"


def told(plan: PortPlan) -> dict[tuple[str, Key], Value]:
    elements = elements_of(plan, view())
    assert len({(name, key) for name, key, _ in elements}) == len(elements)
    return {(name, key): value for name, key, value in elements}


CLUSTER_IP: Key = ("172.30.0.1", TCP, 80)
VIP: Key = ("198.51.100.1", TCP, 80)
NODE_PORT: Key = (TCP, 30080)


@pytest.mark.parametrize(
    ("plan", "elements"),
    [
        pytest.param(
            port("web", cluster=ALL),
            {
                ("cluster-ips", ("172.30.0.1",)): None,
                ("endpoints", CLUSTER_IP): ALL,
                ("services", CLUSTER_IP): Verdict("pick-3", LABEL),
            },
            id="cluster-ip",
        ),
        pytest.param(
            port("web", cluster=ALL, here=HERE),
            {
                ("hairpin", ("10.244.1.1", "10.244.1.1", TCP, 8080)): None,
                ("cluster-ips", ("172.30.0.1",)): None,
                ("endpoints", CLUSTER_IP): ALL,
                ("services", CLUSTER_IP): Verdict("pick-3", LABEL),
            },
            id="hairpin",
        ),
        pytest.param(
            port("web", local=HERE, internal_local=True),
            {
                ("cluster-ips", ("172.30.0.1",)): None,
                ("endpoints", CLUSTER_IP): HERE,
                ("services", CLUSTER_IP): Verdict("pick-1", LABEL),
            },
            id="internal-local",
        ),
        pytest.param(
            port("web", internal_local=True, has_endpoints=True),
            {
                ("cluster-ips", ("172.30.0.1",)): None,
                ("no-endpoints", CLUSTER_IP): Verdict("drop", LABEL),
            },
            id="internal-local-elsewhere-only",
        ),
        pytest.param(
            port("web", node_port=30080, external_ips=("198.51.100.1",)),
            {
                ("cluster-ips", ("172.30.0.1",)): None,
                ("no-endpoints", CLUSTER_IP): Verdict("refuse", LABEL),
                ("no-endpoints", VIP): Verdict("refuse", LABEL),
                ("no-endpoint-nodeports", NODE_PORT): Verdict("refuse", LABEL),
            },
            id="no-endpoints",
        ),
        pytest.param(
            port("web", cluster_ip="", cluster=ALL, node_port=30080),
            {
                ("nodeport-endpoints", NODE_PORT): ALL,
                ("nodeports", NODE_PORT): Verdict("nodeport-masquerade-pick-3", LABEL),
            },
            id="nodeport-whose-cluster-ip-was-lost",
        ),
        pytest.param(
            port("web", cluster_ip="", cluster=ALL, external_ips=("198.51.100.1",)),
            {
                ("endpoints", VIP): ALL,
                ("services", VIP): Verdict("masquerade-pick-3", LABEL),
            },
            id="external-cluster-policy",
        ),
        pytest.param(
            port(
                "web",
                cluster_ip="",
                cluster=ALL,
                external_ips=("198.51.100.1",),
                load_balancer_ips=("198.51.100.1",),
            ),
            {
                ("endpoints", VIP): ALL,
                ("services", VIP): Verdict("masquerade-pick-3", LABEL),
            },
            id="one-address-twice",
        ),
        pytest.param(
            port(
                "web",
                cluster_ip="",
                cluster=ALL,
                local=HERE,
                external_local=True,
                load_balancer_ips=("198.51.100.1",),
                node_port=30080,
            ),
            {
                ("endpoints", VIP): ALL,
                ("cluster-choice", VIP): Verdict("pick-3"),
                ("local-endpoints", VIP): HERE,
                ("local-choice", VIP): Verdict("local-pick-1"),
                ("services", VIP): Verdict("external-local", LABEL),
                ("nodeport-endpoints", NODE_PORT): ALL,
                ("nodeport-cluster-choice", NODE_PORT): Verdict("nodeport-pick-3"),
                ("nodeport-local-endpoints", NODE_PORT): HERE,
                ("nodeport-local-choice", NODE_PORT): Verdict("nodeport-local-pick-1"),
                ("nodeports", NODE_PORT): Verdict("nodeport-external-local", LABEL),
            },
            id="external-local-policy",
        ),
        pytest.param(
            port(
                "web",
                cluster_ip="",
                cluster=ALL,
                external_local=True,
                load_balancer_ips=("198.51.100.1",),
            ),
            {
                ("endpoints", VIP): ALL,
                ("cluster-choice", VIP): Verdict("pick-3"),
                ("services", VIP): Verdict("external-local", LABEL),
                ("no-endpoints", VIP): Verdict("drop", LABEL),
            },
            id="external-local-policy-elsewhere-only",
        ),
        pytest.param(
            port(
                "web",
                cluster_ip="",
                load_balancer_ips=("198.51.100.1",),
                source_ranges=("203.0.113.0/24",),
            ),
            {
                ("allowed-sources", (*VIP, "203.0.113.0/24")): None,
                ("restricted", VIP): None,
                ("no-endpoints", VIP): Verdict("refuse", LABEL),
            },
            id="source-ranges-without-endpoints",
        ),
        pytest.param(
            port(
                "web",
                cluster_ip="",
                load_balancer_ips=("198.51.100.1",),
                source_ranges=("203.0.113.0/24", "0.0.0.0/0"),
            ),
            {("no-endpoints", VIP): Verdict("refuse", LABEL)},
            id="source-ranges-that-hold-everybody",
        ),
        pytest.param(
            port(
                "web", cluster_ip="", external_ips=("198.51.100.1",), source_ranges=("1.0.0.0/8",)
            ),
            {("no-endpoints", VIP): Verdict("refuse", LABEL)},
            id="external-ips-know-no-source-ranges",
        ),
    ],
)
def test_elements(plan: PortPlan, elements: dict[tuple[str, Key], Value]) -> None:
    assert told(plan) == elements


def test_session_affinity_puts_sticky_chains_in_the_place_of_picks() -> None:
    elements = told(
        port(
            "web",
            cluster=ALL,
            local=HERE,
            external_local=True,
            load_balancer_ips=("198.51.100.1",),
            node_port=30080,
            affinity_seconds=60,
        )
    )
    verdicts = {k: v.chain for k, v in elements.items() if isinstance(v, Verdict)}
    sticky = verdicts[("services", CLUSTER_IP)]
    assert re.fullmatch(r"sticky-[a-z2-7]{16}-default/web", sticky)
    assert verdicts == {
        ("services", CLUSTER_IP): sticky,
        ("cluster-choice", VIP): sticky,
        ("local-choice", VIP): f"local-{sticky}",
        ("services", VIP): "external-local",
        ("nodeport-cluster-choice", NODE_PORT): sticky,
        ("nodeport-local-choice", NODE_PORT): f"local-{sticky}",
        ("nodeports", NODE_PORT): "nodeport-external-local",
    }
    assert not [name for name, _ in elements if name.endswith("endpoints")]


def test_data_comes_before_the_verdict_that_makes_it_reachable() -> None:
    case = port("web", cluster=ALL, local=HERE, external_local=True, node_port=30080)
    seen: set[tuple[str, Key]] = set()
    for name, key, value in elements_of(case, view()):
        pick = Pick.parse(value.chain) if isinstance(value, Verdict) else None
        assert pick is None or (pick.map, key) in seen
        seen.add((name, key))
    assert ("nodeports", NODE_PORT) in seen


def test_comments_fit_the_kernel() -> None:
    service = ServiceName("n" * 63, "s" * 63)
    (verdict,) = (
        value
        for value in told(
            port("web", service=service, cluster=ALL, protocol=Protocol.UDP)
        ).values()
        if isinstance(value, Verdict)
    )
    assert len(verdict.comment) == 127


@pytest.mark.parametrize(
    ("networks", "collapsed"),
    [
        pytest.param(("10.0.0.0/8", "10.1.0.0/16"), ("10.0.0.0/8",), id="nested"),
        pytest.param(("10.0.0.0/25", "10.0.0.128/25"), ("10.0.0.0/24",), id="adjacent"),
        pytest.param(("10.0.0.1", "10.0.0.2/32"), ("10.0.0.1/32", "10.0.0.2/32"), id="hosts"),
        pytest.param(("0.0.0.0/1", "128.0.0.0/1"), (), id="everybody-in-halves"),
        pytest.param(("::/0",), (), id="everybody"),
        pytest.param(("fd00::/8", "fd00::1/128"), ("fd00::/8",), id="ipv6"),
    ],
)
def test_allowed_ranges(networks: tuple[str, ...], collapsed: tuple[str, ...]) -> None:
    assert allowed_ranges(networks) == collapsed


def test_node_port_addresses_are_elements_and_not_program() -> None:
    one = compile_family(FamilyPlan(view=view(), ports=()), environment())
    two = compile_family(
        FamilyPlan(view=view(node_port_addresses=("192.168.0.5", "192.168.0.6")), ports=()),
        environment(),
    )
    assert one.program == two.program
    assert two.elements["nodeport-ips"] == {("192.168.0.5",): None, ("192.168.0.6",): None}


def test_the_program_declares_the_layout() -> None:
    keys = {
        Keys.FRONTEND: "ipv4_addr . inet_proto . inet_service",
        Keys.PORT: "inet_proto . inet_service",
        Keys.ADDRESS: "ipv4_addr",
        Keys.FLOW: "ipv4_addr . ipv4_addr . inet_proto . inet_service",
        Keys.SOURCE: "ipv4_addr . inet_proto . inet_service . ipv4_addr",
    }
    slots = {
        Keys.FRONTEND: "ip daddr . meta l4proto . th dport",
        Keys.PORT: "meta l4proto . th dport",
    }
    declared = read_listing(
        compile_family(FamilyPlan(view=view(), ports=()), environment()).program
    ).sets
    wanted = {}
    for layout in SETS:
        lines = ["map", f"type {keys[layout.keys]} : verdict"]
        if layout.values is Values.NONE:
            lines = ["set", f"type {keys[layout.keys]}"]
        elif layout.values is Values.SLOTS:
            slot = f"{slots[layout.keys]} . numgen random mod 65536"
            lines = ["map", f"typeof {slot} : ip daddr . th dport"]
        lines += ["flags interval"] if layout.interval else []
        lines += ["counter"] if layout.counter else []
        wanted[layout.name] = tuple(lines)
    assert declared == wanted
    assert list(declared) == [layout.name for layout in SETS]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("family", Family)
def test_every_target_exists_and_every_slot_is_filled(seed: int, family: Family) -> None:
    drawn = random_plan(random.Random(seed))
    if family is Family.IPV6:
        ports = tuple(map(translated, drawn.ports))
        drawn = FamilyPlan(view=view(Family.IPV6), ports=ports)
    ruleset = compile_family(drawn, environment())
    chains = {**read_listing(ruleset.program).chains, **ruleset.chains}
    for rules in chains.values():
        for rule in rules:
            assert set(re.findall(r"(?:goto|jump) ([^ ,}]+)", rule)) <= chains.keys()
            for name in re.findall(r"@([^ ]+)", rule):
                assert name in ruleset.elements or name in ruleset.affinity_sets
    led = set()
    for entries in ruleset.elements.values():
        for key, value in entries.items():
            if isinstance(value, Verdict):
                assert value.chain == "drop" or value.chain in chains
                led.add(value.chain)
                pick = Pick.parse(value.chain)
                if pick is not None:
                    backends_of = ruleset.elements[pick.map][key]
                    assert backends_of is not None
                    assert len(backends_of) == pick.endpoints
    assert {name for name in ruleset.chains if Pick.parse(name)} <= with_room(led)
    assert all(len(name) <= 200 for name in (*chains, *ruleset.affinity_sets))


@pytest.mark.parametrize("seed", range(5))
def test_equal_plans_compile_to_equal_rulesets(seed: int) -> None:
    drawn = random_plan(random.Random(seed))
    backwards = FamilyPlan(view=drawn.view, ports=drawn.ports[::-1])
    assert compile_family(drawn, environment()) == compile_family(backwards, environment())
    assert plan(drawn).families == (drawn,)
