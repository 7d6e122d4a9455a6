"""Packets by the hundred thousand while a Service changes: each is translated, whenever it comes.

A packet looks into one set after the other, and a commit may fall between two looks. One packet
for an address that always has endpoints and is not led to one would be refused.

`pytest --soak -s` on this file measures what docs/adr/0009 tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle, pairwise
from typing import Any

import pytest

from netplane.apply.engine import Engine
from netplane.apply.iptables.engine import IptablesEngine
from netplane.apply.iptables.programs import Variant
from netplane.apply.nftables.engine import NftablesEngine
from netplane.apply.nftables.mode import NftablesDataplane
from netplane.core.model.address import Family
from netplane.core.model.snapshot import Snapshot
from netplane.core.plan.compile import build_plan
from netplane.core.plan.node import FamilyView, NodeView
from netplane.core.plan.plan import Plan
from tests.support.flood import ADDRESS, PORT, Flood, Seen, flooded_node
from tests.support.manifests import Object, endpoint_slice, service
from tests.support.snapshots import difference, snapshot_of

pytestmark = pytest.mark.kernel

PORTS = ({"name": "dns", "port": PORT, "protocol": "UDP"},)
LONG = [pytest.param(60.0, id="soak", marks=pytest.mark.soak)]
#: For what three seconds show: each keeps both processors busy, so the others are for the soak.
LENGTHS = [pytest.param(3.0, id="brief"), *LONG]
STICKY = {"sessionAffinity": "ClientIP"}


@pytest.fixture
def flood() -> Iterator[Flood]:
    with flooded_node() as flood:
        yield flood


def _node(**fields: Any) -> NodeView:
    return NodeView(name="node-1", families=tuple(FamilyView(family=f, **fields) for f in Family))


def _hosts(*numbers: int) -> list[str]:
    return [f"10.244.1.{number}" for number in numbers]


def _dns(hosts: list[str], *others: Object, **more: Any) -> Snapshot:
    return snapshot_of(
        service("dns", cluster_ips=[ADDRESS], ports=PORTS, **more),
        endpoint_slice("dns", hosts, ports=PORTS),
        *others,
    )


def _for_seconds(seconds: int) -> dict[str, object]:
    return {**STICKY, "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}}


def _beside(name: str, **more: Any) -> tuple[Object, Object]:
    return (
        service(name, cluster_ips=["172.30.0.11"], ports=PORTS, **more),
        endpoint_slice(name, _hosts(*range(1, 5)), ports=PORTS),
    )


#: So many that a packet is most of its time among the rules of such a chain.
FORTY = _hosts(*range(1, 41))
SOON_SEEN = [
    pytest.param(_dns(FORTY[:6]), _dns(FORTY[:1]), id="fewer and more"),
    pytest.param(_dns(FORTY[:2]), _dns(FORTY[:24]), id="chains that come and go"),
    pytest.param(_dns(FORTY, **STICKY), _dns(FORTY[:-1], **STICKY), id="affinity, one less"),
    pytest.param(
        _dns(FORTY, **_for_seconds(60)), _dns(FORTY, **_for_seconds(90)), id="another timeout"
    ),
]
SELDOM_SEEN = [
    pytest.param(_dns(FORTY[:6]), _dns(FORTY[:6], **STICKY), id="affinity on and off"),
    pytest.param(_dns(FORTY[1:], **STICKY), _dns(FORTY[:-1], **STICKY), id="affinity, replaced"),
    pytest.param(
        _dns(FORTY[:6], **STICKY),
        _dns(FORTY[:6], *_beside("other", **STICKY), **STICKY),
        id="affinity, another Service",
    ),
]


@pytest.mark.parametrize("seconds", LENGTHS)
@pytest.mark.parametrize(("one", "other"), SOON_SEEN)
def test_no_packet_sees_half_a_change(
    flood: Flood, one: Snapshot, other: Snapshot, seconds: float
) -> None:
    _no_packet_is_harmed(flood, one, other, seconds)


@pytest.mark.parametrize("seconds", LONG)
@pytest.mark.parametrize(("one", "other"), SELDOM_SEEN)
def test_nor_half_a_rarer_one(
    flood: Flood, one: Snapshot, other: Snapshot, seconds: float
) -> None:
    _no_packet_is_harmed(flood, one, other, seconds)


def _no_packet_is_harmed(flood: Flood, one: Snapshot, other: Snapshot, seconds: float) -> None:
    with NftablesEngine(flood.node, _node()) as engine:
        seen = _changed_all_the_time(flood, engine, one, other, seconds)
    assert seen.led > 1000
    assert (seen.missed, seen.gone) == (0, 0)


@pytest.mark.parametrize("seconds", LONG)
@pytest.mark.parametrize(("one", "other"), [SOON_SEEN[0], *SELDOM_SEEN[:2]])
@pytest.mark.parametrize("variant", Variant)
def test_neither_in_iptables_mode(
    flood: Flood, variant: Variant, one: Snapshot, other: Snapshot, seconds: float
) -> None:
    with IptablesEngine(flood.node, _node(), variant=variant) as engine:
        seen = _changed_all_the_time(flood, engine, one, other, seconds)
    assert seen.led > 1000
    assert (seen.missed, seen.gone) == (0, 0)


@pytest.mark.parametrize("seconds", LONG)
@pytest.mark.parametrize("more", [{}, STICKY], ids=["plain", "affinity"])
def test_nor_half_a_program(flood: Flood, more: dict[str, Any], seconds: float) -> None:
    """The node's configuration changes, and the Service with it."""
    dataplane = NftablesDataplane(flood.node)
    one = build_plan(_dns(FORTY[:6], **more), _node())
    other = build_plan(_dns(FORTY[:1], **more), _node(masquerade_all=True))

    def apply(plan: Plan) -> None:
        dataplane.prepare(plan).commit()

    apply(one)
    seen = _all_the_time(flood, [partial(apply, other), partial(apply, one)], seconds)
    assert seen.led > 1000
    assert seen.missed == 0


