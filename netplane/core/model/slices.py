"""An EndpointSlice as it travels into one to be used, with the problems of the parts left out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from netplane.core.model import wire
from netplane.core.model.address import Family
from netplane.core.model.checks import check_namespace, check_subdomain, endpoint_ports
from netplane.core.model.destinations import endpoint_address
from netplane.core.model.names import common_label, common_subdomain, is_label, is_label_value
from netplane.core.model.plain import plain_slice
from netplane.core.model.problem import Problem
from netplane.core.model.reasons import Reason, Refusals
from netplane.core.model.service import Endpoint, EndpointSlice, ServiceName

_FAMILIES = {"IPv4": Family.IPV4, "IPv6": Family.IPV6}
_V1BETA1 = "discovery.k8s.io/v1beta1"
_NO_CONDITIONS = wire.Conditions()
_IPV6 = Family.IPV6  # in a name of its own: before Python 3.12 a member takes 0.1 us to look up


def service_of(endpoint_slice: wire.EndpointSlice) -> ServiceName | None:
    """The Service a slice says it feeds, whether or not the slice itself is any good."""
    meta = endpoint_slice.metadata
    if meta is None or meta.labels is None or not meta.labels.service:
        return None
    namespace = meta.namespace or "default"
    return ServiceName(common_label(namespace) or namespace, meta.labels.service)


def slice_from(
    endpoint_slice: wire.EndpointSlice,
) -> tuple[EndpointSlice | None, tuple[Problem, ...]]:
    """The slice, with the problems of the parts left out; None without any: not for us.

    Not for us are slices that feed no Service, those labelled headless or given to another proxy,
    and those of host names (FQDN). A bad endpoint or port is left out and the rest stands; a bad
    name or address type refuses the slice.
    """
    service = service_of(endpoint_slice)
    return (None, ()) if service is None else slice_of(service, endpoint_slice)


def slice_of(
    service: ServiceName, endpoint_slice: wire.EndpointSlice
) -> tuple[EndpointSlice | None, tuple[Problem, ...]]:
    """As ``slice_from``, for a slice that is known to feed this Service."""
    plain = plain_slice(service, endpoint_slice)
    return (plain, ()) if plain is not None else slice_with_care(service, endpoint_slice)


def slice_with_care(
    service: ServiceName, endpoint_slice: wire.EndpointSlice
) -> tuple[EndpointSlice | None, tuple[Problem, ...]]:
    """As ``slice_of``, of any slice field by field."""
    meta = endpoint_slice.metadata
    if meta is None or meta.labels is None:
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
    check_namespace(service.namespace, refusals)
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
    for index, wired in enumerate(endpoints):
        endpoint = _endpoint(wired, family)
        # Asking for tuple rather than Endpoint: a class with a metaclass takes thrice as long.
        if isinstance(endpoint, tuple):
            field, value, reason, detail = endpoint
            refusals.add(f"endpoints[{index}].{field}", value, reason, detail)
        else:
            good.append(endpoint)
    return tuple(good)


def _endpoint(endpoint: wire.Endpoint, family: Family) -> Endpoint | _Fault:
    """One endpoint by its first address, the only one kube-proxy reads, or its first fault."""
    if not endpoint.addresses:
        return "addresses", None, Reason.NO_ADDRESS, ""
    address = endpoint_address(endpoint.addresses[0])
    if not isinstance(address, str):
        return "addresses[0]", endpoint.addresses[0], address, ""
    if (":" in address) != (family is _IPV6):
        return "addresses[0]", endpoint.addresses[0], Reason.WRONG_FAMILY, f"IPv{family.value}"
    node_name = endpoint.node_name
    if endpoint.topology is not None:
        node_name = node_name or endpoint.topology.hostname
    node = common_subdomain(node_name) if node_name else ""
    if node is None:
        return "nodeName", node_name, Reason.NOT_A_SUBDOMAIN, ""
    hints = endpoint.hints
    if hints is not None and (fault := _hint_fault(hints)) is not None:
        return fault
    conditions = endpoint.conditions or _NO_CONDITIONS
    ready, serving = conditions.ready is not False, conditions.serving is not False
    terminating = conditions.terminating is True
    zones: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    if hints is not None:
        zones = tuple([zone.name or "" for zone in hints.for_zones or ()])
        nodes = tuple([other.name or "" for other in hints.for_nodes or ()])
    return Endpoint(address, ready, serving, terminating, node, zones, nodes)


def _hint_fault(hints: wire.Hints) -> _Fault | None:
    """Zones are values of labels, nodes are names."""
    for index, zone in enumerate(hints.for_zones or ()):
        if not is_label_value(zone.name or ""):
            return f"hints.forZones[{index}].name", zone.name, Reason.NOT_A_LABEL_VALUE, ""
    for index, node in enumerate(hints.for_nodes or ()):
        if common_subdomain(node.name or "") is None:
            return f"hints.forNodes[{index}].name", node.name, Reason.NOT_A_SUBDOMAIN, ""
    return None
