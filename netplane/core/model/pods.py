"""Pods, and the slices the endpoint slice controller would make of them for a Service.

The controller's rules (k8s.io/endpointslice and pkg/controller/util/endpoint): a Pod counts when
its labels hold the whole selector, its phase is not terminal and it has an address of the family;
Pods whose named target ports come to different numbers go to different slices.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from netplane.core.model import wire
from netplane.core.model.address import Family, family_of, of_family
from netplane.core.model.checks import PROTOCOLS, check_namespace, check_subdomain, is_port
from netplane.core.model.destinations import endpoint_address
from netplane.core.model.names import common_subdomain
from netplane.core.model.problem import Problem
from netplane.core.model.reasons import Reason, Refusals
from netplane.core.model.service import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Node,
    Protocol,
    Service,
)

_TERMINAL = frozenset({"Succeeded", "Failed"})
_ZONE_HINTS = frozenset({"PreferClose", "PreferSameZone", "PreferSameNode"})


class Pod(msgspec.Struct, frozen=True, kw_only=True):
    """A Pod that can be an endpoint.

    Attributes:
        addresses: At most the first of each family.
        ports: Numbers of named container ports, by name and protocol.
    """

    namespace: str
    name: str
    labels: Mapping[str, str]
    addresses: tuple[str, ...]
    node: str
    ready: bool
    terminating: bool
    ports: Mapping[tuple[str, Protocol], int]


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """What of a Service decides which Pods are its endpoints, and how.

    Attributes:
        selector: Labels a Pod must have; never empty.
        targets: The target port per Service port, in their order: a number or a name.
        distribution: ``spec.trafficDistribution``, "" where there is none.
    """

    selector: Mapping[str, str]
    targets: tuple[int | str, ...]
    publish_not_ready: bool = False
    distribution: str = ""


def pod_from(pod: wire.Pod) -> tuple[Pod | None, tuple[Problem, ...]]:
    """The Pod, None without problems where it is no endpoint: terminal, or without address."""
    meta = pod.metadata or wire.ObjectMeta()
    spec = pod.spec or wire.PodSpec()
    status = pod.status or wire.PodStatus()
    if status.phase in _TERMINAL:
        return None, ()
    namespace, name = meta.namespace or "default", meta.name or ""
    refusals = Refusals("Pod", namespace, name)
    check_namespace(namespace, refusals)
    check_subdomain("metadata.name", name, refusals)
    node = common_subdomain(spec.node_name) if spec.node_name else ""
    if node is None:
        refusals.add("spec.nodeName", spec.node_name, Reason.NOT_A_SUBDOMAIN)
    if node is None or refusals.problems:
        return None, tuple(refusals.problems)
    addresses = _addresses(status, refusals)
    if not addresses:
        return None, tuple(refusals.problems)
    whole = Pod(
        namespace=namespace,
        name=name,
        labels={key: value or "" for key, value in (meta.labels or {}).items()},
        addresses=addresses,
        node=node,
        ready=any(c.type == "Ready" and c.status == "True" for c in status.conditions or ()),
        terminating=bool(meta.deletion_timestamp),
        ports=_named_ports(spec),
    )
    return whole, tuple(refusals.problems)


def selection_from(service: wire.Service) -> Selection | None:
    """How a Service selects Pods; None for one without selector, whose endpoints others keep."""
    spec = service.spec
    if spec is None or not spec.selector:
        return None
    return Selection(
        selector={key: value or "" for key, value in spec.selector.items()},
        targets=tuple(p.target_port or p.port or 0 for p in spec.ports or ()),
        publish_not_ready=spec.publish_not_ready_addresses is True,
        distribution=spec.traffic_distribution or "",
    )


class PodIndex:
    """Pods by namespace and label, so that a selector looks at few of them."""

    def __init__(self, pods: Iterable[Pod]) -> None:
        self._by_label: defaultdict[tuple[str, str, str], list[Pod]] = defaultdict(list)
        for pod in sorted(pods, key=lambda p: (p.namespace, p.name)):
            for key, value in pod.labels.items():
                self._by_label[pod.namespace, key, value].append(pod)

    def select(self, namespace: str, selector: Mapping[str, str]) -> list[Pod]:
        """The namespace's Pods that have every label of a selector, sorted by name."""
        candidates = min(
            (self._by_label.get((namespace, k, v), []) for k, v in selector.items()), key=len
        )
        wanted = selector.items()
        return [pod for pod in candidates if wanted <= pod.labels.items()]


