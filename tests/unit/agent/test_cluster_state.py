"""What is a change, and what is none."""

from __future__ import annotations

import json

import pytest

from netplane.agent.changes import ObjectKey
from netplane.agent.cluster_state import ClusterState
from netplane.agent.glimpses import TRIGGER_ANNOTATION
from netplane.core.model.documents import Manifest, parse
from netplane.core.model.service import ServiceName
from tests.support.following import snapshot_of
from tests.support.manifests import Object, endpoint_slice, node, service

WEB = ServiceName("default", "web")
SERVICE = ObjectKey("Service", "default", "web")
SLICE = ObjectKey("EndpointSlice", "default", "web-ipv4")


def manifest(thing: Object) -> Manifest:
    [one] = parse(json.dumps(thing).encode(), origin="test")
    return one


def state_of(*things: Object) -> ClusterState:
    """A state whose beginning has been taken."""
    state = ClusterState("node-1")
    for thing in things:
        state.upsert(manifest(thing))
    state.take()
    return state


def annotated(thing: Object, **annotations: str) -> Object:
    thing["metadata"]["annotations"] = annotations
    return thing


def test_nothing_is_told_twice() -> None:
    state = ClusterState("node-1")
    assert state.take() is None
    state.upsert(manifest(service("web")))
    state.upsert(manifest(endpoint_slice("web")))
    change = state.take()
    assert change is not None
    assert [*change.services] == [*change.slices] == [WEB]
    assert (change.node, change.eligible, change.triggered) == (None, None, ())
    assert state.take() is None


@pytest.mark.parametrize(
    "thing",
    [
        pytest.param(annotated(service("web"), note="new"), id="metadata-of-a-service"),
        pytest.param(
            annotated(endpoint_slice("web"), **{TRIGGER_ANNOTATION: "2026-01-02T03:04:05Z"}),
            id="metadata-of-a-slice",
        ),
        pytest.param(
            annotated(node("node-1", ip="192.0.2.1"), heartbeat="1"), id="conditions-of-a-node"
        ),
        pytest.param(node("node-2", ip="192.0.2.9"), id="another-node"),
        pytest.param({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "x"}}, id="a-pod"),
    ],
)
def test_what_means_the_same_is_no_change(thing: Object) -> None:
    state = state_of(service("web"), endpoint_slice("web"), node("node-1", ip="192.0.2.1"))
    state.upsert(manifest(thing))
    assert state.take() is None


def test_what_changes_back_is_no_change() -> None:
    state = state_of(service("web"), endpoint_slice("web"))
    state.delete(SERVICE)
    state.delete(SLICE)
    assert state.changed
    state.upsert(manifest(service("web")))
    state.upsert(manifest(endpoint_slice("web")))
    assert state.take() is None


def test_a_refused_service_is_gone_until_it_is_good_again() -> None:
    state = state_of(service("web"))
    state.upsert(manifest(service("web", cluster_ips=["127.0.0.1"])))
    change = state.take()
    assert change is not None
    assert change.services == {WEB: None}
    assert [p.field for p in change.problems[SERVICE]] == ["spec.clusterIPs[0]"]
    state.upsert(manifest(service("web")))
    change = state.take()
    assert change is not None
    assert change.services[WEB] is not None
    assert change.problems == {SERVICE: ()}


def test_an_object_of_the_wrong_type_is_refused_alone() -> None:
    state = state_of(service("web"))
    state.upsert(manifest({**service("db"), "spec": {"ports": "all"}}))
    change = state.take()
    assert change is not None
    assert change.services == {}
    [problem] = change.problems[ObjectKey("Service", "default", "db")]
    assert problem.field == "spec.ports"
    state.delete(ObjectKey("Service", "default", "db"))
    change = state.take()
    assert change is not None
    assert change.problems == {ObjectKey("Service", "default", "db"): ()}


def test_a_headless_service_is_nothing_to_program_and_no_fault() -> None:
    state = state_of(service("web"))
    state.upsert(manifest(service("web", cluster_ips=["None"])))
    change = state.take()
    assert change is not None
    assert (change.services, change.problems) == ({WEB: None}, {})


def test_a_slice_that_moves_touches_both_services() -> None:
    state = state_of(endpoint_slice("web"), endpoint_slice("web", name="more"))
    moved = endpoint_slice("db", name="more")
    state.upsert(manifest(moved))
    change = state.take()
    assert change is not None
    names = {name.name: [s.name for s in slices] for name, slices in change.slices.items()}
    assert names == {"web": ["web-ipv4"], "db": ["more"]}


