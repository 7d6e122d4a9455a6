"""The plan of one service port in one family: what both modes compile."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from netplane.core.model.address import Family, join_host_port
from netplane.core.model.service import Protocol, ServiceName


class Backend(NamedTuple):
    """An endpoint selected on this node: canonical address and port."""

    address: str
    port: int

    def __str__(self) -> str:
        return join_host_port(*self)


class PortPlan(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What traffic to one service port should do on this node, in one IP family.

    Backends are sorted by their text (``address:port``) and free of duplicates.

    Attributes:
        cluster_ip: Canonical; "" where a collision took it away.
        port: The service port, host order.
        external_ips: Of this family.
        load_balancer_ips: Of this family.
        node_port: 0 without one.
        cluster: Backends under the policy Cluster; () where no frontend uses that policy.
        local: Backends under the policy Local; () where no frontend uses that policy.
        here: Those of ``reachable`` that run on this node (they may call themselves: hairpin).
        has_endpoints: Any endpoint anywhere is usable (ready, or serving and terminating).
        serving: Every serving endpoint whatever the policies, for conntrack; () unless UDP.
        source_ranges: Canonical networks of this family that may use the load balancer addresses;
            () means everyone.
        vips_may_enter: A source range holds this node's primary address, so the load balancer
            addresses count as sources too.
        affinity_seconds: ClientIP timeout, 0 without.
        health_check_node_port: 0 without; opened in the filter table.
    """

    service: ServiceName
    port_name: str
    protocol: Protocol
    family: Family
    cluster_ip: str
    port: int
    external_ips: tuple[str, ...] = ()
    load_balancer_ips: tuple[str, ...] = ()
    node_port: int = 0
    internal_local: bool = False
    external_local: bool = False
    cluster: tuple[Backend, ...] = ()
    local: tuple[Backend, ...] = ()
    here: tuple[Backend, ...] = ()
    has_endpoints: bool = False
    serving: tuple[Backend, ...] = ()
    source_ranges: tuple[str, ...] = ()
    vips_may_enter: bool = False
    affinity_seconds: int = 0
    health_check_node_port: int = 0

    @property
    def label(self) -> str:
        """``namespace/name`` and, if the port has a name, ``:port-name`` (reference 1.1)."""
        base = f"{self.service.namespace}/{self.service.name}"
        return f"{base}:{self.port_name}" if self.port_name else base

    @property
    def externally_accessible(self) -> bool:
        """Whether anything but the ClusterIP leads here."""
        return bool(self.node_port or self.load_balancer_ips or self.external_ips)

    @property
    def reachable(self) -> tuple[Backend, ...]:
        """The union of both policies' backends, sorted by text."""
        if not self.local or self.local == self.cluster:
            return self.cluster or self.local
        if not self.cluster:
            return self.local
        return tuple(sorted({*self.cluster, *self.local}, key=Backend.__str__))

    @property
    def internal_backends(self) -> tuple[Backend, ...]:
        """Who answers on the ClusterIP."""
        return self.local if self.internal_local else self.cluster

    @property
    def external_backends(self) -> tuple[Backend, ...]:
        """Who answers outside clients."""
        return self.local if self.external_local else self.cluster

    @property
    def has_internal(self) -> bool:
        """Whether the ClusterIP leads to a backend; else it rejects, or drops (policy Local)."""
        return self.has_endpoints and (not self.internal_local or bool(self.local))

    @property
    def has_external(self) -> bool:
        """Whether outside clients find a backend; else they are rejected or dropped."""
        return self.has_endpoints and (not self.external_local or bool(self.local))
