"""A plan that is kept up to date: a change costs what changed, whatever the number of Services.

The planner holds the newest plan per Service and an index of claims. ``update`` takes what
changed and returns each touched Service's port plans before and after. What it holds equals what
``build_plan`` would make of the same snapshot, after any history (tests/property).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec

from netplane.core.model.problem import Problem
from netplane.core.model.service import EndpointSlice, Service, ServiceName
from netplane.core.model.snapshot import Snapshot
from netplane.core.plan.claims import Claim, claims_of, settle
from netplane.core.plan.compile import health_check, plan_service
from netplane.core.plan.node import NodeView
from netplane.core.plan.plan import FamilyPlan, HealthCheck, Plan
from netplane.core.plan.port import PortPlan
from netplane.core.plan.select import Position

_T = TypeVar("_T")

#: The port plans of one Service, one tuple per family of the node's view.
ServicePlan = tuple[tuple[PortPlan, ...], ...]

_NO_CLAIMS: frozenset[Claim] = frozenset()


class Replanned(msgspec.Struct, frozen=True):
    """One Service's port plans before and after an update, per family of the node's view."""

    service: ServiceName
    before: ServicePlan
    after: ServicePlan


class Planner:
    """The plan of one node, kept up to date."""

    def __init__(self, node: NodeView) -> None:
        self.node = node
        self._position = Position(node.name, node.zone)
        self._nothing: ServicePlan = tuple(() for _ in node.families)
        self._services: dict[ServiceName, Service] = {}
        self._slices: dict[ServiceName, tuple[EndpointSlice, ...]] = {}
        self._claimants: dict[Claim, tuple[ServiceName, ...]] = {}
        self._lost: dict[ServiceName, frozenset[Claim]] = {}
        self._collisions: dict[ServiceName, tuple[Problem, ...]] = {}
        self._plans: dict[ServiceName, ServicePlan] = {}
        self._checks: dict[ServiceName, HealthCheck] = {}

    def update(
        self,
        services: Mapping[ServiceName, Service | None],
        slices: Mapping[ServiceName, tuple[EndpointSlice, ...]],
    ) -> list[Replanned]:
        """Take in what changed; returns the Services whose plan is another now, sorted by name.

        Args:
            services: New or changed Services; None for those that are gone.
            slices: Per Service all of its slices, where any of them changed.
        """
        contested: set[Claim] = set()
        for name, service in services.items():
            contested |= self._take_service(name, service)
        for name, pieces in slices.items():
            if pieces:
                self._slices[name] = pieces
            else:
                self._slices.pop(name, None)
        dirty = {*services, *slices}
        if contested:
            dirty |= self._settle(contested, self._services.keys() & services.keys())
        return [change for name in sorted(dirty) if (change := self._replan(name)) is not None]

    def replace(self, snapshot: Snapshot) -> list[Replanned]:
        """Take in a whole snapshot: only what differs from what is held is planned again."""
        gone = self._services.keys() - snapshot.services.keys()
        services: dict[ServiceName, Service | None] = dict.fromkeys(gone)
        held = self._services
        services |= {n: new for n, new in snapshot.services.items() if held.get(n) != new}
        slices = {
            name: snapshot.slices.get(name, ())
            for name in self._slices.keys() | snapshot.slices.keys()
            if self._slices.get(name, ()) != snapshot.slices.get(name, ())
        }
        return self.update(services, slices)

    def turn_to(self, node: NodeView) -> list[Replanned]:
        """Take in what the node is now; returns the Services whose plan is another now.

        The families are the same ones, whatever the node has of them (``build_view``).
        Claims are not settled again: who owns an address does not depend on the node.
        """
        families = [view.family for view in node.families]
        assert families == [view.family for view in self.node.families], families
        self.node = node
        self._position = Position(node.name, node.zone)
        return [change for n in sorted(self._services) if (change := self._replan(n)) is not None]

    def planned(self, name: ServiceName) -> ServicePlan:
        """The port plans of one Service."""
        return self._plans.get(name, self._nothing)

    def plan(self, problems: Iterable[Problem] = ()) -> Plan:
        """The whole plan, as ``build_plan`` makes it; costs the number of Services.

        Args:
            problems: What was refused on the way to the snapshot.
        """
        names = sorted(self._plans)
        found = {*problems, *self.collisions}
        return Plan(
            node=self.node,
            families=tuple(
                FamilyPlan(
                    view=view,
                    ports=tuple(port for name in names for port in self._plans[name][index]),
                )
                for index, view in enumerate(self.node.families)
            ),
            health_checks=self.health_checks,
            problems=tuple(sorted(found)),
        )

    @property
    def health_checks(self) -> tuple[HealthCheck, ...]:
        """What health check node ports answer, sorted."""
        return tuple(sorted(self._checks.values()))

    @property
    def collisions(self) -> tuple[Problem, ...]:
        """What Services lost to others, sorted."""
        return tuple(sorted({p for found in self._collisions.values() for p in found}))

    def _take_service(self, name: ServiceName, service: Service | None) -> set[Claim]:
        """Store a Service and move its claims; returns the claims others hold as well."""
        old = self._services.pop(name, None)
        contested: set[Claim] = set()
        for claim in claims_of(old) if old else ():
            others = tuple(n for n in self._claimants[claim] if n != name)
            if others:
                self._claimants[claim] = others
                contested.add(claim)
            else:
                del self._claimants[claim]
        if service is None:
            self._lost.pop(name, None)
            self._collisions.pop(name, None)
            return contested
        self._services[name] = service
        for claim in claims_of(service):
            holders = self._claimants.get(claim)
            if holders is None:
                self._claimants[claim] = (name,)
            else:
                self._claimants[claim] = (*holders, name)
                contested.add(claim)
        return contested

    def _settle(self, contested: set[Claim], changed: set[ServiceName]) -> set[ServiceName]:
        """Decide these claims again; returns the Services that lost or got back something.

        A Service's losses depend on all of its claims, so everybody who meets a contestant is
        settled together with it.
        """
        involved = {name for claim in contested for name in self._claimants.get(claim, ())}
        involved |= changed
        neighbours = {
            name
            for contestant in involved
            for claim in claims_of(self._services[contestant])
            for name in self._claimants[claim]
        }
        lost, problems = settle({name: self._services[name] for name in neighbours})
        moved = set()
        for name in involved:
            now = lost.get(name, _NO_CLAIMS)
            if self._lost.get(name, _NO_CLAIMS) != now:
                moved.add(name)
            _set(self._lost, name, now)
            mine = tuple(p for p in problems if (p.namespace, p.name) == name)
            _set(self._collisions, name, mine)
        return moved

    def _replan(self, name: ServiceName) -> Replanned | None:
        service = self._services.get(name)
        before = self._plans.get(name, self._nothing)
        after = self._nothing
        check = None
        if service is not None:
            slices = self._slices.get(name, ())
            lost = self._lost.get(name, _NO_CLAIMS)
            after = tuple(
                tuple(plan_service(service, slices, view, self._position, lost))
                for view in self.node.families
            )
            check = health_check(service, slices, self._position, lost)
        if check is not None:
            self._checks[name] = check
        else:
            self._checks.pop(name, None)
        if after == before:
            return None
        if any(after):
            self._plans[name] = after
        else:
            self._plans.pop(name, None)
        return Replanned(name, before, after)


def joined(earlier: Iterable[Replanned], later: Iterable[Replanned]) -> tuple[Replanned, ...]:
    """Two updates as one: per Service its plans before the first and after the last, sorted."""
    found = {change.service: change for change in earlier}
    for change in later:
        first = found.get(change.service, change)
        found[change.service] = Replanned(change.service, first.before, change.after)
    return tuple(found[name] for name in sorted(found) if found[name].before != found[name].after)


def _set(held: dict[ServiceName, _T], name: ServiceName, value: _T) -> None:
    """Keep a value that is not empty, forget one that is."""
    if value:
        held[name] = value
    else:
        held.pop(name, None)
