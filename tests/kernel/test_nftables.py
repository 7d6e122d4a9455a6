"""The nftables mode against a real kernel: what is written is what is there, and nothing else."""

from __future__ import annotations

import errno
import random
import socket
from contextlib import ExitStack

import msgspec
import pytest

from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink.socket import NfnetlinkSocket
from netplane.apply.nftables.mode import NftablesDataplane
from netplane.core.model.address import Family
from netplane.core.model.service import Protocol
from netplane.core.nftables.compile import compile_family
from netplane.core.nftables.diff import diff
from netplane.core.nftables.observed import Observed
from netplane.core.nftables.parse import parse_table
from netplane.core.nftables.program import ROOM
from netplane.core.plan.changes import Action
from netplane.core.plan.plan import FamilyPlan, Plan
from netplane.core.plan.status import FrontendStatus
from netplane.errors import RefusedError, StaleError
from netplane.rendering import environment
from tests.support.netns import ip, run_tool
from tests.support.port_plans import (
    backends,
    dual,
    plan,
    port,
    random_plan,
    translated,
    view,
)

pytestmark = pytest.mark.kernel

_WORDS = {Family.IPV4: "ip", Family.IPV6: "ip6"}
_MANY = backends("10.244.1.1", "10.244.2.1", "10.244.2.2")
_EVERY_CASE = (
    port("cluster", 1, cluster=_MANY, here=_MANY[:1]),
    port("external", 2, cluster=_MANY, external_ips=("198.51.100.2",), node_port=30002),
    port(
        "local",
        3,
        cluster=_MANY,
        local=_MANY[:1],
        here=_MANY[:1],
        external_local=True,
        load_balancer_ips=("198.51.100.3",),
        node_port=30003,
        source_ranges=("203.0.113.0/25", "203.0.113.128/25", "203.0.113.7/32"),
        vips_may_enter=True,
    ),
    port("empty", 4, node_port=30004, load_balancer_ips=("198.51.100.4",)),
    port("remote", 5, internal_local=True, has_endpoints=True, protocol=Protocol.SCTP),
    port(
        "sticky",
        6,
        cluster=_MANY,
        local=_MANY[:1],
        external_local=True,
        load_balancer_ips=("198.51.100.6",),
        node_port=30006,
        affinity_seconds=5000,
        protocol=Protocol.UDP,
    ),
    port("sticky-cluster", 7, cluster=_MANY, node_port=30007, affinity_seconds=10800),
)


def nft(netns: Namespace, *arguments: str, stdin: str = "") -> str:
    return run_tool(["nft", *arguments], stdin=stdin, inside=netns)


def observe(netns: Namespace, family: Family) -> Observed:
    return parse_table(nft(netns, "list", "table", _WORDS[family], "netplane"), family)


def generation(netns: Namespace) -> int:
    with NfnetlinkSocket(netns) as link:
        return link.generation()


def apply(netns: Namespace, wanted: Plan) -> None:
    NftablesDataplane(netns).prepare(wanted).commit()


def assert_in_place(netns: Namespace, wanted: Plan, *, besides: tuple[str, ...] = ()) -> None:
    for family in wanted.families:
        desired = compile_family(family, environment())
        delta = diff(desired, observe(netns, family.family))
        left = {name: d for name, d in delta.elements.items() if name not in besides}
        assert not msgspec.structs.replace(delta, elements=left), delta


def as_sets(observed: Observed) -> Observed:
    """The table with each frontend's backends in one order, and without counters."""
    elements = {
        name: {k: tuple(sorted(v)) if type(v) is tuple else v for k, v in entries.items()}
        for name, entries in observed.elements.items()
    }
    return msgspec.structs.replace(observed, elements=elements, counters={})


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, id="default"),
        pytest.param({"node_port_addresses": None}, id="every-local-address"),
        pytest.param({"masquerade_all": True, "masquerade_mark": 1 << 31}, id="masquerade-all"),
        pytest.param({"service_cidrs": ()}, id="unknown-service-networks"),
    ],
)
def test_what_is_rendered_loads_lists_and_reloads(
    netns: Namespace, fields: dict[str, object]
) -> None:
    wanted = dual(_EVERY_CASE, **fields)
    text = NftablesDataplane(netns).render(wanted)
    nft(netns, "-f", "-", stdin=text)
    assert_in_place(netns, wanted)
    listed = nft(netns, "list", "ruleset")
    nft(netns, "-f", "-", stdin=f"flush ruleset\n{listed}")
    assert nft(netns, "list", "ruleset") == listed
    nft(netns, "-f", "-", stdin=text)
    assert_in_place(netns, wanted)


