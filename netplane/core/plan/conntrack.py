"""Which UDP flows may live: the conntrack side of the plan (reference section 4).

UDP has no handshake, so a flow keeps the translation its first packet got for as long as packets
come. After a change such a flow may point at an endpoint that is gone, or past a Service that has
gained its first one. What may live is read off the plan, never remembered from events.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from netplane.core.model.service import Protocol
from netplane.core.plan.plan import FamilyPlan
from netplane.core.plan.port import Backend, PortPlan


class UdpFlows(msgspec.Struct, frozen=True, kw_only=True):
    """What UDP flows of one family may live.

    Attributes:
        frontends: (address, port) of every UDP frontend, to the backends its flows may use.
        node_ports: The same by NodePort; only flows to the node's own addresses count.
        service_cidrs: Networks in which an address without a frontend belongs to no Service.
    """

    frontends: Mapping[tuple[str, int], frozenset[Backend]]
    node_ports: Mapping[int, frozenset[Backend]]
    service_cidrs: tuple[str, ...] = ()


def desired_flows(plan: FamilyPlan) -> UdpFlows:
    """Read the flows that may live off the plan."""
    return _flows(plan.ports, plan.view.service_cidrs)


def flows_of(ports: Iterable[PortPlan]) -> UdpFlows:
    """The flows that may live to the frontends of some ports; says nothing about any other."""
    return _flows(ports, ())


def frontends_of(ports: Iterable[PortPlan]) -> set[tuple[str, int]]:
    """(address, port) of each UDP frontend of some ports; the address of a NodePort is ""."""
    flows = flows_of(ports)
    return {*flows.frontends, *(("", number) for number in flows.node_ports)}


def _flows(ports: Iterable[PortPlan], service_cidrs: tuple[str, ...]) -> UdpFlows:
    frontends: dict[tuple[str, int], frozenset[Backend]] = {}
    node_ports: dict[int, frozenset[Backend]] = {}
    for port in ports:
        if port.protocol is not Protocol.UDP:
            continue
        serving = frozenset(port.serving)
        for address in (port.cluster_ip, *port.external_ips, *port.load_balancer_ips):
            if address:
                frontends[address, port.port] = serving
        if port.node_port:
            node_ports[port.node_port] = serving
    return UdpFlows(frontends=frontends, node_ports=node_ports, service_cidrs=service_cidrs)
