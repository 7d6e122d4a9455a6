"""The plan of a node: every service port of every family, and what follows from them."""

from __future__ import annotations

import msgspec

from netplane.core.model.address import Family
from netplane.core.model.problem import Problem
from netplane.core.model.service import ServiceName
from netplane.core.plan.node import FamilyView, NodeView
from netplane.core.plan.port import PortPlan


class HealthCheck(msgspec.Struct, frozen=True, order=True):
    """What a health check node port answers (reference section 3.6).

    ``local_endpoints`` counts distinct addresses of ready endpoints on this node.
    """

    port: int
    service: ServiceName
    local_endpoints: int


class FamilyPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One family of the plan; ports sorted by (namespace, name, port name, protocol)."""

    view: FamilyView
    ports: tuple[PortPlan, ...]

    @property
    def family(self) -> Family:
        """The family planned for."""
        return self.view.family


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What traffic should do on a node.

    Attributes:
        problems: The snapshot's, and the collisions found while planning; sorted.
    """

    node: NodeView
    families: tuple[FamilyPlan, ...]
    health_checks: tuple[HealthCheck, ...] = ()
    problems: tuple[Problem, ...] = ()


def notes_of(plan: Plan) -> tuple[str, ...]:
    """What a plan leaves out although nothing is wrong with any object, in words."""
    found = []
    for family in plan.families:
        count = sum(1 for port in family.ports if port.node_port)
        if count and family.view.node_port_addresses == ():
            found.append(
                f"IPv{family.family.value}: {count:,} NodePorts answer on no address: nothing "
                "says which addresses of this node accept them (give its Node object, --node-ip "
                "or --nodeport-addresses)"
            )
    return tuple(found)