@pytest.mark.parametrize(("kind", "value"), [("bridge", "cbr0"), ("prefix", "veth"), ("none", "")])
def test_every_detector_is_listed_as_written(netns: Namespace, kind: str, value: str) -> None:
    detector = {"kind": kind, "value": value}
    chosen = msgspec.convert({**msgspec.to_builtins(view()), "detector": detector}, type(view()))
    wanted = plan(FamilyPlan(view=chosen, ports=_EVERY_CASE))
    apply(netns, wanted)
    assert_in_place(netns, wanted)


def test_a_second_apply_writes_nothing(netns: Namespace) -> None:
    wanted = dual(_EVERY_CASE)
    first = NftablesDataplane(netns).prepare(wanted)
    assert first.changes
    first.commit()
    before = generation(netns)
    second = NftablesDataplane(netns).prepare(wanted)
    assert not second.changes
    second.commit()
    assert generation(netns) == before


@pytest.mark.parametrize(
    ("seed", "postpone"), [*((seed, False) for seed in range(8)), (8, True), (9, True)]
)
def test_from_a_to_b_is_b_from_nothing(netns: Namespace, seed: int, *, postpone: bool) -> None:
    rng = random.Random(seed)
    wanted = plan()
    for _ in range(4):
        step = random_plan(rng)
        v6 = FamilyPlan(view=view(Family.IPV6), ports=tuple(map(translated, step.ports)))
        wanted = plan(step, v6)
        NftablesDataplane(netns, postpone=postpone).prepare(wanted).commit()
        assert_in_place(netns, wanted)
        assert not NftablesDataplane(netns).prepare(wanted).changes
        assert NftablesDataplane(netns).status().drift == ()
    reached = [as_sets(observe(netns, family)) for family in Family]
    NftablesDataplane(netns).cleanup()
    apply(netns, wanted)
    assert reached == [as_sets(observe(netns, family)) for family in Family]


def test_a_new_count_of_endpoints_balances_every_protocol(netns: Namespace) -> None:
    """nft itself would add this pick chain for TCP alone; see core.nftables.stages."""
    many = backends(*(f"10.244.3.{i}" for i in range(1, ROOM + 3)))
    apply(netns, dual([port("web", 1, cluster=many[:-1])]))
    grown = dual([port("web", 1, cluster=many)])
    apply(netns, grown)
    pick = f"pick-{ROOM + 2}"
    for family in Family:
        chains = observe(netns, family).chains
        assert f"pick-{ROOM + 1}" not in chains
        word = _WORDS[family]
        key = f"{word} daddr . meta l4proto . th dport . numgen random mod {ROOM + 2}"
        assert chains[pick] == (f"dnat {word} to {key} map @endpoints",)
    added = nft(netns, "--debug=netlink", "list", "chain", "ip", "netplane", pick)
    NftablesDataplane(netns).cleanup()
    apply(netns, grown)
    anew = nft(netns, "--debug=netlink", "list", "chain", "ip", "netplane", pick)
    assert _instructions(added) == _instructions(anew)


def test_connections_are_counted_per_frontend_and_endpoint(netns: Namespace) -> None:
    """Sent to UDP endpoints of this node, through a pick chain that netlink added."""
    assert netns.name is not None
    lines = ["route add 172.30.0.0/16 dev lo"]
    lines += [f"addr add {b.address}/32 dev lo" for b in _MANY]
    ip("-n", netns.name, batch=lines)
    dns = port("dns", 1, protocol=Protocol.UDP, cluster=_MANY[:1])
    apply(netns, plan(FamilyPlan(view=view(), ports=(dns,))))
    dns = msgspec.structs.replace(dns, cluster=_MANY)
    apply(netns, plan(FamilyPlan(view=view(), ports=(dns,))))
    netns.call(lambda: _send_from_new_sockets(60, ("172.30.0.1", 80)))
    (frontend,) = NftablesDataplane(netns).status().frontends
    assert frontend.connections == 60
    counts = [endpoint.connections or 0 for endpoint in frontend.endpoints]
    assert len(counts) == 3
    assert sum(counts) == 60
    assert min(counts) > 0


