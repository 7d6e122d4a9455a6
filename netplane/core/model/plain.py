"""Services and slices as nearly all of them are, read at a glance.

A controller writes objects in which everything is canonical, and most use few of the API's fields.
To see that one is such takes half to two thirds of the time of reading it field by field. Here is
no refusal and no default that is not obvious: of any object that is not plain, a bad one among
them, nothing is said here (None), and ``services`` and ``slices`` read it with care. Both must
agree.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from netplane.core.model import wire
from netplane.core.model.address import Family
from netplane.core.model.checks import MAX_PORT, PROTOCOLS
from netplane.core.model.destinations import OCTETS, is_ordinary_network
from netplane.core.model.names import (
    canonical_time,
    common_label,
    common_subdomain,
    is_label,
    is_port_name,
    is_subdomain,
)
from netplane.core.model.service import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Service,
    ServiceName,
    ServicePort,
)

_ONLY_IPV4 = ["IPv4"]
_IPV4 = Family.IPV4


def plain_service(service: wire.Service) -> Service | None:
    """A Service with one IPv4 ClusterIP, one port, and nothing else; None of any other."""
    meta, spec = service.metadata, service.spec
    if meta is None or spec is None or _has_more(meta, spec, service.status):
        return None
    cluster_ip, ports, name, created = (
        spec.cluster_ip,
        spec.ports,
        meta.name,
        meta.creation_timestamp,
    )
    if not cluster_ip or spec.cluster_ips != [cluster_ip] or spec.ip_families != _ONLY_IPV4:
        return None
    network, _, last = cluster_ip.rpartition(".")
    if last not in OCTETS or not is_ordinary_network(network) or not ports or len(ports) > 1:
        return None
    port, namespace = _plain_port(ports[0]), common_label(meta.namespace or "default")
    if port is None or namespace is None or not name or not is_label(name):
        return None
    if created and canonical_time(created) != created:
        return None
    return Service(
        key=ServiceName(namespace, name),
        cluster_ips=(cluster_ip,),
        ports=(port,),
        created=created or "",
    )


def _has_more(
    meta: wire.ServiceMeta, spec: wire.ServiceSpec, status: wire.ServiceStatus | None
) -> bool:
    """Whether a Service has what few have: another type, outside addresses, policies, affinity."""
    return bool(
        (spec.type is not None and spec.type != "ClusterIP")
        or (spec.internal_traffic_policy and spec.internal_traffic_policy != "Cluster")
        or spec.external_traffic_policy
        or (spec.session_affinity and spec.session_affinity != "None")
        or spec.external_ips
        or spec.load_balancer_source_ranges
        or spec.health_check_node_port
        or (meta.labels is not None and meta.labels.proxy_name is not None)
        or (meta.labels is not None and meta.labels.headless is not None)
        or (status is not None and status.load_balancer and status.load_balancer.ingress)
    )


def _plain_port(port: wire.ServicePort) -> ServicePort | None:
    """A good port of a Service without a nodePort."""
    target = port.target_port
    if isinstance(target, str):
        is_target = not target or is_port_name(target)
    else:
        is_target = not target or 0 < target <= MAX_PORT
    if port.node_port or not is_target:
        return None
    return _service_port(port.name, port.protocol, port.port)


@functools.lru_cache(maxsize=1 << 12)
def _service_port(
    name: str | None, protocol: str | None, number: int | None
) -> ServicePort | None:
    """A good port of a Service, one object for all that are equal; None of any other."""
    known = PROTOCOLS.get(protocol)
    if known is None or number is None or not 0 < number <= MAX_PORT:
        return None
    if name and not is_label(name):
        return None
    return ServicePort(name or "", known, number)


def plain_slice(service: ServiceName, endpoint_slice: wire.EndpointSlice) -> EndpointSlice | None:
    """A slice of IPv4 endpoints without hints for this Service; None of any other.

    Args:
        service: The Service it feeds.
        endpoint_slice: The slice.
    """
    meta = endpoint_slice.metadata
    if meta is None or meta.labels is None or endpoint_slice.address_type != "IPv4":
        return None
    if meta.labels.proxy_name is not None or meta.labels.headless is not None:
        return None
    name = meta.name
    if not name or not is_subdomain(name):
        return None
    if common_label(service.namespace) is None or not is_label(service.name):
        return None
    ports = _plain_ports(endpoint_slice.ports or ())
    endpoints = None if ports is None else _plain_endpoints(endpoint_slice.endpoints or ())
    if ports is None or endpoints is None:
        return None
    return EndpointSlice(
        namespace=service.namespace,
        name=name,
        service=service,
        family=_IPV4,
        ports=ports,
        endpoints=endpoints,
    )


def _plain_ports(ports: Sequence[wire.EndpointPort]) -> tuple[EndpointPort, ...] | None:
    found = []
    for port in ports:
        known = _endpoint_port(port.name, port.protocol, port.port)
        if known is None:
            return None
        found.append(known)
    if len(found) > 1 and len({port.name for port in found}) < len(found):
        return None
    return tuple(found)


@functools.lru_cache(maxsize=1 << 12)
def _endpoint_port(
    name: str | None, protocol: str | None, number: int | None
) -> EndpointPort | None:
    """A good port of a slice, one object for all that are equal; None of any other."""
    known = PROTOCOLS.get(protocol)
    if known is None or number is None or not 0 < number <= MAX_PORT:
        return None
    if name and not is_label(name):
        return None
    return EndpointPort(name or "", known, number)


def _plain_endpoints(endpoints: Sequence[wire.Endpoint]) -> tuple[Endpoint, ...] | None:
    """The endpoints, all of them good; one path for each of half a million, so without calls."""
    found = []
    for endpoint in endpoints:
        addresses, node = endpoint.addresses, endpoint.node_name
        if not addresses or endpoint.hints is not None or endpoint.topology is not None:
            return None
        address = addresses[0]
        network, _, last = address.rpartition(".")
        if last not in OCTETS or not is_ordinary_network(network):
            return None
        node = common_subdomain(node) if node else ""
        if node is None:
            return None
        given = endpoint.conditions
        if given is None:
            found.append(Endpoint(address, node=node))
            continue
        ready, serving = given.ready is not False, given.serving is not False
        found.append(Endpoint(address, ready, serving, given.terminating is True, node))
    return tuple(found)
