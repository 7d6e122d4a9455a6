"""The validated objects a snapshot is made of: Service, EndpointSlice, Node.

They are small immutable structs with only what the plan needs, in canonical form: addresses by
``netplane.core.model.address``, protocols as numbers, absent values as "" or 0. What is in them
has passed validation; everything after the door may trust it.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import msgspec

from netplane.core.model.address import Family


class Protocol(enum.IntEnum):
    """A transport protocol, by its IANA number (the value of ``meta l4proto``)."""

    TCP = 6
    UDP = 17
    SCTP = 132

    @property
    def text(self) -> str:
        """The lower-case name rules and hashes use: ``tcp``, ``udp``, ``sctp``."""
        return self.name.lower()


class ServiceName(NamedTuple):
    """A Service's namespace and name; prints as ``namespace/name``."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class ServicePort(msgspec.Struct, frozen=True, gc=False):
    """One port of a Service; ``node_port`` is 0 where none is allocated."""

    name: str
    protocol: Protocol
    port: int
    node_port: int = 0


class Service(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A Service that has something to program on a node.

    Attributes:
        cluster_ips: At most one per family.
        external_ips: ``spec.externalIPs`` of both families.
        load_balancer_ips: Ingress addresses that are captured (ipMode VIP or unset).
        source_ranges: ``spec.loadBalancerSourceRanges`` as canonical networks of both families.
        internal_local: ``internalTrafficPolicy: Local``.
        external_local: ``externalTrafficPolicy: Local`` on an externally accessible Service.
        affinity_seconds: The ClientIP timeout, 0 without affinity.
        health_check_node_port: 0 unless LoadBalancer with the external policy Local.
        created: ``metadata.creationTimestamp``, RFC 3339 text, "" where unknown.
    """

    key: ServiceName
    cluster_ips: tuple[str, ...]
    ports: tuple[ServicePort, ...]
    external_ips: tuple[str, ...] = ()
    load_balancer_ips: tuple[str, ...] = ()
    source_ranges: tuple[str, ...] = ()
    internal_local: bool = False
    external_local: bool = False
    affinity_seconds: int = 0
    health_check_node_port: int = 0
    created: str = ""


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    """One endpoint of a slice: its first address, its conditions with defaults applied, its hints.

    Attributes:
        node: ``nodeName``, "" where unknown.
        zones: ``hints.forZones[].name``.
        nodes: ``hints.forNodes[].name``.
    """

    address: str
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node: str = ""
    zones: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


class EndpointPort(msgspec.Struct, frozen=True, gc=False):
    """One port of a slice; ports without a number have been left out."""

    name: str
    protocol: Protocol
    number: int


class EndpointSlice(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A slice of one family, feeding one Service (label ``kubernetes.io/service-name``)."""

    namespace: str
    name: str
    service: ServiceName
    family: Family
    ports: tuple[EndpointPort, ...]
    endpoints: tuple[Endpoint, ...]


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A Node: its zone label, its InternalIP and ExternalIP addresses in order, its pod CIDRs."""

    name: str
    zone: str = ""
    addresses: tuple[str, ...] = ()
    pod_cidrs: tuple[str, ...] = ()
