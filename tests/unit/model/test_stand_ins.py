"""Endpoints, and then Pods, stand in for the slices a Service does not have."""

from __future__ import annotations

from typing import Any

import pytest

from netplane.core.model.address import Family
from netplane.core.model.cluster import build_snapshot
from netplane.core.model.documents import parse
from netplane.core.model.service import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Protocol,
    ServiceName,
)
from netplane.core.model.snapshot import Snapshot
from tests.support.manifests import (
    Object,
    endpoint_slice,
    endpoints,
    kube_list,
    node,
    pod,
    service,
)

WEB = ServiceName("default", "web")
HTTP = EndpointPort("http", Protocol.TCP, 8080)
APP = {"app": "web", "tier": "front"}
SELECTING: Any = {"selector": {"app": "web"}}


def read(*objects: Object) -> Snapshot:
    snapshot = build_snapshot(parse(kube_list(*objects), origin="test"))
    assert snapshot.problems == ()
    return snapshot


def slices(*objects: Object) -> tuple[EndpointSlice, ...]:
    return read(*objects).slices.get(WEB, ())


def addresses(*objects: Object) -> list[str]:
    return [e.address for s in slices(*objects) for e in s.endpoints]


def web(**spec: Any) -> Object:
    ports = spec.pop("ports", [{"name": "http", "port": 80, "targetPort": 8080}])
    return service("web", ports=ports, **{**SELECTING, **spec})


def test_endpoints_are_mirrored_by_subset_and_family() -> None:
    thing = endpoints("web", ["10.244.1.1", "fd00::1"], not_ready=["10.244.1.2"])
    thing["subsets"][0]["addresses"][0]["nodeName"] = "node-1"
    thing["subsets"].append({"addresses": [{"ip": "10.244.1.3"}], "ports": None})
    thing["subsets"].append({"addresses": None})
    mirrored: Any = {"namespace": "default", "service": WEB}
    assert slices(service("web"), thing) == (
        EndpointSlice(
            **mirrored,
            name="web-mirrored-0-ipv4",
            family=Family.IPV4,
            ports=(HTTP,),
            endpoints=(Endpoint("10.244.1.1", node="node-1"), Endpoint("10.244.1.2", ready=False)),
        ),
        EndpointSlice(
            **mirrored,
            name="web-mirrored-0-ipv6",
            family=Family.IPV6,
            ports=(HTTP,),
            endpoints=(Endpoint("fd00::1"),),
        ),
        EndpointSlice(
            **mirrored,
            name="web-mirrored-1-ipv4",
            family=Family.IPV4,
            ports=(),
            endpoints=(Endpoint("10.244.1.3"),),
        ),
    )


POD = pod("web-1", "10.244.1.9", labels=APP)
OTHER_SLICE = endpoint_slice("other")
SKIPPED: Any = {"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}
LEADING: Any = {"annotations": {"control-plane.alpha.kubernetes.io/leader": "{}"}}


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        pytest.param([web(), endpoint_slice("web"), endpoints("web", ["10.1.1.1"]), POD],
                     ["10.244.1.7"], id="slices-first"),
        pytest.param([web(), endpoint_slice("web", []), endpoints("web", ["10.1.1.1"]), POD],
                     [], id="even-an-empty-slice"),
        pytest.param([web(), endpoint_slice("web", family="FQDN"), POD], [],
                     id="even-a-slice-of-host-names"),
        pytest.param([web(), endpoints("web", ["10.1.1.1"]), POD], ["10.1.1.1"],
                     id="then-endpoints"),
        pytest.param([web(), endpoints("web", []), POD], [], id="even-empty-endpoints"),
        pytest.param([web(), POD], ["10.244.1.9"], id="then-pods"),
        pytest.param([web(), OTHER_SLICE, POD], ["10.244.1.9"], id="pods-beside-other-slices"),
        pytest.param([web(selector=None), POD], [], id="pods-only-by-selector"),
        pytest.param([web(selector={}), POD], [], id="an-empty-selector-selects-nothing"),
        pytest.param([web(), endpoint_slice("web", namespace="shop"), POD], ["10.244.1.9"],
                     id="slices-of-another-namespace"),
        pytest.param([web(), endpoints("web", **SKIPPED)], ["10.244.1.7"],
                     id="skip-mirror-without-any-slice"),
        pytest.param([web(), endpoints("web", **SKIPPED), OTHER_SLICE], [],
                     id="skip-mirror-with-slices"),
        pytest.param([web(), endpoints("web", **LEADING), OTHER_SLICE], [],
                     id="leader-election-with-slices"),
    ],
)  # fmt: skip
def test_what_stands_in_for_what(objects: list[Object], expected: list[str]) -> None:
    assert addresses(*objects) == expected


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        pytest.param([web(), pod("a", "10.0.0.1", labels={"app": "web"})], ["10.0.0.1"],
                     id="selected"),
        pytest.param([web(), pod("a", "10.0.0.1", labels={"app": "db"})], [], id="other-value"),
        pytest.param([web(), pod("a", "10.0.0.1")], [], id="no-labels"),
        pytest.param([web(selector=APP), pod("a", "10.0.0.1", labels={"app": "web"})], [],
                     id="half-the-selector"),
        pytest.param([web(), pod("a", "10.0.0.1", labels=APP, namespace="shop")], [],
                     id="other-namespace"),
        pytest.param([web(), pod("a", labels=APP)], [], id="no-address-yet"),
        pytest.param([web(), pod("a", "fd00::1", labels=APP)], [], id="address-of-other-family"),
        pytest.param([web(), pod("a", "fd00::1", "10.0.0.1", "10.0.0.2", labels=APP)],
                     ["10.0.0.1"], id="the-first-address-of-the-family"),
        pytest.param([web(), pod("a", "10.0.0.1", labels=APP, phase="Succeeded")], [],
                     id="succeeded"),
        pytest.param([web(), pod("a", "10.0.0.1", labels=APP, phase="Failed")], [], id="failed"),
        pytest.param([web(), pod("a", "192.0.2.1", labels=APP, hostNetwork=True)], ["192.0.2.1"],
                     id="host-network"),
        pytest.param([web(), pod("a", "10.0.0.1", labels=APP), node("node-1", ip="192.0.2.1")],
                     ["10.0.0.1"], id="its-node-is-there"),
        pytest.param([web(), pod("a", "10.0.0.1", labels=APP), node("node-2", ip="192.0.2.1")],
                     [], id="its-node-is-missing"),
        pytest.param([web(publishNotReadyAddresses=True), pod("a", "10.0.0.1", labels=APP),
                      node("node-2", ip="192.0.2.1")], ["10.0.0.1"],
                     id="its-node-is-missing-but-all-are-published"),
        pytest.param([web(), pod("b", "10.0.0.1", labels=APP), pod("a", "10.0.0.2", labels=APP)],
                     ["10.0.0.2", "10.0.0.1"], id="sorted-by-name"),
    ],
)  # fmt: skip
def test_which_pods(objects: list[Object], expected: list[str]) -> None:
    assert addresses(*objects) == expected