def test_what_was_counted_survives_a_move(netns: Namespace) -> None:
    """An endpoint that changes its slot and a frontend that changes its chain go on counting."""
    assert netns.name is not None
    lines = ["route add 172.30.0.0/16 dev lo"]
    lines += [f"addr add {b.address}/32 dev lo" for b in _MANY]
    ip("-n", netns.name, batch=lines)
    dns = port("dns", 1, protocol=Protocol.UDP, cluster=_MANY, node_port=30001)
    apply(netns, plan(FamilyPlan(view=view(), ports=(dns,))))
    netns.call(lambda: _send_from_new_sockets(60, ("172.30.0.1", 80)))
    before = {e.address: e.connections for e in _cluster_ip(netns).endpoints}
    for cluster in (_MANY[1:], _MANY[1:] + _MANY[:1]):
        fewer = msgspec.structs.replace(dns, cluster=cluster)
        apply(netns, plan(FamilyPlan(view=view(), ports=(fewer,))))
        frontend = _cluster_ip(netns)
        assert frontend.connections == 60
        counted = {e.address: e.connections for e in frontend.endpoints}
        for backend in _MANY[1:]:
            assert counted[backend.address] == before[backend.address]
        assert len(counted) == len(cluster)


def _cluster_ip(netns: Namespace) -> FrontendStatus:
    found = NftablesDataplane(netns).status().frontends
    return next(frontend for frontend in found if frontend.kind == "ClusterIP")


def _send_from_new_sockets(count: int, destination: tuple[str, int]) -> None:
    with ExitStack() as held:  # all at once: a port that is used again is no new connection
        for _ in range(count):
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            held.enter_context(sender).sendto(b"x", destination)


def _instructions(listing: str) -> list[str]:
    return [line for line in listing.splitlines() if line.startswith("  [ ")]


@pytest.mark.parametrize(
    "edit",
    [
        "add rule ip netplane balance counter accept",
        "flush chain ip netplane source-ranges",
        "delete chain ip netplane filter-input",
        "insert rule ip netplane pick-3 accept",
        "flush chain ip netplane pick-3",
        "add chain ip netplane own { type filter hook input priority 5; }",
        "add set ip netplane own { type ipv4_addr; }",
        "add counter ip netplane own",
        "delete element ip netplane services { 172.30.0.1 . tcp . 80 }",
        "delete element ip netplane endpoints { 172.30.0.1 . tcp . 80 . 1 }",
        "add element ip netplane endpoints { 172.30.0.1 . tcp . 80 . 7 : 10.9.9.9 . 1 }",
        "add element ip netplane services { 1.2.3.4 . udp . 80 : jump refuse }",
        "add element ip netplane services { 1.2.3.4 . icmp . 80 : accept }",
        'add element ip netplane nodeports { tcp . 31000 comment "a } : b, c" : drop }',
        "add element ip netplane allowed-sources { 1.2.3.4 . tcp . 80 . 1.0.0.1-1.0.0.3 }",
        "flush set ip netplane cluster-ips",
        "delete table ip netplane; add table ip netplane",
        "delete table ip netplane",
        "delete table ip6 netplane",
    ],
)
def test_an_edit_by_hand_is_found_and_repaired(netns: Namespace, edit: str) -> None:
    wanted = dual(_EVERY_CASE)
    apply(netns, wanted)
    nft(netns, "-f", "-", stdin=edit + "\n")
    update = NftablesDataplane(netns).prepare(wanted)
    assert update.changes
    update.commit()
    assert_in_place(netns, wanted)