def test_each_slice_that_changed_tells_its_oldest_trigger() -> None:
    state = state_of()
    for number, (name, second) in enumerate((("a", 9), ("b", "05.123456789"), ("a", 10))):
        moment = f"2026-01-02T03:04:{second:0>2}Z"
        thing = annotated(
            endpoint_slice(name, [f"10.244.1.{number}"]), **{TRIGGER_ANNOTATION: moment}
        )
        state.upsert(manifest(thing))
    state.upsert(manifest(annotated(endpoint_slice("d"), **{TRIGGER_ANNOTATION: "yesterday"})))
    change = state.take()
    assert change is not None
    assert change.triggered == pytest.approx((1767323049.0, 1767323045.123456))


def test_a_node_that_goes_is_not_eligible_and_keeps_its_facts() -> None:
    state = ClusterState("node-1")
    state.upsert(manifest(node("node-1", ip="192.0.2.1", zone="zone-a")))
    change = state.take()
    assert change is not None
    assert change.eligible is True
    assert change.node is not None
    assert change.node.zone == "zone-a"
    going = node("node-1", ip="192.0.2.1", zone="zone-a")
    going["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z"
    state.upsert(manifest(going))
    change = state.take()
    assert change is not None
    assert (change.eligible, change.node) == (False, None)
    state.delete(ObjectKey("Node", "", "node-1"))
    change = state.take()
    assert change is not None
    assert (change.eligible, change.node) == (None, None)
    [[problem]] = change.problems.values()
    assert "no such Node" in str(problem)
    state.delete(ObjectKey("Node", "", "node-1"))
    assert state.take() is None
    state.upsert(manifest(node("node-1", ip="192.0.2.1")))
    change = state.take()
    assert change is not None
    assert change.eligible is True
    assert list(change.problems.values()) == [()]


def test_a_snapshot_is_adopted_by_its_difference() -> None:
    state = state_of(service("web"), endpoint_slice("web"), service("old"))
    bad = service("bad", cluster_ips=["0.0.0.0"])
    state.adopt(snapshot_of([service("web"), endpoint_slice("web", ["10.244.1.9"]), bad]))
    change = state.take()
    assert change is not None
    assert change.services == {ServiceName("default", "old"): None}
    assert [*change.slices] == [WEB]
    assert [*change.problems] == [ObjectKey("Service", "default", "bad")]
    state.adopt(snapshot_of([]))
    change = state.take()
    assert change is not None
    assert change.services == {WEB: None}
    assert change.slices == {WEB: ()}
    assert state.slices(WEB) == ()


def test_a_snapshot_with_nodes_but_not_our_own_says_so() -> None:
    """Most often the name is wrong: then no endpoint is local, and nothing else tells."""
    state = ClusterState("node-1")
    state.adopt(snapshot_of([service("web")]))
    change = state.take()
    assert change is not None
    assert (change.eligible, change.problems) == (True, {}), "nobody means to tell of Nodes"
    state.adopt(snapshot_of([node("node-2", ip="192.0.2.2")]))
    change = state.take()
    assert change is not None
    key = ObjectKey("Node", "", "node-1")
    assert change.eligible is False
    assert "is --node right?" in str(change.problems[key][0])
    state.adopt(snapshot_of([node("node-1", ip="192.0.2.1")]))
    change = state.take()
    assert change is not None
    assert (change.eligible, change.problems) == (True, {key: ()})


@pytest.mark.parametrize(("first", "then"), [("a", "b"), ("b", "a")])
def test_a_slice_that_moved_in_a_snapshot_can_move_on(first: str, then: str) -> None:
    """Whichever of the two Services comes first when the snapshot is adopted."""
    state = ClusterState("node-1")
    stay = [endpoint_slice(name) for name in "abc"]
    state.adopt(snapshot_of([endpoint_slice(first, name="x"), *stay]))
    state.adopt(snapshot_of([endpoint_slice(then, name="x"), *stay]))
    state.take()
    state.upsert(manifest(endpoint_slice("c", name="x")))
    change = state.take()
    assert change is not None
    names = {name.name: [s.name for s in slices] for name, slices in change.slices.items()}
    assert names == {then: [f"{then}-ipv4"], "c": ["c-ipv4", "x"]}
