"""Objects read at a glance: what is said of them is what reading field by field says."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.states import Shape, endpoint_slice, service_at, service_object
from netplane.core.model import wire
from netplane.core.model.plain import plain_service, plain_slice
from netplane.core.model.services import service_from, service_with_care
from netplane.core.model.slices import service_of, slice_of, slice_with_care

_BENCH = service_at(Shape(1, 3), 0)
_NAMES = st.sampled_from([None, "", "web", "a.b", "Web", "-web", "w" * 63, "w" * 64, "8080"])
_NUMBERS = st.sampled_from([None, 0, 1, 80, 65535, 65536, -1])
_PROTOCOLS = st.sampled_from([None, "", "TCP", "UDP", "SCTP", "ICMP"])
_ADDRESSES = st.sampled_from(
    [
        *("10.0.0.1", "10.0.0.01", "010.0.0.1", "0.0.0.0", "0.1.2.3", "127.0.0.1", "169.254.0.1"),
        *("224.0.0.1", "10.0.0.256", "10.0.0", "10.0.0.", "a.b.c.1", "fd00::1", "None", ""),
        "\u0661.1.1.1",
    ]
)
_SOME = st.sampled_from([None, True, False])
_PORT = st.fixed_dictionaries(
    {},
    optional={
        "name": _NAMES,
        "protocol": _PROTOCOLS,
        "port": _NUMBERS,
        "nodePort": _NUMBERS,
        "targetPort": st.one_of(_NUMBERS, _NAMES),
    },
)
_METADATA = {
    "name": _NAMES,
    "namespace": _NAMES,
    "creationTimestamp": st.sampled_from(
        [None, "", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05+01:00", "yesterday"]
    ),
    "labels": st.dictionaries(
        st.sampled_from(
            [
                "service.kubernetes.io/service-proxy-name",
                "service.kubernetes.io/headless",
                "kubernetes.io/service-name",
            ]
        ),
        _NAMES,
    ),
}
_SPEC = {
    "type": st.sampled_from(
        [None, "", "ClusterIP", "NodePort", "LoadBalancer", "ExternalName", "x"]
    ),
    "clusterIP": st.none() | _ADDRESSES,
    "clusterIPs": st.none() | st.lists(_ADDRESSES, max_size=2),
    "ipFamilies": st.none() | st.lists(st.sampled_from(["IPv4", "IPv6", "x"]), max_size=2),
    "ports": st.none() | st.lists(_PORT, max_size=2),
    "externalIPs": st.none() | st.lists(_ADDRESSES, max_size=1),
    "internalTrafficPolicy": st.sampled_from([None, "", "Cluster", "Local", "x"]),
    "externalTrafficPolicy": st.sampled_from([None, "", "Cluster", "Local", "x"]),
    "sessionAffinity": st.sampled_from([None, "", "None", "ClientIP", "x"]),
    "loadBalancerSourceRanges": st.sampled_from([None, [], ["10.0.0.0/8"], ["x"]]),
    "healthCheckNodePort": _NUMBERS,
}
_ENDPOINT: dict[str, st.SearchStrategy[Any]] = {
    "addresses": st.none() | st.lists(_ADDRESSES, max_size=2),
    "conditions": st.none()
    | st.fixed_dictionaries({}, optional={"ready": _SOME, "serving": _SOME, "terminating": _SOME}),
    "nodeName": _NAMES,
    "hints": st.sampled_from([None, {}, {"forZones": [{"name": "zone-a"}]}, {"forNodes": [{}]}]),
    "topology": st.sampled_from([None, {}, {"kubernetes.io/hostname": "node-1"}]),
}


def _some(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """At most three of these fields: more, and nearly no object would be plain."""
    return st.lists(st.sampled_from(sorted(fields)), max_size=3, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: fields[name] for name in names})
    )


@settings(deadline=None)
@given(metadata=_some(_METADATA), spec=_some(_SPEC), port=_some({"port": _PORT}))
def test_a_service_is_read_alike_at_a_glance_and_with_care(
    metadata: dict[str, Any], spec: dict[str, Any], port: dict[str, Any]
) -> None:
    thing = service_object(_BENCH)
    thing["metadata"] |= metadata
    thing["spec"] |= spec
    for given_port in thing["spec"]["ports"] or ():
        given_port.update(port.get("port", {}))
    wired = msgspec.convert(thing, wire.Service)

    with_care = service_with_care(wired)

    assert service_from(wired) == with_care
    assert plain_service(wired) in {None, with_care[0]}


@settings(deadline=None)
@given(
    metadata=_some(_METADATA),
    kind=st.sampled_from(["IPv4", "IPv4", "IPv4", "IPv6", "FQDN", "x", None]),
    endpoint=_some(_ENDPOINT),
    ports=st.none() | st.lists(_PORT, max_size=2),
)
def test_a_slice_is_read_alike_at_a_glance_and_with_care(
    metadata: dict[str, Any],
    kind: str | None,
    endpoint: dict[str, Any],
    ports: list[dict[str, Any]] | None,
) -> None:
    thing = endpoint_slice(_BENCH)
    thing["addressType"] = kind
    thing["metadata"] |= metadata
    thing["endpoints"][1] |= endpoint
    if ports is not None:
        thing["ports"] = ports
    wired = msgspec.convert(thing, wire.EndpointSlice)
    service = service_of(wired)
    if service is None:
        return

    with_care = slice_with_care(service, wired)

    assert slice_of(service, wired) == with_care
    assert plain_slice(service, wired) in {None, with_care[0]}


def test_what_a_controller_writes_is_plain() -> None:
    service = msgspec.convert(service_object(_BENCH), wire.Service)
    wired = msgspec.convert(endpoint_slice(_BENCH), wire.EndpointSlice)
    name = service_of(wired)
    assert name is not None

    assert plain_service(service) is not None
    assert plain_slice(name, wired) is not None