@pytest.mark.parametrize(
    "edit",
    [
        "add rule ip netplane balance counter accept",
        "add chain ip netplane own { type filter hook input priority 5; }",
        "flush chain ip netplane pick-3",
        "add counter ip netplane own",
        "delete element ip netplane endpoints { 172.30.0.1 . tcp . 80 . 1 }",
        "delete element ip netplane endpoints { 172.30.0.1 . tcp . 80 . 2 }",
        "add element ip netplane services { 1.2.3.4 . icmp . 80 : accept }",
    ],
)
def test_status_alone_tells_drift(netns: Namespace, edit: str) -> None:
    apply(netns, dual(_EVERY_CASE))
    assert NftablesDataplane(netns).status().drift == ()
    nft(netns, "-f", "-", stdin=edit + "\n")
    assert NftablesDataplane(netns).status().drift


def test_a_new_configuration_keeps_elements_and_affinity(netns: Namespace) -> None:
    apply(netns, dual(_EVERY_CASE))
    apply(netns, dual([*_EVERY_CASE, port("later", 9, cluster=_MANY[:2])]))
    sets = [n for n in observe(netns, Family.IPV4).affinity_sets if n.endswith("-10.244.1.1-8080")]
    for name in sets:
        nft(netns, "add", "element", "ip", "netplane", name, "{ 203.0.113.9 timeout 1h }")
    handle = _handles(netns, "services")
    changed = dual([*_EVERY_CASE, port("later", 9, cluster=_MANY)], masquerade_all=True)
    apply(netns, changed)
    assert_in_place(netns, changed)
    assert _handles(netns, "services") == handle
    for name in sets:
        assert "203.0.113.9" in nft(netns, "list", "set", "ip", "netplane", name)


def _handles(netns: Namespace, name: str) -> str:
    listed = nft(netns, "-a", "list", "map", "ip", "netplane", name)
    return next(line for line in listed.splitlines() if f"map {name}" in line)


@pytest.mark.parametrize("seconds", [1, 59, 61, 90061])
def test_a_new_affinity_timeout_keeps_the_clients(netns: Namespace, seconds: int) -> None:
    before = port("sticky", 1, cluster=_MANY, affinity_seconds=60)
    apply(netns, dual([before]))
    sets = observe(netns, Family.IPV4).affinity_sets
    for name in sets:
        nft(netns, "add", "element", "ip", "netplane", name, "{ 203.0.113.9 timeout 1h }")
    after = dual([msgspec.structs.replace(before, affinity_seconds=seconds)])
    apply(netns, after)
    assert_in_place(netns, after)
    for name in sets:
        assert "203.0.113.9" in nft(netns, "list", "set", "ip", "netplane", name)


def test_sets_of_clients_with_a_timeout_of_their_own_are_taken_over(netns: Namespace) -> None:
    """Earlier versions gave the time to the set."""
    wanted = dual([port("sticky", 1, cluster=_MANY, affinity_seconds=60)])
    text = NftablesDataplane(netns).render(wanted)
    flags = "flags dynamic,timeout"
    assert flags in text
    nft(netns, "-f", "-", stdin=text.replace(flags, f"{flags}\n\t\ttimeout 60s"))
    assert_in_place(netns, wanted)


def test_one_endpoint_replaced_is_two_operations_in_one_slot(netns: Namespace) -> None:
    old = port("web", 1, cluster=_MANY)
    apply(netns, dual([old]))
    new = backends("10.244.1.1", "10.244.2.1", "10.244.2.9")
    update = NftablesDataplane(netns).prepare(dual([msgspec.structs.replace(old, cluster=new)]))
    change = update.changes.services[0]
    assert (change.label, change.family, change.action) == (
        "default/web:http",
        "IPv4",
        Action.CHANGED,
    )
    assert change.endpoints_added == ("10.244.2.9:8080",)
    assert change.endpoints_removed == ("10.244.2.2:8080",)
    assert change.rules == (
        "- endpoints { 172.30.0.1 . tcp . 80 . 2 }",
        "+ endpoints { 172.30.0.1 . tcp . 80 . 2 : 10.244.2.9 . 8080 }",
    )
    assert update.changes.base == ()