@pytest.mark.parametrize(
    ("ready", "terminating", "publish", "expected"),
    [
        (True, False, False, (True, True, False)),
        (False, False, False, (False, False, False)),
        (True, True, False, (False, True, True)),
        (False, True, False, (False, False, True)),
        (False, False, True, (True, False, False)),
        (True, True, True, (True, True, True)),
    ],
)
def test_conditions_of_a_pod(
    ready: bool, terminating: bool, publish: bool, expected: tuple[bool, bool, bool]
) -> None:
    thing = pod("a", "10.0.0.1", labels=APP, ready=ready, terminating=terminating)
    ((found,),) = (s.endpoints for s in slices(web(publishNotReadyAddresses=publish), thing))
    assert (found.ready, found.serving, found.terminating) == expected


@pytest.mark.parametrize(
    ("distribution", "zones", "nodes"),
    [
        (None, (), ()),
        ("PreferClose", ("zone-a",), ()),
        ("PreferSameZone", ("zone-a",), ()),
        ("PreferSameNode", ("zone-a",), ("node-1",)),
    ],
)
def test_hints_follow_the_traffic_distribution(
    distribution: str | None, zones: tuple[str, ...], nodes: tuple[str, ...]
) -> None:
    objects = [
        web(trafficDistribution=distribution),
        pod("a", "10.0.0.1", labels=APP),
        node("node-1", ip="192.0.2.1", zone="zone-a"),
    ]
    ((found,),) = (s.endpoints for s in slices(*objects))
    assert (found.zones, found.nodes, found.node) == (zones, nodes, "node-1")


NAMED = [{"name": "http", "port": 80, "targetPort": "web"}]


def with_port(name: str, address: str, number: int, protocol: str = "TCP") -> Object:
    ports = [{"name": "web", "containerPort": number, "protocol": protocol}]
    return pod(name, address, labels=APP, ports=ports)


def test_named_target_ports_may_come_to_different_numbers() -> None:
    found = slices(
        web(ports=NAMED),
        with_port("a", "10.0.0.1", 9090),
        with_port("b", "10.0.0.2", 8080),
        with_port("c", "10.0.0.3", 9090),
        with_port("d", "10.0.0.4", 53, "UDP"),
        pod("e", "10.0.0.5", labels=APP),
    )
    assert [([p.number for p in s.ports], [e.address for e in s.endpoints]) for s in found] == [
        ([], ["10.0.0.4", "10.0.0.5"]),
        ([8080], ["10.0.0.2"]),
        ([9090], ["10.0.0.1", "10.0.0.3"]),
    ]
    assert len({s.name for s in found}) == len(found)


def test_a_sidecar_counts_and_an_ordinary_init_container_does_not() -> None:
    port = {"name": "web", "containerPort": 7000}
    sidecar = {"ports": [port], "restartPolicy": "Always"}
    for init, numbers in ((sidecar, [7000]), ({"ports": [port]}, [])):
        thing = pod("a", "10.0.0.1", labels=APP, initContainers=[init])
        (found,) = slices(web(ports=NAMED), thing)
        assert [p.number for p in found.ports] == numbers


@pytest.mark.parametrize("target", [None, 0, ""])
def test_no_target_port_means_the_port_itself(target: object) -> None:
    objects = [
        web(ports=[{"name": "http", "port": 80, "targetPort": target}]),
        pod("a", "10.0.0.1", labels=APP),
    ]
    assert [s.ports for s in slices(*objects)] == [(EndpointPort("http", Protocol.TCP, 80),)]


def test_dual_stack_gets_a_slice_of_each_family() -> None:
    found = slices(
        web(cluster_ips=["172.30.0.10", "fd00:30::a"]),
        pod("a", "10.0.0.1", "fd00::1", labels=APP),
        pod("b", "10.0.0.2", labels=APP),
    )
    assert [(s.family, [e.address for e in s.endpoints]) for s in found] == [
        (Family.IPV4, ["10.0.0.1", "10.0.0.2"]),
        (Family.IPV6, ["fd00::1"]),
    ]


def test_pod_ip_serves_where_there_are_no_pod_ips() -> None:
    thing = pod("a", "10.0.0.1", labels=APP)
    del thing["status"]["podIPs"]
    assert addresses(web(), thing) == ["10.0.0.1"]
