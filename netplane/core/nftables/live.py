"""A table that is kept up to date: a change costs what changed, whatever the table's size.

The live table holds what the kernel has after our last commit: elements with the slots they
really have, chains, and how many elements lead to each chain. ``update`` turns replanned Services
into what is to be written. What it holds equals what ``compile_family`` makes of the same plan,
but for the order of slots (tests/property). It moves on as ``update`` returns: where the writing
then fails, throw the live table away and start from what is observed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import jinja2
import msgspec

from netplane.core.nftables.compile import affinity_sets, own_elements, shared_elements
from netplane.core.nftables.diff import (
    Delta,
    ElementDelta,
    backends_of,
    move_slots,
    place,
    replace,
)
from netplane.core.nftables.layout import SETS, Elements, Key, Ruleset, Value, Values, Verdict
from netplane.core.nftables.program import Pick, render_chains, with_room
from netplane.core.plan.node import FamilyView
from netplane.core.plan.port import PortPlan

_LAYOUTS = {layout.name: layout for layout in SETS}
_SLOTS = frozenset(layout.name for layout in SETS if layout.values is Values.SLOTS)

_Owned = dict[tuple[str, Key], Value]


class _Sticky(msgspec.Struct, frozen=True):
    """The chains and sets that ports with session affinity cost."""

    chains: dict[str, tuple[str, ...]]
    sets: frozenset[str]


class LiveTable:
    """One family's table as the kernel has it, and the transactions that keep it current."""

    def __init__(
        self,
        view: FamilyView,
        ruleset: Ruleset,
        ports: Iterable[PortPlan],
        environment: jinja2.Environment,
    ) -> None:
        """Start from a table that was just committed.

        Args:
            view: The node in this family.
            ruleset: What is in the kernel, with the slots it really has.
            ports: The plan the ruleset was compiled from.
            environment: Of rule templates.
        """
        self.view = view
        self._environment = environment
        self._program = ruleset.program
        self._chains = dict(ruleset.chains)
        self._affinity_sets = set(ruleset.affinity_sets)
        self.elements: Elements = {n: dict(entries) for n, entries in ruleset.elements.items()}
        self._asked: Counter[tuple[str, Key]] = Counter()
        for port in ports:
            self._asked.update((name, key) for name, key, _ in shared_elements(port))
        led = Counter(
            value.chain
            for entries in ruleset.elements.values()
            for value in entries.values()
            if isinstance(value, Verdict)
        )
        self._leading = {chain: count for chain, count in led.items() if _picks(chain)}

    @property
    def ruleset(self) -> Ruleset:
        """All of the table; its elements are the live ones."""
        return Ruleset(
            family=self.view.family,
            program=self._program,
            chains=self._chains,
            affinity_sets=frozenset(self._affinity_sets),
            elements=self.elements,
        )

    def update(self, before: Iterable[PortPlan], after: Iterable[PortPlan]) -> Delta:
        """What to write for ports whose plan has changed, and take it as done.

        Args:
            before: Plans of the changed ports as they were taken last.
            after: Plans of the same Services now.
        """
        before, after = tuple(before), tuple(after)
        old, new = self._owned(before), self._owned(after)
        deltas: dict[str, ElementDelta] = {}
        led = self._replace(old, new, deltas)
        self._replace_shared(before, after, deltas)
        arrived, gone = self._pick_chains(led)
        stale, fresh = self._sticky(before), self._sticky(after)
        chains = {
            name: rules for name, rules in fresh.chains.items() if stale.chains.get(name) != rules
        }
        if arrived:
            chains |= render_chains(self.view, arrived, [], self._environment)
        ended = (*sorted(gone), *(name for name in stale.chains if name not in fresh.chains))
        # A pick chain may be there and be led to by nothing, where the kernel refused an element.
        rewritten = [name for name in chains if name in self._chains]
        self._follow(chains, ended, stale, fresh)
        return Delta(
            family=self.view.family,
            flush_chains=(*rewritten, *ended),
            delete_chains=ended,
            delete_affinity_sets=tuple(sorted(stale.sets - fresh.sets)),
            add_affinity_sets=tuple(sorted(fresh.sets - stale.sets)),
            chains=chains,
            elements={s.name: deltas[s.name] for s in SETS if s.name in deltas},
        )

    def _follow(
        self,
        chains: dict[str, tuple[str, ...]],
        ended: tuple[str, ...],
        stale: _Sticky,
        fresh: _Sticky,
    ) -> None:
        """Take the chains and sets that follow the Services as written."""
        for name in ended:
            self._chains.pop(name, None)
        self._chains |= chains
        self._affinity_sets -= stale.sets
        self._affinity_sets |= fresh.sets

    def _owned(self, ports: Iterable[PortPlan]) -> _Owned:
        """The elements that belong to these ports alone."""
        return {(name, key): value for port in ports for name, key, value in own_elements(port)}

    def _replace(self, old: _Owned, new: _Owned, deltas: dict[str, ElementDelta]) -> Counter[str]:
        """Exchange the elements of single ports; returns by how much each chain's use changes."""
        led: Counter[str] = Counter()
        for place_ in old:
            if place_ not in new:
                name, key = place_
                held = self.elements[name].pop(key)
                _of(deltas, name).delete.append((key, held))
                _count(led, held, -1)
        for (name, key), value in new.items():
            entries = self.elements[name]
            if (name, key) not in old:
                _of(deltas, name).add.append((key, value))
            elif (held := entries[key]) == value:
                continue
            elif name in _SLOTS:
                slots = backends_of(held)
                value = place(backends_of(value), slots)  # noqa: PLW2901 (the same, in their slots)
                if value == held:
                    continue
                move_slots(_of(deltas, name), key, slots, value)
            else:
                replace(_of(deltas, name), _LAYOUTS[name], key, held, value)
                _count(led, held, -1)
            entries[key] = value
            _count(led, value, 1)
        return led

    def _replace_shared(
        self,
        before: Iterable[PortPlan],
        after: Iterable[PortPlan],
        deltas: dict[str, ElementDelta],
    ) -> None:
        """Exchange elements that several ports may ask for: one stays while anybody asks."""
        change: Counter[tuple[str, Key]] = Counter()
        for port in after:
            change.update((name, key) for name, key, _ in shared_elements(port))
        for port in before:
            change.subtract((name, key) for name, key, _ in shared_elements(port))
        for place_, difference in change.items():
            name, key = place_
            was = self._asked[place_]
            now = was + difference
            if now:
                self._asked[place_] = now
            else:
                del self._asked[place_]
            if was and not now:
                del self.elements[name][key]
                _of(deltas, name).delete.append((key, None))
            elif now and not was:
                self.elements[name][key] = None
                _of(deltas, name).add.append((key, None))

    def _pick_chains(self, led: Counter[str]) -> tuple[set[str], set[str]]:
        """The pick chains that come, and those that go."""
        old = {chain: self._leading.get(chain, 0) for chain in led if _picks(chain)}
        new = {chain: count + led[chain] for chain, count in old.items()}
        if all(old.values()) and all(new.values()):
            self._leading |= new  # the usual case: nothing comes or goes
            return set(), set()
        before = with_room(set(self._leading))
        self._leading = {c: count for c, count in {**self._leading, **new}.items() if count}
        after = with_room(set(self._leading))
        return after - before, before - after

    def _sticky(self, ports: Iterable[PortPlan]) -> _Sticky:
        """The chains and sets of those ports that have session affinity."""
        sticky = [port for port in ports if port.affinity_seconds]
        if not sticky:
            return _Sticky({}, frozenset())
        targets = {
            value.chain
            for port in sticky
            for _, _, value in own_elements(port)
            if isinstance(value, Verdict) and Pick.parse(value.chain) is None
        }
        return _Sticky(
            render_chains(self.view, targets, sticky, self._environment),
            frozenset(name for port in sticky for name in affinity_sets(port)),
        )


def _of(deltas: dict[str, ElementDelta], name: str) -> ElementDelta:
    delta = deltas.get(name)
    if delta is None:
        delta = deltas[name] = ElementDelta()
    return delta


def _count(led: Counter[str], value: Value, by: int) -> None:
    if isinstance(value, Verdict):
        led[value.chain] += by


def _picks(chain: str) -> bool:
    return Pick.parse(chain) is not None