def test_writing_onto_a_ruleset_that_moved_on_is_refused(netns: Namespace) -> None:
    dataplane = NftablesDataplane(netns)
    created = dataplane.prepare(dual(_EVERY_CASE))
    nft(netns, "add", "table", "ip", "foreign")
    with pytest.raises(StaleError):
        created.commit()
    apply(netns, dual(_EVERY_CASE))
    changed = dataplane.prepare(dual(_EVERY_CASE[:1]))
    nft(netns, "add", "table", "ip", "other")
    before = generation(netns)
    with pytest.raises(StaleError):
        changed.commit()
    assert generation(netns) == before


def test_foreign_tables_are_not_touched(netns: Namespace) -> None:
    foreign = """
table inet firewalld {
    set allowed { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 } }
    chain input { type filter hook input priority 10; ip saddr @allowed counter accept; }
}
table ip nat {
    chain DOCKER { counter return; }
    chain PREROUTING { type nat hook prerouting priority dstnat; jump DOCKER; }
}
table ip6 netplane-of-somebody {
    chain netplane { accept; }
}
"""
    nft(netns, "-f", "-", stdin=foreign)
    before = nft(netns, "-a", "list", "ruleset")
    apply(netns, dual(_EVERY_CASE))
    apply(netns, dual(_EVERY_CASE[2:]))
    assert NftablesDataplane(netns).cleanup() == ("table ip netplane", "table ip6 netplane")
    assert nft(netns, "-a", "list", "ruleset") == before
    assert NftablesDataplane(netns).cleanup() == ()


def test_status_of_nothing(netns: Namespace) -> None:
    status = NftablesDataplane(netns).status()
    assert (status.installed, status.frontends, status.drift) == (False, (), ())


def test_a_refused_line_is_named_and_nothing_is_written(netns: Namespace) -> None:
    apply(netns, dual(_EVERY_CASE))
    nft(netns, "add counter ip netplane own")  # a table that can only be replaced
    wrong = port("web", 1, cluster=backends("10.244.1.1", "fd00:244::1"))
    before = generation(netns)
    with pytest.raises(RefusedError) as caught:
        apply(netns, plan(FamilyPlan(view=view(), ports=(wrong,))))
    assert "172.30.0.1 . tcp . 80 . 1 : fd00:244::1 . 8080" in str(caught.value)
    assert caught.value.line > 0
    assert generation(netns) == before


@pytest.mark.parametrize("present", [False, True])
def test_a_refused_element_loses_no_other(netns: Namespace, *, present: bool) -> None:
    if present:
        apply(netns, dual(_EVERY_CASE))
    broken = port("broken", 99, has_endpoints=True)  # leads to pick-0, which cannot be
    with pytest.raises(RefusedError, match="default/broken:http") as caught:
        apply(netns, dual([*_EVERY_CASE, broken]))
    assert caught.value.errno == errno.ENOENT
    assert_in_place(netns, dual(_EVERY_CASE), besides=("cluster-ips",))
    # It is tried again and refused again; what is recorded does not hide that.
    with pytest.raises(RefusedError, match="default/broken:http"):
        apply(netns, dual([*_EVERY_CASE, broken]))


def test_hostile_text_in_a_hand_edit_reaches_nobody_raw(netns: Namespace) -> None:
    apply(netns, dual(_EVERY_CASE))
    edit = """
add rule ip netplane balance return comment "\x1b[31mred"
add element ip netplane services { 1.2.3.4 . tcp . 80 comment "\x1b]0;x\x07" : drop }
add chain ip netplane stray
add rule ip netplane stray return comment "\x1b[2J"
"""
    nft(netns, "-f", "-", stdin=edit)
    update = NftablesDataplane(netns).prepare(dual(_EVERY_CASE))
    lines = [*update.changes.base, *(r for s in update.changes.services for r in s.rules)]
    lines += [s.label for s in update.changes.services]
    lines += [f.label for f in NftablesDataplane(netns).status().frontends]
    assert any("[31mred" in line for line in lines)
    assert all(line.isprintable() for line in lines)
    update.commit()
    assert_in_place(netns, dual(_EVERY_CASE))