@pytest.mark.parametrize("seconds", LONG)
def test_whoever_finds_a_new_service_is_masqueraded(flood: Flood, seconds: float) -> None:
    with NftablesEngine(flood.node, _node(masquerade_all=True)) as engine:
        service_ = _dns(FORTY[:3])
        seen = _changed_all_the_time(flood, engine, service_, snapshot_of(), seconds)
    assert seen.led > 1000
    assert seen.unmarked == 0


@pytest.mark.parametrize("seconds", LENGTHS)
def test_nobody_comes_past_the_source_ranges_of_a_new_service(
    flood: Flood, seconds: float
) -> None:
    closed = snapshot_of(
        service(
            "dns",
            cluster_ips=["172.30.0.11"],
            ports=PORTS,
            ingress=[{"ip": ADDRESS}],
            type="LoadBalancer",
            loadBalancerSourceRanges=["203.0.113.99/32"],
        ),
        endpoint_slice("dns", FORTY[:3], ports=PORTS),
    )
    with NftablesEngine(flood.node, _node()) as engine:
        seen = _changed_all_the_time(flood, engine, closed, snapshot_of(), seconds)
    assert seen.missed > 1000
    assert seen.led == 0


@pytest.mark.parametrize("seconds", LONG)
def test_a_frontend_is_refused_until_it_is_served(flood: Flood, seconds: float) -> None:
    """An external IP: of a ClusterIP every port that is not served is refused in this mode."""
    spec = service("dns", cluster_ips=["172.30.0.11"], ports=PORTS, externalIPs=[ADDRESS])
    served = snapshot_of(spec, endpoint_slice("dns", FORTY[:3], ports=PORTS))
    with NftablesEngine(flood.node, _node()) as engine:
        seen = _changed_all_the_time(flood, engine, served, snapshot_of(spec), seconds)
    assert seen.led > 1000
    assert seen.escaped == 0


@pytest.mark.parametrize("seconds", LONG)
@pytest.mark.parametrize("variant", Variant)
def test_a_cluster_ip_is_refused_until_it_is_served_in_iptables_mode(
    flood: Flood, variant: Variant, seconds: float
) -> None:
    with IptablesEngine(flood.node, _node(), variant=variant) as engine:
        seen = _changed_all_the_time(flood, engine, _dns(FORTY[:3]), _dns([]), seconds)
    assert seen.led > 1000
    assert seen.escaped == 0


def _changed_all_the_time(
    flood: Flood,
    engine: Engine,
    one: Snapshot,
    other: Snapshot,
    seconds: float,
) -> Seen:
    """A Service that is one thing, then another, and so on, beside the flood."""
    engine.sync(one)
    changes = [_change(flood, engine, a, b) for a, b in pairwise((one, other, one))]
    return _all_the_time(flood, changes, seconds)


def _change(flood: Flood, engine: Engine, old: Snapshot, new: Snapshot) -> Callable[[], None]:
    what = difference(old, new)
    come, gone = (_addresses(b) - _addresses(a) for a, b in ((old, new), (new, old)))

    def change() -> None:
        flood.say_coming(come)
        engine.change(*what)
        if gone:
            flood.say_gone(gone)

    return change


def _addresses(snapshot: Snapshot) -> set[str]:
    return {
        endpoint.address
        for slices in snapshot.slices.values()
        for part in slices
        for endpoint in part.endpoints
    }


def _all_the_time(flood: Flood, changes: list[Callable[[], None]], seconds: float) -> Seen:
    """Change one thing after the other as long as packets come."""
    turns = cycle(changes)
    count = 0
    with flood.running(seconds) as running:
        for _ in running:
            next(turns)()
            count += 1
    seen = flood.seen()
    print(f"\n{count} changes: {seen}")
    assert count > 1
    return seen
