"""A plan kept up to date equals a plan from nothing, whatever the history."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from netplane.core.model.address import Family
from netplane.core.model.service import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Protocol,
    Service,
    ServiceName,
    ServicePort,
)
from netplane.core.model.snapshot import Snapshot
from netplane.core.plan.compile import build_plan
from netplane.core.plan.incremental import Planner
from netplane.core.plan.node import FamilyView, NodeView
from netplane.core.plan.port import PortPlan

NODE = NodeView(
    name="n1",
    families=(FamilyView(family=Family.IPV4), FamilyView(family=Family.IPV6)),
)
NAMES = [ServiceName("default", name) for name in "abcd"]
# Few addresses and ports on purpose: collisions are what is hard to keep up to date.
IPS = ["172.30.0.1", "172.30.0.2", "fd00::1"]
EXTERNAL = ["198.51.100.1", "198.51.100.2"]


@st.composite
def services(draw: st.DrawFn, key: ServiceName) -> Service:
    node_port = draw(st.sampled_from([0, 0, 30001, 30002]))
    return Service(
        key=key,
        cluster_ips=(draw(st.sampled_from(IPS)),),
        ports=(ServicePort("p", draw(st.sampled_from(list(Protocol))), 80, node_port),),
        external_ips=tuple(
            draw(st.lists(st.sampled_from(["198.51.100.1", "198.51.100.2"]), max_size=2))
        ),
        external_local=draw(st.booleans()),
        health_check_node_port=draw(st.sampled_from([0, 30001])),
        created=draw(st.sampled_from(["", "2024", "2025"])),
    )


@st.composite
def pieces(draw: st.DrawFn, key: ServiceName) -> tuple[EndpointSlice, ...]:
    endpoints = draw(st.lists(st.sampled_from(range(1, 6)), unique=True, max_size=4))
    if not endpoints:
        return ()
    return (
        EndpointSlice(
            namespace=key.namespace,
            name=f"{key.name}-1",
            service=key,
            family=Family.IPV4,
            ports=(EndpointPort("p", draw(st.sampled_from(list(Protocol))), 8080),),
            endpoints=tuple(
                Endpoint(f"10.0.0.{n}", draw(st.booleans()), True, node=f"n{n % 2}")  # noqa: FBT003
                for n in endpoints
            ),
        ),
    )


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    held = {}
    slices = {}
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True)):
        held[name] = draw(services(name))
        found = draw(pieces(name))
        if found:
            slices[name] = found
    return Snapshot(services=held, slices=slices, nodes={})


def _key(port: PortPlan) -> tuple[ServiceName, Family, str, Protocol]:
    return (port.service, port.family, port.port_name, port.protocol)


@given(st.lists(snapshots(), min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_any_history_ends_in_the_plan_from_nothing(history: list[Snapshot]) -> None:
    planner = Planner(NODE)
    for snapshot in history:
        before = planner.plan()
        changes = planner.replace(snapshot)
        assert planner.plan() == build_plan(snapshot, NODE)
        # What update reports is exactly the difference.
        held = {
            (p.service, p.family, p.port_name, p.protocol): p
            for f in before.families
            for p in f.ports
        }
        for change in changes:
            assert change.before != change.after
            for plans in change.before:
                for port in plans:
                    assert (
                        held.pop((port.service, port.family, port.port_name, port.protocol))
                        == port
                    )
            for plans in change.after:
                for port in plans:
                    held[_key(port)] = port
        after = {p for f in planner.plan().families for p in f.ports}
        assert set(held.values()) == after
        assert planner.replace(snapshot) == []
