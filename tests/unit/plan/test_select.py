"""Endpoint selection: readiness, draining, hints, policies, duplicates."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netplane.core.model.address import Family
from netplane.core.model.service import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Protocol,
    ServiceName,
)
from netplane.core.plan.port import Backend
from netplane.core.plan.select import Position, Selection, all_alike, gather, in_order, select

HERE = Position("n1", "z1")


def ep(
    last: int,
    *,
    ready: bool = True,
    serving: bool = True,
    terminating: bool = False,
    node: str = "n2",
    zones: tuple[str, ...] = (),
    nodes: tuple[str, ...] = (),
) -> Endpoint:
    return Endpoint(f"10.0.0.{last}", ready, serving, terminating, node, zones, nodes)


def draining(last: int, *, node: str = "n2") -> Endpoint:
    return ep(last, ready=False, serving=True, terminating=True, node=node)


def piece(*endpoints: Endpoint, port: int = 80, name: str = "a") -> EndpointSlice:
    return EndpointSlice(
        namespace="default",
        name=name,
        service=ServiceName("default", "web"),
        family=Family.IPV4,
        ports=(EndpointPort("http", Protocol.TCP, port),),
        endpoints=endpoints,
    )


def chosen(*endpoints: Endpoint, position: Position = HERE) -> Selection:
    gathered = gather([piece(*endpoints)], Family.IPV4)["http", Protocol.TCP]
    return select(gathered, position, wants_cluster=True, wants_local=True)


def lasts(backends: tuple[Backend, ...]) -> list[int]:
    return [int(backend.address.rpartition(".")[2]) for backend in backends]


@pytest.mark.parametrize(
    ("endpoints", "cluster", "local"),
    [
        pytest.param([ep(1), ep(2, node="n1")], [1, 2], [2], id="all ready"),
        pytest.param([ep(1), draining(2, node="n1")], [1], [2], id="policies fall back apart"),
        pytest.param([draining(1), draining(2)], [1, 2], [], id="nothing ready: draining"),
        pytest.param(
            [ep(1, ready=False, serving=False), ep(2, ready=False, serving=True)],
            [],
            [],
            id="serving but neither ready nor terminating is not usable",
        ),
        pytest.param(
            [ep(1, serving=False, terminating=True)], [1], [], id="published not-ready counts"
        ),
        pytest.param(
            [ep(1, zones=("z1",)), ep(2, zones=("z2",), node="n1")], [1], [2], id="zone hints"
        ),
        pytest.param(
            [ep(1, zones=("z0", "z1")), ep(2, zones=("z2",))], [1], [], id="several zones a hint"
        ),
        pytest.param([ep(1, zones=("z1",)), ep(2)], [1, 2], [], id="one unhinted: no topology"),
        pytest.param([ep(1, zones=("z2",))], [1], [], id="our zone not named: no topology"),
        pytest.param(
            [ep(1, zones=("z1",), nodes=("n2",)), ep(2, zones=("z1",), nodes=("n1",))],
            [2],
            [],
            id="node hints come before zone hints",
        ),
        pytest.param(
            [ep(1, zones=("z1",), nodes=("n3",)), ep(2, zones=("z2",), nodes=("n2",))],
            [1],
            [],
            id="node hints without us leave the zone's",
        ),
        pytest.param(
            [ep(1, ready=False, zones=("z1",)), ep(2, zones=("z2",))],
            [2],
            [],
            id="the zone's only endpoint is not ready: all ready ones",
        ),
    ],
)
def test_selection(endpoints: list[Endpoint], cluster: list[int], local: list[int]) -> None:
    selection = chosen(*endpoints)
    assert lasts(selection.cluster) == cluster
    assert lasts(selection.local) == local
    assert selection.has_endpoints == bool(cluster or local)


def test_no_zone_label_means_no_zone_topology() -> None:
    endpoints = [ep(1, zones=("",)), ep(2, zones=("z2",))]
    assert lasts(chosen(*endpoints, position=Position("n1")).cluster) == [1, 2]


def test_here_is_the_union_of_both_policies_on_this_node() -> None:
    selection = chosen(ep(1, node="n1", zones=("z2",)), ep(2, zones=("z1",)), ep(3, zones=("z1",)))
    assert lasts(selection.cluster) == [2, 3]
    assert lasts(selection.here) == [1]


def test_unwanted_lists_stay_empty_but_endpoints_are_known() -> None:
    gathered = gather([piece(ep(1))], Family.IPV4)["http", Protocol.TCP]
    selection = select(gathered, HERE, wants_cluster=False, wants_local=False)
    assert selection == Selection(has_endpoints=True)


@pytest.mark.parametrize(
    ("first", "second", "usable"),
    [
        pytest.param(ep(1, ready=False, serving=False), ep(1), True, id="ready in one"),
        pytest.param(draining(1), ep(1, ready=False, serving=False), False, id="reused address"),
        pytest.param(ep(1), ep(1), True, id="the same twice"),
    ],
)
def test_duplicates_count_once_in_any_order(
    first: Endpoint, second: Endpoint, usable: bool
) -> None:
    for pair in ((first, second), (second, first)):
        slices = [piece(pair[0]), piece(pair[1], name="b")]
        gathered = gather(slices, Family.IPV4)["http", Protocol.TCP]
        assert len(gathered) == 1
        selection = select(gathered, HERE, wants_cluster=True, wants_local=False)
        assert len(selection.cluster) == int(usable)


def test_the_slices_port_number_counts_and_other_families_do_not() -> None:
    other = EndpointSlice(
        namespace="default",
        name="six",
        service=ServiceName("default", "web"),
        family=Family.IPV6,
        ports=(EndpointPort("http", Protocol.TCP, 80),),
        endpoints=(Endpoint("fd00::1"),),
    )
    gathered = gather([piece(ep(1)), piece(ep(1), port=81, name="b"), other], Family.IPV4)
    assert list(gathered["http", Protocol.TCP]) == [
        Backend("10.0.0.1", 80),
        Backend("10.0.0.1", 81),
    ]


def test_order_is_that_of_the_text() -> None:
    backends = [Backend("10.0.0.9", 80), Backend("10.0.0.10", 80), Backend("10.0.0.1", 80)]
    assert [str(b) for b in in_order(backends)] == ["10.0.0.10:80", "10.0.0.1:80", "10.0.0.9:80"]


@pytest.mark.parametrize(
    ("family", "prefix"),
    [
        pytest.param(Family.IPV4, "10.0.0.", id="ipv4"),
        pytest.param(Family.IPV6, "fd00::", id="ipv6"),
    ],
)
def test_one_slice_or_several_the_endpoints_come_in_the_same_order(
    family: Family, prefix: str
) -> None:
    endpoints = tuple(Endpoint(f"{prefix}{n}") for n in (9, 10, 1, 100, 2, 11, 19))
    whole = msgspec.structs.replace(piece(*endpoints), family=family)
    halves = [
        msgspec.structs.replace(whole, name=half, endpoints=some)
        for half, some in (("a", endpoints[3:]), ("b", endpoints[:4]))
    ]
    found = [list(gather(s, family)["http", Protocol.TCP]) for s in ([whole], halves)]
    assert found[0] == found[1] == list(in_order(found[0]))
    assert len(found[0]) == len(endpoints)


def test_an_address_twice_in_one_slice_counts_once() -> None:
    gathered = gather([piece(ep(2), draining(1), ep(1))], Family.IPV4)["http", Protocol.TCP]
    assert gathered == {Backend("10.0.0.1", 80): ep(1), Backend("10.0.0.2", 80): ep(2)}
    assert lasts(tuple(gathered)) == [1, 2]


_any_endpoint = st.builds(
    ep,
    st.integers(1, 12),
    ready=st.sampled_from([True, True, True, False]),
    serving=st.booleans(),
    terminating=st.booleans(),
    node=st.sampled_from(["n2", "n2", "n2", "", "n1"]),
    zones=st.sampled_from([(), (), (), ("z1",)]),
    nodes=st.sampled_from([(), (), (), ("n1",)]),
)


@settings(deadline=None)
@given(st.lists(_any_endpoint, max_size=4))
def test_where_all_are_alike_selecting_chooses_the_same(endpoints: list[Endpoint]) -> None:
    slices = [piece(*endpoints)]
    key = ("http", Protocol.TCP)

    alike = all_alike(slices, Family.IPV4, HERE.node)

    if alike is not None:
        gathered = gather(slices, Family.IPV4)[key]
        selected = select(gathered, HERE, wants_cluster=True, wants_local=False)
        assert selected == Selection(cluster=alike[key], has_endpoints=bool(endpoints))
        assert alike[key] == in_order(alike[key])


@pytest.mark.parametrize(
    ("slices", "alike"),
    [
        pytest.param([piece(ep(10), ep(9))], [10, 9], id="by-text"),
        pytest.param([piece()], [], id="none-at-all"),
        pytest.param([], None, id="no-slice"),
        pytest.param([piece(ep(1)), piece(ep(2), name="b")], None, id="two-slices"),
        pytest.param([piece(ep(1), ep(1))], None, id="twice"),
        pytest.param([piece(ep(1), ep(2, ready=False))], None, id="not-ready"),
        pytest.param([piece(ep(1), ep(2, node="n1"))], None, id="here"),
        pytest.param([piece(ep(1, zones=("z2",)))], None, id="zones"),
        pytest.param([piece(ep(1, nodes=("n2",)))], None, id="nodes"),
    ],
)
def test_all_are_alike_where_nothing_decides(
    slices: list[EndpointSlice], alike: list[int] | None
) -> None:
    found = all_alike(slices, Family.IPV4, HERE.node)
    assert (None if found is None else lasts(found["http", Protocol.TCP])) == alike
    assert all_alike(slices, Family.IPV6, HERE.node) is None
