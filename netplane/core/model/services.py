"""A Service as it travels into a Service to be programmed, or its refusals.

The defaults and the rules are the API server's (k8s.io/kubernetes pkg/apis/core/validation), the
reading of them kube-proxy's (pkg/proxy/serviceport.go): the type of a Service hardly counts,
nodePort, externalIPs and the load balancer's ingress are honoured wherever they appear.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from netplane.core.model import wire
from netplane.core.model.address import Family, canonical_network, family_of
from netplane.core.model.checks import (
    MAX_PORT,
    PROTOCOL_NAMES,
    PROTOCOLS,
    check_label,
    check_namespace,
    is_port,
)
from netplane.core.model.destinations import cluster_address, endpoint_address
from netplane.core.model.names import canonical_time, common_label, is_port_name
from netplane.core.model.plain import plain_service
from netplane.core.model.problem import Problem
from netplane.core.model.reasons import Reason, Refusals
from netplane.core.model.service import Protocol, Service, ServiceName, ServicePort

_TYPES = frozenset({"ClusterIP", "NodePort", "LoadBalancer", "ExternalName"})
_POLICIES = frozenset({None, "", "Cluster", "Local"})
_AFFINITIES = frozenset({None, "", "None", "ClientIP"})
_IP_MODES = frozenset({None, "", "VIP", "Proxy"})
_ONLY_IPV4 = ["IPv4"]
_FAMILIES = {"IPv4": Family.IPV4, "IPv6": Family.IPV6}
_DEFAULT_TIMEOUT = 10800
_MAX_TIMEOUT = 86400


def service_from(service: wire.Service) -> tuple[Service | None, tuple[Problem, ...]]:
    """The Service, or None with its problems, or None without any: nothing to program.

    There is nothing to program for headless and ExternalName Services, nor for those that the
    label ``service.kubernetes.io/service-proxy-name`` gives to another proxy, or the label
    ``service.kubernetes.io/headless`` to none. A Service with a fault is refused as a whole;
    each of its faults is one problem.
    """
    plain = plain_service(service)
    return (plain, ()) if plain is not None else service_with_care(service)


def service_with_care(service: wire.Service) -> tuple[Service | None, tuple[Problem, ...]]:
    """As ``service_from``, of any Service field by field."""
    meta = service.metadata or wire.ServiceMeta()
    spec = service.spec or wire.ServiceSpec()
    if not _is_ours(meta, spec):
        return None, ()
    namespace = meta.namespace or "default"
    key = ServiceName(common_label(namespace) or namespace, meta.name or "")
    refusals = Refusals("Service", key.namespace, key.name)
    check_label("metadata.name", key.name, refusals)
    check_namespace(key.namespace, refusals)
    kind = spec.type or "ClusterIP"
    if kind not in _TYPES:
        expected = "ClusterIP, NodePort, LoadBalancer or ExternalName"
        refusals.add("spec.type", kind, Reason.UNKNOWN_VALUE, expected)
    external_ips = _external_ips(spec, refusals)
    external_local = _is_local("external", spec.external_traffic_policy, refusals) and (
        kind != "ClusterIP" or bool(external_ips)
    )
    health_check = spec.health_check_node_port or 0
    if not is_port(health_check):
        refusals.add("spec.healthCheckNodePort", health_check, Reason.PORT_RANGE)
    whole = Service(
        key=key,
        cluster_ips=_cluster_ips(spec, refusals),
        ports=_ports(spec.ports or (), refusals),
        external_ips=external_ips,
        load_balancer_ips=_load_balancer_ips(service.status, refusals),
        source_ranges=_source_ranges(spec, refusals),
        internal_local=_is_local("internal", spec.internal_traffic_policy, refusals),
        external_local=external_local,
        affinity_seconds=_affinity_seconds(spec, refusals),
        health_check_node_port=health_check if external_local and kind == "LoadBalancer" else 0,
        created=_created(meta.creation_timestamp, refusals),
    )
    return (None if refusals.problems else whole), tuple(refusals.problems)


def _is_ours(meta: wire.ServiceMeta, spec: wire.ServiceSpec) -> bool:
    labels = meta.labels
    if labels is not None and (labels.proxy_name is not None or labels.headless is not None):
        return False
    if spec.type == "ExternalName" or spec.cluster_ip == "None":
        return False
    return not (spec.cluster_ips and spec.cluster_ips[0] == "None")


def _cluster_ips(spec: wire.ServiceSpec, refusals: Refusals) -> tuple[str, ...]:
    """The clusterIP of each family: where ipFamilies names it, without ipFamilies by its form."""
    if spec.cluster_ips == [spec.cluster_ip] and spec.ip_families == _ONLY_IPV4:
        # What nearly every Service has; the careful way takes four times as long.
        address = cluster_address(spec.cluster_ips[0])
        if isinstance(address, str) and ":" not in address:
            return (address,)
    return _checked_cluster_ips(spec, refusals)


def _checked_cluster_ips(spec: wire.ServiceSpec, refusals: Refusals) -> tuple[str, ...]:
    texts = [t for t in spec.cluster_ips or () if t]
    first = spec.cluster_ip or ""
    if not texts:
        if not first:
            refusals.add("spec.clusterIP", None, Reason.NOT_ALLOCATED)
            return ()
        texts = [first]
    addresses: list[str] = []
    families = _ip_families(spec.ip_families or (), refusals)
    for index, text in enumerate(texts):
        field = f"spec.clusterIPs[{index}]" if spec.cluster_ips else "spec.clusterIP"
        address = cluster_address(text)
        if isinstance(address, Reason):
            refusals.add(field, text, address)
        elif any(family_of(a) is family_of(address) for a in addresses):
            refusals.add(field, text, Reason.TOO_MANY_CLUSTER_IPS)
        elif index < len(families) and family_of(address) is not families[index]:
            expected = f"IPv{families[index].value}, as ipFamilies[{index}] says"
            refusals.add(field, text, Reason.WRONG_FAMILY, expected)
        elif not families or index < len(families):
            addresses.append(address)
    if first and cluster_address(first) != cluster_address(texts[0]):
        refusals.add("spec.clusterIP", first, Reason.UNEQUAL_CLUSTER_IPS)
    return tuple(addresses)


def _ip_families(texts: Iterable[str], refusals: Refusals) -> list[Family]:
    families: list[Family] = []
    for index, text in enumerate(texts):
        field = f"spec.ipFamilies[{index}]"
        family = _FAMILIES.get(text)
        if family is None:
            refusals.add(field, text, Reason.UNKNOWN_VALUE, "IPv4 or IPv6")
        elif family in families:
            refusals.add(field, text, Reason.DUPLICATE_FAMILY)
        else:
            families.append(family)
    return families


def _ports(ports: Iterable[wire.ServicePort], refusals: Refusals) -> tuple[ServicePort, ...]:
    whole = [_port(index, port, refusals) for index, port in enumerate(ports)]
    if not whole:
        refusals.add("spec.ports", None, Reason.NO_PORTS)
    elif len(whole) > 1:
        _check_distinct(whole, refusals)
    return tuple(whole)


def _port(index: int, port: wire.ServicePort, refusals: Refusals) -> ServicePort:
    given = port.name or ""
    name = common_label(given)
    number, node_port = port.port or 0, port.node_port or 0
    target, protocol = port.target_port, PROTOCOLS.get(port.protocol)
    if given and name is None:
        refusals.add(f"spec.ports[{index}].name", given, Reason.NOT_A_LABEL)
    if protocol is None:
        field = f"spec.ports[{index}].protocol"
        refusals.add(field, port.protocol, Reason.UNKNOWN_VALUE, PROTOCOL_NAMES)
    if not 0 < number <= MAX_PORT:
        refusals.add(f"spec.ports[{index}].port", port.port, Reason.PORT_RANGE)
    if not 0 <= node_port <= MAX_PORT:
        refusals.add(f"spec.ports[{index}].nodePort", node_port, Reason.PORT_RANGE)
    if isinstance(target, str):
        if target and not is_port_name(target):
            refusals.add(f"spec.ports[{index}].targetPort", target, Reason.NOT_A_PORT_NAME)
    elif target and not 0 < target <= MAX_PORT:
        refusals.add(f"spec.ports[{index}].targetPort", target, Reason.PORT_RANGE)
    return ServicePort(name or given, protocol or Protocol.TCP, number, node_port)


def _check_distinct(ports: list[ServicePort], refusals: Refusals) -> None:
    """Several ports need names, and no two may have the same name, number or nodePort."""
    names: set[str] = set()
    numbers: set[tuple[Protocol, int]] = set()
    node_ports: set[tuple[Protocol, int]] = set()
    for index, port in enumerate(ports):
        field = f"spec.ports[{index}]"
        if not port.name:
            refusals.add(f"{field}.name", None, Reason.NAME_NEEDED)
        elif port.name in names:
            refusals.add(f"{field}.name", port.name, Reason.DUPLICATE_NAME)
        names.add(port.name)
        if (port.protocol, port.port) in numbers:
            refusals.add(f"{field}.port", port.port, Reason.DUPLICATE_PORT)
        numbers.add((port.protocol, port.port))
        if (port.protocol, port.node_port) in node_ports:
            refusals.add(f"{field}.nodePort", port.node_port, Reason.DUPLICATE_NODE_PORT)
        if port.node_port:
            node_ports.add((port.protocol, port.node_port))


def _external_ips(spec: wire.ServiceSpec, refusals: Refusals) -> tuple[str, ...]:
    if not spec.external_ips:
        return ()
    texts = {f"spec.externalIPs[{i}]": text for i, text in enumerate(spec.external_ips)}
    return _destinations(texts, refusals)


def _load_balancer_ips(status: wire.ServiceStatus | None, refusals: Refusals) -> tuple[str, ...]:
    """The ingress addresses that are captured: not those of ipMode Proxy, not host names."""
    balancer = status.load_balancer if status else None
    if balancer is None or not balancer.ingress:
        return ()
    captured: dict[str, str] = {}
    for index, ingress in enumerate(balancer.ingress):
        field = f"status.loadBalancer.ingress[{index}]"
        if ingress.ip_mode not in _IP_MODES:
            mode = ingress.ip_mode
            refusals.add(f"{field}.ipMode", mode, Reason.UNKNOWN_VALUE, "VIP or Proxy")
        elif ingress.ip and ingress.ip_mode != "Proxy":
            captured[f"{field}.ip"] = ingress.ip
    return _destinations(captured, refusals)


def _destinations(texts: Mapping[str, str], refusals: Refusals) -> tuple[str, ...]:
    """External addresses, by field, in canonical form and each once."""
    addresses: dict[str, None] = {}
    for field, text in texts.items():
        address = endpoint_address(text)
        if isinstance(address, Reason):
            refusals.add(field, text, address)
        else:
            addresses[address] = None
    return tuple(addresses)


def _source_ranges(spec: wire.ServiceSpec, refusals: Refusals) -> tuple[str, ...]:
    if not spec.load_balancer_source_ranges:
        return ()
    networks: dict[str, None] = {}
    for index, text in enumerate(spec.load_balancer_source_ranges):
        network = canonical_network(text)
        if network is None:
            field = f"spec.loadBalancerSourceRanges[{index}]"
            refusals.add(field, text, Reason.NOT_A_NETWORK)
        else:
            networks[network] = None
    return tuple(networks)


def _is_local(which: str, policy: str | None, refusals: Refusals) -> bool:
    if policy not in _POLICIES:
        field = f"spec.{which}TrafficPolicy"
        refusals.add(field, policy, Reason.UNKNOWN_VALUE, "Cluster or Local")
    return policy == "Local"


def _affinity_seconds(spec: wire.ServiceSpec, refusals: Refusals) -> int:
    affinity = spec.session_affinity
    if affinity not in _AFFINITIES:
        refusals.add("spec.sessionAffinity", affinity, Reason.UNKNOWN_VALUE, "ClientIP or None")
    if affinity != "ClientIP":
        return 0
    config = spec.session_affinity_config
    timeout = config.client_ip.timeout_seconds if config and config.client_ip else None
    if timeout is None:
        return _DEFAULT_TIMEOUT
    if not 0 < timeout <= _MAX_TIMEOUT:
        field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
        refusals.add(field, timeout, Reason.TIMEOUT_RANGE)
    return timeout


def _created(text: str | None, refusals: Refusals) -> str:
    if not text:
        return ""
    time = canonical_time(text)
    if time is None:
        refusals.add("metadata.creationTimestamp", text, Reason.NOT_A_TIME)
        return ""
    return time
