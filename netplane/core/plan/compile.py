"""Snapshot to plan: for every Service, what traffic to it should do on this node."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from netplane.core.model.address import Family, contains, family_of, of_family
from netplane.core.model.service import EndpointSlice, Protocol, Service, ServicePort
from netplane.core.model.snapshot import Snapshot
from netplane.core.plan.claims import Claim, settle
from netplane.core.plan.node import FamilyView, NodeView
from netplane.core.plan.plan import FamilyPlan, HealthCheck, Plan
from netplane.core.plan.port import Backend, PortPlan
from netplane.core.plan.select import Gathered, Position, Selection, all_alike, gather, select

_NO_CLAIMS: frozenset[Claim] = frozenset()
_UDP = Protocol.UDP  # in a name of its own: before Python 3.12 a member takes 0.1 us to look up
_IPV6 = Family.IPV6


class _Frontends(NamedTuple):
    """Where one service port is reached in one family; false where it is not."""

    cluster_ip: str
    load_balancer_ips: tuple[str, ...]
    external_ips: tuple[str, ...]
    node_port: int
    check_port: int

    @property
    def external(self) -> bool:
        """Whether the external traffic policy matters."""
        return bool(self.load_balancer_ips or self.external_ips or self.node_port)

    def without(self, lost: frozenset[Claim], port: ServicePort) -> _Frontends:
        """The same without claims that belong to an older Service."""

        def kept(addresses: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(a for a in addresses if (a, port.protocol, port.port) not in lost)

        return _Frontends(
            cluster_ip="".join(kept((self.cluster_ip,))),
            load_balancer_ips=kept(self.load_balancer_ips),
            external_ips=kept(self.external_ips),
            node_port=0 if ("", port.protocol, self.node_port) in lost else self.node_port,
            check_port=0 if ("", Protocol.TCP, self.check_port) in lost else self.check_port,
        )


def build_plan(snapshot: Snapshot, node: NodeView) -> Plan:
    """Plan every Service of the snapshot for this node; faults end up in ``Plan.problems``."""
    lost, collisions = settle(snapshot.services)
    position = Position(node.name, node.zone)
    ports: dict[Family, list[PortPlan]] = {view.family: [] for view in node.families}
    colons = {":" in ip for service in snapshot.services.values() for ip in service.cluster_ips}
    used = [(v, ports[v.family]) for v in node.families if (v.family is _IPV6) in colons]
    checks: list[HealthCheck] = []
    for name in sorted(snapshot.services):
        service = snapshot.services[name]
        slices = snapshot.slices.get(name, ())
        gone = lost.get(name, _NO_CLAIMS)
        for view, planned in used:
            planned.extend(plan_service(service, slices, view, position, gone))
        if service.health_check_node_port:
            check = health_check(service, slices, position, gone)
            if check is not None:
                checks.append(check)
    return Plan(
        node=node,
        families=tuple(
            FamilyPlan(view=view, ports=tuple(ports[view.family])) for view in node.families
        ),
        health_checks=tuple(sorted(checks)),
        problems=tuple(sorted({*snapshot.problems, *collisions})),
    )


def plan_service(
    service: Service,
    slices: Sequence[EndpointSlice],
    view: FamilyView,
    position: Position,
    lost: frozenset[Claim] = _NO_CLAIMS,
) -> list[PortPlan]:
    """Plan one Service in one family, its ports sorted by name and protocol.

    Args:
        service: The Service.
        slices: Its slices, of any family.
        view: What the node is in this family.
        position: Where the node stands.
        lost: Claims that belong to an older Service.
    """
    cluster_ip = _cluster_ip(service, view.family)
    if not cluster_ip:
        return []
    local = service.internal_local or service.external_local
    alike = None if local else all_alike(slices, view.family, position.node)
    gathered = gather(slices, view.family) if alike is None else {}
    ports = service.ports
    if len(ports) > 1:
        ports = tuple(sorted(ports, key=lambda port: (port.name, port.protocol.text)))
    plans = []
    for port in ports:
        key = (port.name, port.protocol)
        endpoints = gathered.get(key, {}) if alike is None else alike.get(key, ())
        frontends = _frontends(service, port, cluster_ip, view.family, lost)
        plan = _plan_port(service, port, frontends, endpoints, view, position)
        if plan.cluster_ip or plan.externally_accessible:
            plans.append(plan)
    return plans


def _cluster_ip(service: Service, family: Family) -> str:
    """The Service's ClusterIP of a family, "" without one."""
    is_v6 = family is _IPV6
    for address in service.cluster_ips:
        if (":" in address) == is_v6:
            return address
    return ""


