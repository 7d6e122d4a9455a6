"""Chains that are kept up to date: a change renders what changed, whatever the number of Services.

The live chains are what the kernel should have: the rules of every Service, and the shared chains
they make up. ``update`` turns replanned Services into the delta that ``diff`` would find in a
kernel that has all of it, rendering those Services alone. They move on as ``update`` returns:
where a step then fails, or somebody else has edited our chains, ``ruleset`` is what to compare the
kernel with.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import jinja2
import msgspec

from netplane.core.iptables.compile import PortRules, assemble, compile_fixed, compile_ports
from netplane.core.iptables.diff import Delta, TableDelta, diff, in_deletion_order
from netplane.core.iptables.layout import (
    FILTER,
    FIXED_CHAINS,
    NAT,
    TABLES,
    Chains,
    Ruleset,
    chain_of,
)
from netplane.core.iptables.parse import Observed, ObservedTable
from netplane.core.iptables.report import report
from netplane.core.model.service import ServiceName
from netplane.core.plan.changes import Changes
from netplane.core.plan.node import FamilyView
from netplane.core.plan.port import PortPlan

_Services: TypeAlias = dict[ServiceName, tuple[PortRules, ...]]


class LiveUpdate(NamedTuple):
    """What ``steps`` needs to put replanned Services into the kernel.

    Attributes:
        delta: What has to be written.
        observed: The shared chains as they are in the kernel, which decide about the order.
        groups: Per changed service port the names of its chains.
        changes: All of it told, per service port; worked out when somebody asks.
        growth: By how many entries a legacy table becomes larger, both tables together.
    """

    delta: Delta
    observed: Observed
    groups: tuple[tuple[str, ...], ...]
    changes: Changes
    growth: int


class LiveChains:
    """One family's chains as the kernel has them, and what keeps them current."""

    def __init__(
        self, view: FamilyView, ports: Sequence[PortPlan], environment: jinja2.Environment
    ) -> None:
        """Start from a plan; ``ruleset`` is what to bring the kernel to before any update.

        Args:
            view: The node in this family.
            ports: In plan order.
            environment: Of rule templates.
        """
        self.view = view
        self._environment = environment
        self._fixed = compile_fixed(view, environment)
        self._services = self.compile(ports)
        self._own_rules = sum(map(_size, self._services.values()))
        self._order = sorted(self._services)
        self._shared = self._all_shared()

    def ruleset(self) -> Ruleset:
        """All of it, as ``compile_family`` makes it of the same plan; costs all Services."""
        ports = (port for name in self._order for port in self._services[name])
        return assemble(self.view.family, ports, self._fixed, self._environment)

    def update(self, before: Iterable[PortPlan], after: Sequence[PortPlan]) -> LiveUpdate:
        """What to write for Services whose plan has changed, and take it as written.

        Args:
            before: All ports of those Services as they were taken last.
            after: All their ports now, in plan order.
        """
        there = {table: ObservedTable(chains=dict(self._shared[table])) for table in TABLES}
        new = self.compile(after)
        old = {
            name: self._services.get(name, ())
            for name in sorted({port.service for port in before} | new.keys())
        }
        for name in old:
            self._replace(name, new.get(name, ()))
        own, gone = _own(new.values()), _own(old.values())
        shared = {table: self._rewrite(table, old, new) for table in TABLES}
        writes = {chain: rules for chain, rules in own.items() if gone.get(chain) != rules}
        delta = Delta(
            filter=TableDelta(writes=shared[FILTER]),
            nat=TableDelta(
                writes=shared[NAT] | writes, deletes=in_deletion_order(gone.keys() - own.keys())
            ),
        )
        growth = _entries(own) - _entries(gone)
        for table, chains in shared.items():
            was = there[table].chains
            growth += sum(len(rules) - len(was[chain]) for chain, rules in chains.items())
        return LiveUpdate(
            delta=delta,
            observed=Observed(filter=there[FILTER], nat=there[NAT]),
            groups=tuple(tuple(port.own) for ports in new.values() for port in ports if port.own),
            changes=self._told(old, new) if delta else Changes(),
            growth=growth,
        )

    def rules(self, name: ServiceName) -> tuple[PortRules, ...]:
        """The rules of a Service, () for none."""
        return self._services.get(name, ())

    @property
    def services(self) -> tuple[ServiceName, ...]:
        """Those that have rules, sorted."""
        return tuple(self._order)

    def put(self, services: Mapping[ServiceName, tuple[PortRules, ...]]) -> None:
        """Take these rules for these Services, () for none, whatever was planned for them."""
        for name, rules in services.items():
            self._replace(name, rules)
        self._shared = self._all_shared()

    def count(self, table: str) -> int:
        """How many rules there are in our chains of a table."""
        own = self._own_rules if table == NAT else 0
        return own + sum(map(len, self._shared[table].values()))

    def compile(self, ports: Sequence[PortPlan]) -> _Services:
        """The rules of these ports, by Service; all of a Service's ports are among them."""
        found: dict[ServiceName, list[PortRules]] = {}
        compiled = compile_ports(ports, self.view, self._environment)
        for port, rules in zip(ports, compiled, strict=True):
            found.setdefault(port.service, []).append(rules)
        return {name: tuple(rules) for name, rules in found.items()}

    def _all_shared(self) -> dict[str, Chains]:
        tables = self.ruleset().tables
        return {
            table: {chain: tables[table][chain] for chain in FIXED_CHAINS[table]}
            for table in TABLES
        }

    def _told(self, old: _Services, new: _Services) -> Changes:
        """An update as the report of a kernel that has nothing but what it is about."""
        before, after = (self._alone(services) for services in (old, new))
        there = {table: ObservedTable(chains=before.tables[table]) for table in TABLES}
        observed = Observed(filter=there[FILTER], nat=there[NAT])
        return report(after, observed, diff(after, observed))

    def _alone(self, services: _Services) -> Ruleset:
        """The rules of these Services, without jumps."""
        ports = [port for rules in services.values() for port in rules]
        nothing: dict[str, list[str]] = {table: [] for table in TABLES}
        made = assemble(self.view.family, ports, nothing, self._environment)
        return msgspec.structs.replace(made, jumps=dict.fromkeys(TABLES, ()))

    def _replace(self, name: ServiceName, rules: tuple[PortRules, ...]) -> None:
        """Take a Service's rules, () for none."""
        self._own_rules += _size(rules) - _size(self._services.get(name, ()))
        if rules and name not in self._services:
            insort(self._order, name)
        elif not rules and name in self._services:
            del self._order[bisect_left(self._order, name)]
        if rules:
            self._services[name] = rules
        else:
            self._services.pop(name, None)

    def _rewrite(self, table: str, old: _Services, new: _Services) -> Chains:
        """Put the shared chains together again where a Service's part has changed."""
        changed: dict[str, list[str]] = {}
        for name, ports in old.items():
            was, now = _shared(table, ports), _shared(table, new.get(name, ()))
            if was != now:
                changed.update((chain_of(rule), []) for rule in (*was, *now))
        if not changed:
            return {}
        for name in self._order:
            for rule in _shared(table, self._services[name]):
                rules = changed.get(chain_of(rule))
                if rules is not None:
                    rules.append(rule)
        for rule in self._fixed[table]:
            rules = changed.get(chain_of(rule))
            if rules is not None:
                rules.append(rule)
        held = self._shared[table]
        writes = {
            chain: tuple(rules) for chain, rules in changed.items() if held[chain] != tuple(rules)
        }
        held |= writes
        return writes


def _own(services: Iterable[tuple[PortRules, ...]]) -> Chains:
    """The chains of nat that belong to these Services alone."""
    return {
        chain: rules for ports in services for port in ports for chain, rules in port.own.items()
    }


def _entries(chains: Chains) -> int:
    """How many entries chains take in a legacy table: each one has a head and an end, too."""
    return sum(len(rules) + 2 for rules in chains.values())


def _size(ports: tuple[PortRules, ...]) -> int:
    """How many rules there are in the chains that belong to these service ports alone."""
    return sum(len(rules) for port in ports for rules in port.own.values())


def _shared(table: str, ports: tuple[PortRules, ...]) -> list[str]:
    """The rules of these service ports in the shared chains of a table."""
    return [rule for port in ports for rule in (port.nat if table == NAT else port.filter)]
