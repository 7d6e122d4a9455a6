"""Claims: who owns an address, protocol and port when two Services want the same.

The API server keeps ClusterIPs and NodePorts apart, but nothing keeps externalIPs and load
balancer addresses apart, and files can hold anything. The older Service keeps a claim (by
creationTimestamp, then by name, so that every node decides alike); the younger one loses that
claim and nothing else: its other frontends go on working (docs/adr).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from netplane.core.model.address import join_host_port
from netplane.core.model.problem import Problem
from netplane.core.model.service import Protocol, Service, ServiceName

#: (address, protocol, port); the address is "" for a NodePort, which claims the port anywhere.
Claim: TypeAlias = tuple[str, int, int]

#: The claims each Service has lost.
Lost: TypeAlias = Mapping[ServiceName, frozenset[Claim]]

_NOTHING: frozenset[Claim] = frozenset()


def claims_of(service: Service) -> Iterable[Claim]:
    """Everything a Service claims, each claim once."""
    addresses = service.cluster_ips
    if service.load_balancer_ips or service.external_ips:
        addresses = (*addresses, *service.load_balancer_ips, *service.external_ips)
    found = {(address, p.protocol, p.port): None for p in service.ports for address in addresses}
    for port in service.ports:
        if port.node_port:
            found["", port.protocol, port.node_port] = None
    if service.health_check_node_port:
        found["", Protocol.TCP, service.health_check_node_port] = None
    return found


def _fields(service: Service) -> dict[Claim, str]:
    """Everything a Service claims, with the field that claims it."""
    found: dict[Claim, str] = {}
    for index, port in enumerate(service.ports):
        for position, address in enumerate(service.cluster_ips):
            found[address, port.protocol, port.port] = f"spec.clusterIPs[{position}]"
        for position, address in enumerate(service.load_balancer_ips):
            found.setdefault(
                (address, port.protocol, port.port), f"status.loadBalancer.ingress[{position}].ip"
            )
        for position, address in enumerate(service.external_ips):
            found.setdefault((address, port.protocol, port.port), f"spec.externalIPs[{position}]")
        if port.node_port:
            found["", port.protocol, port.node_port] = f"spec.ports[{index}].nodePort"
    if service.health_check_node_port:
        found.setdefault(
            ("", Protocol.TCP, service.health_check_node_port), "spec.healthCheckNodePort"
        )
    return found


def settle(services: Mapping[ServiceName, Service]) -> tuple[Lost, tuple[Problem, ...]]:
    """Decide every contested claim; returns what each Service lost, and a problem for each."""
    first: dict[Claim, ServiceName] = {}
    contested: dict[Claim, list[ServiceName]] = {}
    for name, service in services.items():
        for claim in claims_of(service):
            holder = first.setdefault(claim, name)
            if holder is not name:
                contested.setdefault(claim, [holder]).append(name)
    lost: dict[ServiceName, frozenset[Claim]] = {}
    problems: list[Problem] = []
    for claim, claimants in contested.items():
        winner = min(claimants, key=lambda name: _seniority(services[name]))
        for name in claimants:
            if name != winner:
                lost[name] = lost.get(name, _NOTHING) | {claim}
                problems.append(_problem(services[name], claim, winner))
    return lost, tuple(sorted(problems))


def _seniority(service: Service) -> tuple[bool, str, ServiceName]:
    return (not service.created, service.created, service.key)


def _problem(service: Service, claim: Claim, winner: ServiceName) -> Problem:
    address, protocol, port = claim
    where = join_host_port(address, port) if address else f"port {port} of every node"
    return Problem(
        kind="Service",
        namespace=service.key.namespace,
        name=service.key.name,
        field=_fields(service)[claim],
        value=f"{where}/{Protocol(protocol).text}",
        reason=f"already belongs to the older Service {winner}; give one of them another",
    )
