"""Trying a mode's rules on this kernel, in a network namespace that only a thread ever knew."""

from __future__ import annotations

from netplane.apply.modes import open_mode
from netplane.apply.netns import UnnamedNamespace
from netplane.config import Config, Mode
from netplane.core.model.address import Family
from netplane.core.model.service import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Protocol,
    Service,
    ServiceName,
    ServicePort,
)
from netplane.core.model.snapshot import Snapshot
from netplane.core.plan.compile import build_plan
from netplane.core.plan.plan import Plan
from netplane.core.plan.view import build_view

_PORT = 8080


def try_mode(mode: Mode) -> None:
    """Load every kind of rule a mode knows.

    Raises:
        ApplyError: The kernel or the tool does not take them.
    """
    with UnnamedNamespace() as namespace:
        dataplane = open_mode(mode, namespace)
        dataplane.prepare(_plan(mode)).commit()


def _plan(mode: Mode) -> Plan:
    """A plan with every feature: protocols, families, affinity, source ranges, no endpoints."""
    services = {s.key: s for s in (_service("all", 1), _service("none", 2))}
    endpoints = {
        Family.IPV4: ("192.0.2.11", "192.0.2.12"),
        Family.IPV6: ("2001:db8::11", "2001:db8::12"),
    }
    key = ServiceName("trial", "all")
    slices = tuple(
        EndpointSlice(
            namespace=key.namespace,
            name=f"all-{family.value}",
            service=key,
            family=family,
            ports=tuple(EndpointPort(p.text, p, _PORT) for p in _protocols()),
            endpoints=tuple(Endpoint(address, node="trial") for address in addresses),
        )
        for family, addresses in endpoints.items()
    )
    config = Config(
        mode=mode,
        node_name="trial",
        cluster_cidrs=("192.0.2.0/25", "2001:db8::/64"),
        service_cidrs=("198.51.100.0/24", "2001:db8:1::/108"),
        node_ips=("192.0.2.1", "2001:db8::1"),
    )
    view = build_view(config, mode=mode, node=None, local_addresses=())
    return build_plan(Snapshot(services=services, slices={key: slices}, nodes={}), view)


def _protocols() -> tuple[Protocol, ...]:
    return (Protocol.TCP, Protocol.UDP)


def _service(name: str, number: int) -> Service:
    return Service(
        key=ServiceName("trial", name),
        cluster_ips=(f"198.51.100.{number}", f"2001:db8:1::{number}"),
        ports=tuple(
            ServicePort(protocol.text, protocol, 80, 30000 + number) for protocol in _protocols()
        ),
        external_ips=(f"203.0.113.{number}", f"2001:db8:2::{number}"),
        load_balancer_ips=(f"203.0.113.{100 + number}", f"2001:db8:2::1:{number}"),
        source_ranges=("203.0.113.0/24", "2001:db8:3::/64"),
        external_local=True,
        affinity_seconds=10800,
        health_check_node_port=31000 + number,
    )
