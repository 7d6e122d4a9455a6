"""An EndpointSlice as it travels into one to be used, with the problems of the parts left out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from netplane.core.model import wire
from netplane.core.model.address import Family
from netplane.core.model.checks import (
    check_label,
    check_subdomain,
    destination_fault,
    endpoint_ports,
)
from netplane.core.model.destinations import endpoint_address
from netplane.core.model.names import is_label, is_label_value, is_subdomain
from netplane.core.model.problem import Problem
from netplane.core.model.reasons import Reason, Refusals
from netplane.core.model.service import Endpoint, EndpointSlice, ServiceName

_FAMILIES = {"IPv4": Family.IPV4, "IPv6": Family.IPV6}
_V1BETA1 = "discovery.k8s.io/v1beta1"
_NO_CONDITIONS = wire.Conditions()


def service_of(endpoint_slice: wire.EndpointSlice) -> ServiceName | None:
    """The Service a slice says it feeds, whether or not the slice itself is any good."""
    meta = endpoint_slice.metadata
    if meta is None or meta.labels is None or not meta.labels.service:
        return None
    return ServiceName(meta.namespace or "default", meta.labels.service)


def slice_from(
    endpoint_slice: wire.EndpointSlice,
) -> tuple[EndpointSlice | None, tuple[Problem, ...]]:
    """The slice, with the problems of the parts left out; None without any: not for us.

    Not for us are slices that feed no Service, those labelled headless or given to another proxy,
    and those of host names (FQDN). A bad endpoint or port is left out and the rest stands; a bad
    name or address type refuses the slice.
    """
    service = service_of(endpoint_slice)
    meta = endpoint_slice.metadata
    if service is None or meta is None or meta.labels is None:
        return None, ()
    if meta.labels.proxy_name is not None or meta.labels.headless is not None:
        return None, ()
    address_type = endpoint_slice.address_type
    if address_type is None and endpoint_slice.api_version == _V1BETA1:
        address_type = "IPv4"
    if address_type == "FQDN":
        return None, ()
    name = meta.name or ""
    refusals = Refusals("EndpointSlice", service.namespace, name)
    check_subdomain("metadata.name", name, refusals)
    check_label("metadata.namespace", service.namespace, refusals)
    if not is_label(service.name):
        field = "metadata.labels[kubernetes.io/service-name]"
        refusals.add(field, service.name, Reason.NOT_A_LABEL)
    family = _FAMILIES.get(address_type or "")
    if family is None:
        expected = "IPv4, IPv6 or FQDN"
        refusals.add("addressType", address_type, Reason.UNKNOWN_VALUE, expected)
    if family is None or refusals.problems:
        return None, tuple(refusals.problems)
    whole = EndpointSlice(
        namespace=service.namespace,
        name=name,
        service=service,
        family=family,
        ports=endpoint_ports("ports", endpoint_slice.ports or (), refusals),
        endpoints=_endpoints(endpoint_slice.endpoints or (), family, refusals),
    )
    return whole, tuple(refusals.problems)


_Fault: TypeAlias = tuple[str, object, Reason, str]
"""Of one endpoint: field, value, reason, detail."""


def _endpoints(
    endpoints: Iterable[wire.Endpoint], family: Family, refusals: Refusals
) -> tuple[Endpoint, ...]:
    good: list[Endpoint] = []
    for index, endpoint in enumerate(endpoints):
        fault = _fault(endpoint, family)
        if fault is None:
            good.append(_endpoint(endpoint))
        else:
            field, value, reason, detail = fault
            refusals.add(f"endpoints[{index}].{field}", value, reason, detail)
    return tuple(good)


def _fault(endpoint: wire.Endpoint, family: Family) -> _Fault | None:
    """The first thing that keeps an endpoint from being used."""
    if not endpoint.addresses:
        return "addresses", None, Reason.NO_ADDRESS, ""
    text = endpoint.addresses[0]
    fault = destination_fault(endpoint_address(text), family)
    if fault is not None:
        return "addresses[0]", text, *fault
    node = _node_name(endpoint)
    if node and not is_subdomain(node):
        return "nodeName", node, Reason.NOT_A_SUBDOMAIN, ""
    return None if endpoint.hints is None else _hint_fault(endpoint.hints)


def _hint_fault(hints: wire.Hints) -> _Fault | None:
    """Zones are values of labels, nodes are names."""
    for index, zone in enumerate(hints.for_zones or ()):
        if not is_label_value(zone.name or ""):
            return f"hints.forZones[{index}].name", zone.name, Reason.NOT_A_LABEL_VALUE, ""
    for index, node in enumerate(hints.for_nodes or ()):
        if not is_subdomain(node.name or ""):
            return f"hints.forNodes[{index}].name", node.name, Reason.NOT_A_SUBDOMAIN, ""
    return None


def _endpoint(endpoint: wire.Endpoint) -> Endpoint:
    """One faultless endpoint by its first address, the only one kube-proxy reads."""
    assert endpoint.addresses
    address = endpoint_address(endpoint.addresses[0])
    assert isinstance(address, str)
    conditions, hints = endpoint.conditions or _NO_CONDITIONS, endpoint.hints
    return Endpoint(
        address=address,
        ready=conditions.ready is not False,
        serving=conditions.serving is not False,
        terminating=conditions.terminating is True,
        node=_node_name(endpoint),
        zones=tuple(zone.name or "" for zone in hints.for_zones or ()) if hints else (),
        nodes=tuple(node.name or "" for node in hints.for_nodes or ()) if hints else (),
    )


def _node_name(endpoint: wire.Endpoint) -> str:
    if endpoint.node_name is None and endpoint.topology is not None:
        return endpoint.topology.hostname or ""
    return endpoint.node_name or ""