def _plan_port(  # noqa: PLR0913, PLR0917 (one call site, and each argument is a fact of its own)
    service: Service,
    port: ServicePort,
    frontends: _Frontends,
    endpoints: Gathered | tuple[Backend, ...],
    view: FamilyView,
    position: Position,
) -> PortPlan:
    """Plan one service port: the backends that its frontends need."""
    external = frontends.external
    selection = _select(service, endpoints, position, external=external)
    # Python passes up to 15 keywords straight on; with more it fills a dictionary first, which
    # makes this call four times as long. So what few Services have is added after.
    plan = PortPlan(
        service=service.key,
        port_name=port.name,
        protocol=port.protocol,
        family=view.family,
        cluster_ip=frontends.cluster_ip,
        port=port.port,
        internal_local=service.internal_local,
        external_local=service.external_local,
        cluster=selection.cluster,
        local=selection.local,
        here=selection.here,
        has_endpoints=selection.has_endpoints,
        serving=_serving(endpoints) if port.protocol is _UDP else (),
        affinity_seconds=service.affinity_seconds,
        health_check_node_port=frontends.check_port,
    )
    if not external and not service.source_ranges:
        return plan
    ranges = of_family(service.source_ranges, view.family)
    node_ip = view.node_ip
    return msgspec.structs.replace(
        plan,
        external_ips=frontends.external_ips,
        load_balancer_ips=frontends.load_balancer_ips,
        node_port=frontends.node_port,
        source_ranges=ranges if frontends.load_balancer_ips else (),
        vips_may_enter=bool(node_ip and any(contains(network, node_ip) for network in ranges)),
    )


def _frontends(
    service: Service, port: ServicePort, cluster_ip: str, family: Family, lost: frozenset[Claim]
) -> _Frontends:
    """Where one port is reached in one family, without the claims that it lost.

    An address given twice is served once: as ClusterIP before load balancer before external.
    """
    found = _Frontends(cluster_ip, (), (), port.node_port, service.health_check_node_port)
    if service.load_balancer_ips or service.external_ips:
        balancer = dict.fromkeys(of_family(service.load_balancer_ips, family))
        external = dict.fromkeys(of_family(service.external_ips, family))
        balancer.pop(cluster_ip, None)
        found = found._replace(
            load_balancer_ips=tuple(balancer),
            external_ips=tuple(a for a in external if a != cluster_ip and a not in balancer),
        )
    return found.without(lost, port) if lost else found


def _select(
    service: Service,
    endpoints: Gathered | tuple[Backend, ...],
    position: Position,
    *,
    external: bool,
) -> Selection:
    """The backends of one port; endpoints that are ``all_alike`` are backends already."""
    if isinstance(endpoints, tuple):
        return Selection(cluster=endpoints, has_endpoints=bool(endpoints))
    return select(
        endpoints,
        position,
        wants_cluster=not service.internal_local or external,
        wants_local=service.internal_local or (service.external_local and external),
    )


def _serving(endpoints: Gathered | tuple[Backend, ...]) -> tuple[Backend, ...]:
    """Every endpoint a flow may live on, whatever the policies, in order.

    Ready ones count as serving: a published, terminating pod is ready and takes new flows.
    """
    if isinstance(endpoints, tuple):
        return endpoints
    return tuple([b for b, e in endpoints.items() if e.serving or e.ready])


def health_check(
    service: Service,
    slices: Iterable[EndpointSlice],
    position: Position,
    lost: frozenset[Claim] = _NO_CLAIMS,
) -> HealthCheck | None:
    """What the Service's health check node port answers, or None where it has none.

    Counts distinct addresses of ready endpoints on this node over all ports, in the Service's
    first family (a dual-stack pod would count twice otherwise); reference 3.6.
    """
    number = service.health_check_node_port
    if not number or ("", Protocol.TCP, number) in lost:
        return None
    gathered = gather(slices, family_of(service.cluster_ips[0]))
    wanted = {(port.name, port.protocol) for port in service.ports}
    addresses = {
        backend.address
        for key, endpoints in gathered.items()
        if key in wanted
        for backend, endpoint in endpoints.items()
        if endpoint.ready and endpoint.node == position.node
    }
    return HealthCheck(number, service.key, len(addresses))