def computed_slices(
    service: Service, selection: Selection, pods: Sequence[Pod], nodes: Mapping[str, Node]
) -> tuple[EndpointSlice, ...]:
    """The slices of a Service from the Pods it selects, sorted; one per family and port list.

    A Pod whose Node object is missing waits, unless the Service publishes addresses that are not
    ready; where the input holds no Node at all, Nodes were not exported and none is waited for.
    """
    slices: list[EndpointSlice] = []
    for family in sorted({family_of(a) for a in service.cluster_ips}):
        groups: dict[tuple[EndpointPort, ...], list[Endpoint]] = {}
        for pod in pods:
            missing = bool(nodes) and bool(pod.node) and pod.node not in nodes
            address = of_family(pod.addresses, family)
            if address and not (missing and not selection.publish_not_ready):
                ports = _resolved_ports(service, selection, pod)
                endpoint = _endpoint(address[0], pod, selection, nodes)
                groups.setdefault(ports, []).append(endpoint)
        for number, ports in enumerate(sorted(groups, key=_port_order)):
            slices.append(
                EndpointSlice(
                    namespace=service.key.namespace,
                    name=f"{service.key.name}-computed-ipv{family.value}-{number}",
                    service=service.key,
                    family=family,
                    ports=ports,
                    endpoints=tuple(groups[ports]),
                )
            )
    return tuple(slices)


def _port_order(ports: tuple[EndpointPort, ...]) -> tuple[tuple[str, int, int], ...]:
    return tuple((p.name, p.protocol, p.number) for p in ports)


def _resolved_ports(service: Service, selection: Selection, pod: Pod) -> tuple[EndpointPort, ...]:
    """The Service's ports as numbers on this Pod; a name no container has leaves its port out."""
    resolved = []
    for port, target in zip(service.ports, selection.targets, strict=True):
        number = target
        if isinstance(number, str):
            number = pod.ports.get((number, port.protocol), 0)
        if number:
            resolved.append(EndpointPort(port.name, port.protocol, number))
    return tuple(resolved)


def _endpoint(address: str, pod: Pod, selection: Selection, nodes: Mapping[str, Node]) -> Endpoint:
    zone = nodes[pod.node].zone if pod.node in nodes else ""
    hint_zone = bool(zone) and selection.distribution in _ZONE_HINTS
    hint_node = bool(pod.node) and selection.distribution == "PreferSameNode"
    return Endpoint(
        address=address,
        ready=selection.publish_not_ready or (pod.ready and not pod.terminating),
        serving=pod.ready,
        terminating=pod.terminating,
        node=pod.node,
        zones=(zone,) if hint_zone else (),
        nodes=(pod.node,) if hint_node else (),
    )


def _addresses(status: wire.PodStatus, refusals: Refusals) -> tuple[str, ...]:
    """The first good address of each family, from podIPs or, before 1.16, podIP."""
    texts = {f"status.podIPs[{i}].ip": p.ip for i, p in enumerate(status.pod_ips or ()) if p.ip}
    if not texts and status.pod_ip:
        texts = {"status.podIP": status.pod_ip}
    firsts: dict[Family, str] = {}
    for field, text in texts.items():
        address = endpoint_address(text)
        if isinstance(address, Reason):
            refusals.add(field, text, address)
        else:
            firsts.setdefault(family_of(address), address)
    return tuple(firsts.values())


def _named_ports(spec: wire.PodSpec) -> dict[tuple[str, Protocol], int]:
    """Container ports that a targetPort can name; the first container that has one decides.

    Init containers count where they keep running (``restartPolicy: Always``, a sidecar).
    """
    sidecars = [c for c in spec.init_containers or () if c.restart_policy == "Always"]
    named: dict[tuple[str, Protocol], int] = {}
    for container in (*(spec.containers or ()), *sidecars):
        for port in container.ports or ():
            protocol, number = PROTOCOLS.get(port.protocol), port.container_port
            if port.name and protocol is not None and number and is_port(number):
                named.setdefault((port.name, protocol), number)
    return named
