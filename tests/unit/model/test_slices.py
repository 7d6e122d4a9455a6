"""What a good slice becomes, which are not for us, and what is left out of a slice."""

from __future__ import annotations

import msgspec
import pytest

from netplane.core.model import wire
from netplane.core.model.address import Family
from netplane.core.model.service import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Protocol,
    ServiceName,
)
from netplane.core.model.slices import service_of, slice_from
from tests.support.manifests import Object, endpoint, endpoint_slice

WEB = ServiceName("default", "web")


def read(thing: Object) -> EndpointSlice | None:
    return slice_from(msgspec.convert(thing, wire.EndpointSlice))[0]


def endpoints_of(*given: Object) -> tuple[Endpoint, ...]:
    found = read(endpoint_slice("web", given))
    assert found is not None
    return found.endpoints


def test_a_whole_slice() -> None:
    thing = endpoint_slice(
        "web",
        [
            endpoint("FD00:244::7", "fd00:244::8", node="node-1", zone="a", zones=["a"]),
            "fd00:244::9",
        ],
        ports=[{"name": "http", "port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}],
        family="IPv6",
        name="web-x7k2p",
        namespace="shop",
    )
    assert read(thing) == EndpointSlice(
        namespace="shop",
        name="web-x7k2p",
        service=ServiceName("shop", "web"),
        family=Family.IPV6,
        ports=(EndpointPort("http", Protocol.TCP, 8080), EndpointPort("dns", Protocol.UDP, 53)),
        endpoints=(
            Endpoint("fd00:244::7", node="node-1", zones=("a",)),
            Endpoint("fd00:244::9"),
        ),
    )


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        pytest.param(None, (True, True, False), id="absent"),
        pytest.param({}, (True, True, False), id="empty"),
        pytest.param(dict.fromkeys(("ready", "serving", "terminating")), (True, True, False),
                     id="null"),
        pytest.param({"ready": False}, (False, True, False), id="not-ready"),
        pytest.param({"ready": False, "serving": True, "terminating": True}, (False, True, True),
                     id="serving-while-terminating"),
        pytest.param({"ready": False, "serving": False, "terminating": True}, (False, False, True),
                     id="terminating"),
    ],
)  # fmt: skip
def test_conditions_have_defaults(
    conditions: dict[str, bool | None] | None, expected: tuple[bool, bool, bool]
) -> None:
    (found,) = endpoints_of(endpoint("10.244.1.7", conditions=conditions))
    assert (found.ready, found.serving, found.terminating) == expected


def test_hints_and_nodes() -> None:
    (found,) = endpoints_of(endpoint("10.244.1.7", zones=["zone-A", "b"], nodes=["node-1"]))
    assert (found.zones, found.nodes, found.node) == (("zone-A", "b"), ("node-1",), "")


def test_v1beta1_has_the_node_in_its_topology() -> None:
    thing = endpoint_slice(
        "web", [{**endpoint("10.244.1.7"), "topology": {"kubernetes.io/hostname": "node-1"}}]
    )
    thing["apiVersion"] = "discovery.k8s.io/v1beta1"
    del thing["addressType"]
    found = read(thing)
    assert found is not None
    assert (found.family, found.endpoints[0].node) == (Family.IPV4, "node-1")


def test_ports_without_a_number_are_left_out_and_a_missing_name_is_empty() -> None:
    thing = endpoint_slice(
        "web", ports=[{"name": "a"}, {"name": "b", "port": 0}, {"port": 80, "name": None}]
    )
    assert slice_from(msgspec.convert(thing, wire.EndpointSlice))[1] == ()
    found = read(thing)
    assert found is not None
    assert found.ports == (EndpointPort("", Protocol.TCP, 80),)


def test_a_bad_endpoint_or_port_leaves_the_others() -> None:
    thing = endpoint_slice(
        "web",
        ["10.244.1.1", "nonsense", "fd00::1", "127.0.0.1", "10.244.1.2"],
        ports=[{"name": "a", "port": 99999}, {"name": "b", "port": 80}],
    )
    found, problems = slice_from(msgspec.convert(thing, wire.EndpointSlice))
    assert found is not None
    assert [e.address for e in found.endpoints] == ["10.244.1.1", "10.244.1.2"]
    assert [p.name for p in found.ports] == ["b"]
    assert [p.field for p in problems] == [
        "ports[0].port",
        "endpoints[1].addresses[0]",
        "endpoints[2].addresses[0]",
        "endpoints[3].addresses[0]",
    ]


@pytest.mark.parametrize(
    ("thing", "feeds"),
    [
        pytest.param(endpoint_slice("web", family="FQDN"), WEB, id="fqdn"),
        pytest.param(endpoint_slice("", name="a"), None, id="no-service"),
        pytest.param({"metadata": {"name": "a"}}, None, id="no-labels"),
        pytest.param(
            endpoint_slice("web", labels={"service.kubernetes.io/headless": ""}), WEB,
            id="headless",
        ),
        pytest.param(
            endpoint_slice("web", labels={"service.kubernetes.io/service-proxy-name": "x"}), WEB,
            id="other-proxy",
        ),
    ],
)  # fmt: skip
def test_not_for_us_and_no_problem(thing: Object, feeds: ServiceName | None) -> None:
    wired = msgspec.convert(thing, wire.EndpointSlice)
    assert slice_from(wired) == (None, ())
    assert service_of(wired) == feeds
