"""What both modes' engines promise: the same calls, the same answers, on a real kernel."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from netplane.apply.dataplane import Dataplane
from netplane.apply.engine import Engine
from netplane.apply.iptables.engine import IptablesEngine
from netplane.apply.iptables.mode import IptablesDataplane
from netplane.apply.iptables.programs import Variant
from netplane.apply.netns import Namespace
from netplane.apply.nftables.engine import NftablesEngine
from netplane.apply.nftables.mode import NftablesDataplane
from netplane.core.model.address import Family
from netplane.core.plan.node import DetectorKind, FamilyView, LocalDetector, NodeView
from tests.support.manifests import endpoint, endpoint_slice, service
from tests.support.netns import run_tool
from tests.support.snapshots import name, slices, snapshot_of, web

pytestmark = pytest.mark.kernel

NODE = NodeView(
    name="node-1",
    families=tuple(FamilyView(family=family) for family in Family),
)
MODES = ("nftables", *(f"iptables-{variant.value}" for variant in Variant))


def new_engine(mode: str, netns: Namespace) -> Engine:
    """A running engine of a mode, as the agent has it."""
    if mode == "nftables":
        return NftablesEngine(netns, NODE)
    return IptablesEngine(netns, NODE, variant=_variant(mode), lock_wait=60)


def _variant(mode: str) -> Variant:
    return Variant(mode.removeprefix("iptables-"))


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def engine(netns: Namespace, mode: str) -> Iterator[Engine]:
    with new_engine(mode, netns) as opened:
        yield opened


@pytest.fixture
def fresh(netns: Namespace, mode: str) -> Dataplane:
    """The same mode as ``netplane apply`` uses it: it remembers nothing."""
    if mode == "nftables":
        return NftablesDataplane(netns)
    return IptablesDataplane(netns, variant=_variant(mode), lock_wait=60)


def test_a_change_is_in_the_kernel_without_another_look(engine: Engine, fresh: Dataplane) -> None:
    assert engine.sync(snapshot_of(*web(3))).observed
    applied = engine.change({}, slices("web-1", "10.244.1.2", "10.9.9.9"))
    assert not applied.observed
    assert [planned.service for planned in applied.replanned] == [name(1)]
    (change,) = applied.changes.services
    assert change.label == "default/web-1:http"
    assert change.endpoints_added == ("10.9.9.9:8080",)
    assert not fresh.prepare(engine.planner.plan()).changes
    assert not engine.change({name(9): None}, {}).changes


def test_what_is_there_is_adopted(netns: Namespace, mode: str, fresh: Dataplane) -> None:
    wanted = snapshot_of(*web(3))
    with new_engine(mode, netns) as first:
        assert first.sync(wanted).changes
    with new_engine(mode, netns) as second:
        applied = second.sync(wanted)
        assert not applied.changes
        assert len(applied.replanned) == 3
        assert not second.change({}, slices("web-1", "10.9.9.9")).observed
        assert not fresh.prepare(second.planner.plan()).changes


def test_a_look_finds_nothing_where_nothing_happened(engine: Engine) -> None:
    engine.sync(snapshot_of(*web(3)))
    assert not engine.verify().changes
    engine.change({}, slices("web-1", "10.9.9.9"))
    assert not engine.verify().changes


EDITS = {
    "nftables": "nft delete element ip netplane services { 172.30.0.2 . tcp . 80 }",
    "iptables-nft": "iptables-nft -w 60 -t nat -D KUBE-SERVICES 2",
    "iptables-legacy": "iptables-legacy -w 60 -t nat -D KUBE-SERVICES 2",
}


def test_a_look_mends_what_somebody_has_damaged(
    netns: Namespace, mode: str, engine: Engine, fresh: Dataplane
) -> None:
    engine.sync(snapshot_of(*web(3)))
    run_tool(EDITS[mode].split(), inside=netns)
    applied = engine.verify()
    assert applied.observed
    assert applied.mended == {Family.IPV4}
    assert applied.replanned == ()
    (change,) = applied.changes.services
    assert change.label == "default/web-1:http"
    assert not fresh.prepare(engine.planner.plan()).changes
    assert not engine.verify().changes
    assert not engine.change({}, slices("web-1", "10.9.9.9")).observed


FLUSHES = {
    "nftables": "nft flush map ip netplane endpoints",
    "iptables-nft": "iptables-nft -w 60 -t nat -F",
    "iptables-legacy": "iptables-legacy -w 60 -t nat -F",
}
DELETIONS = {
    "iptables-nft": "iptables-nft -w 60 -t nat -X",
    "iptables-legacy": "iptables-legacy -w 60 -t nat -X",
}


def test_a_change_that_comes_upon_damage_mends_it_and_says_so(
    netns: Namespace, mode: str, engine: Engine, fresh: Dataplane
) -> None:
    """In iptables mode a change meets damage where chains are gone; a flush is for a look."""
    engine.sync(snapshot_of(*web(3)))
    run_tool(FLUSHES[mode].split(), inside=netns)
    if mode in DELETIONS:
        run_tool(DELETIONS[mode].split(), inside=netns)
    applied = engine.change({}, slices("web-1", "10.9.9.9"))
    assert applied.observed
    assert applied.mended == {Family.IPV4}
    assert not fresh.prepare(engine.planner.plan()).changes


def test_a_change_beside_a_stranger_who_harms_nothing_is_no_repair(
    netns: Namespace, engine: Engine, fresh: Dataplane
) -> None:
    """Nobody vouches here: in nftables mode all is looked at, and only the change is found."""
    engine.sync(snapshot_of(*web(20)))
    for number, pods in enumerate((["10.9.9.9"], ["10.9.9.9", "10.9.9.8"], [], ["10.9.9.7"])):
        run_tool(["nft", "add", "table", "ip", f"stranger-{number}"], inside=netns)
        applied = engine.change({}, slices("web-1", *pods))
        assert applied.changes
        assert not applied.mended
        assert not fresh.prepare(engine.planner.plan()).changes


def test_another_node_is_another_plan_and_other_rules(engine: Engine, fresh: Dataplane) -> None:
    local = service(
        "web-0", cluster_ips=["172.30.0.1"], type="NodePort", externalTrafficPolicy="Local"
    )
    local["spec"]["ports"][0]["nodePort"] = 30080
    endpoints = endpoint_slice("web-0", [endpoint("10.244.1.1", node="node-2")])
    engine.sync(snapshot_of(*web(3)[2:], local, endpoints))
    moved = NodeView(name="node-2", zone="zone-a", families=NODE.families)
    applied = engine.turn_to(moved)
    assert [planned.service for planned in applied.replanned] == [name(0)]
    assert not fresh.prepare(engine.planner.plan()).changes
    assert not engine.change({}, slices("web-1", "10.9.9.9")).observed
    assert not fresh.prepare(engine.planner.plan()).changes
    assert not engine.turn_to(moved).observed


def test_what_a_node_is_configured_to_be_changes_rules_alone(
    engine: Engine, fresh: Dataplane
) -> None:
    engine.sync(snapshot_of(*web(3)))
    detector = LocalDetector(DetectorKind.CLUSTER_CIDR, "10.244.0.0/16")
    changed = msgspec.structs.replace(
        NODE.families[0], detector=detector, masquerade_mark=0x8000, node_ip="192.0.2.1"
    )
    node = msgspec.structs.replace(NODE, families=(changed, NODE.families[1]))
    applied = engine.turn_to(node)
    assert applied.changes
    assert applied.replanned == ()
    assert not fresh.prepare(engine.planner.plan()).changes
    assert not engine.turn_to(NODE).replanned
    assert engine.planner.plan().node == NODE
    assert not fresh.prepare(engine.planner.plan()).changes
