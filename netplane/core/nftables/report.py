"""A transaction told per service port, in the words of the common report of both modes."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from typing import NamedTuple, TypeAlias

from netplane.core.model.address import Family
from netplane.core.nftables.diff import Delta, ElementDelta
from netplane.core.nftables.frontends import PROTOCOLS, Frontend, Side, endpoints_of
from netplane.core.nftables.layout import TABLE, Key, Ruleset, Value
from netplane.core.nftables.listing import read_listing
from netplane.core.nftables.observed import Observed
from netplane.core.nftables.owners import (
    Owner,
    Owners,
    frontend_keys,
    frontends_of,
    is_sticky,
    owners_of,
)
from netplane.core.nftables.text import element_texts, key_text
from netplane.core.plan.changes import Action, Changes, LostFrontend, ServiceChange
from netplane.core.plan.port import Backend

_NOW = {"balance": "answers again", "reject": "refuses connections", "drop": "drops connections"}
#: Sets whose elements need not belong to a service port with a frontend of that key or address.
_SHARED = frozenset({"nodeport-ips", "hairpin"})

_Line: TypeAlias = tuple[Owner | None, str]
_Texts: TypeAlias = Callable[[], list[str]]


def report(desired: Ruleset, observed: Observed, delta: Delta) -> Changes:
    """Tell a transaction per service port; what belongs to none of them is base.

    False exactly where the transaction is.
    """
    return Changes(_Story(desired, observed, delta))


class _Account(NamedTuple):
    """Whose the objects of a transaction are, and what happens to them.

    Attributes:
        lines: By service port that has any of them; empty lists without ``rules``.
        base: The lines of nobody's objects.
        rules: Whether what service ports own gets lines at all.
    """

    lines: dict[Owner, list[str]]
    base: list[str]
    rules: bool

    def take(self, owner: Owner | None, texts: _Texts) -> None:
        """Take down an object; its lines are made only where they are wanted."""
        lines = self.base if owner is None else self.lines.setdefault(owner, [])
        if owner is None or self.rules:
            lines += texts()


class _Story:
    """A transaction of one family; see ``netplane.core.plan.changes.Story``."""

    def __init__(self, desired: Ruleset, observed: Observed, delta: Delta) -> None:
        self._desired = desired
        self._observed = observed
        self._delta = delta
        self._before = Side(observed.elements, observed.chains)
        self._after = Side(desired.elements, desired.chains)

    def __bool__(self) -> bool:
        return bool(self._delta)

    def totals(self) -> Counter[Action]:
        """See ``Story``."""
        told = self._brief.lines.keys()
        old, new = told & owners_of(self._before), told & self._owners
        both = len(old & new)
        counts = {Action.ADDED: len(new) - both, Action.REMOVED: len(old) - both}
        # What has a frontend neither before nor after has changed all the same.
        changed = len(told) - sum(counts.values())
        return +Counter({**counts, Action.CHANGED: changed})

    def services(self, *, limit: int | None = None, rules: bool = False) -> list[ServiceChange]:
        """See ``Story``."""
        lines = self._account(rules=True).lines if rules else self._brief.lines
        told = sorted(lines) if limit is None else heapq.nsmallest(limit, lines)
        old, new = frontends_of(self._before, told), frontends_of(self._after, told)
        family = f"IPv{self._delta.family.value}"
        return [
            _change(
                owner,
                family,
                _Told(self._before, old[owner]),
                _Told(self._after, new[owner]),
                lines[owner],
            )
            for owner in told
        ]

    def base(self) -> tuple[str, ...]:
        """See ``Story``."""
        return tuple(self._brief.base)

    def lost(self) -> Iterator[LostFrontend]:
        """See ``Story``."""
        before = frontend_keys(self._before)
        for key in before - frontend_keys(self._after) if before else ():
            address = str(key[0]) if len(key) > 2 else ""  # noqa: PLR2004 (Keys.PORT)
            protocol = PROTOCOLS[int(key[-2])]
            yield LostFrontend(self._delta.family, address, protocol, int(key[-1]))

    @cached_property
    def _owners(self) -> set[Owner]:
        return owners_of(self._after)

    @cached_property
    def _brief(self) -> _Account:
        return self._account(rules=False)

    def _account(self, *, rules: bool) -> _Account:
        """Go through the transaction."""
        delta, observed = self._delta, self._observed
        owners = Owners(self._after, self._before)
        found = _Account({}, list(_base_lines(self._desired, observed, delta)), rules)
        names: Iterable[str] = delta.elements
        if not (rules or observed.exists):
            # All there is comes anew, so every service port does: no need to ask of each element.
            found.lines.update((owner, []) for owner in self._owners)
            names = _SHARED & delta.elements.keys()
        for name in names:
            _tell_elements(found, name, delta.elements[name], owners, delta.family)
        for owner, line in _chain_lines(delta, observed, owners):
            found.take(owner, partial(list, (line,)))
        return found


class _Told:
    """One side of one service port: its frontends with their verdicts, its endpoints."""

    def __init__(self, side: Side, mine: list[Frontend]) -> None:
        self.frontends = {str(f): f.verdict for f in mine}
        self.endpoints = {text for f in mine for text in endpoints_of(side, f)}
        self.sticky = any(is_sticky(side, f) for f in mine)


def _change(
    owner: Owner, family: str, old: _Told, new: _Told, rules: Iterable[str]
) -> ServiceChange:
    return ServiceChange(
        label=owner.label,
        family=family,
        action=_action(bool(old.frontends), bool(new.frontends)),
        protocol=owner.protocol,
        frontends_added=tuple(sorted(new.frontends.keys() - old.frontends.keys())),
        frontends_removed=tuple(sorted(old.frontends.keys() - new.frontends.keys())),
        endpoints_added=tuple(sorted(new.endpoints - old.endpoints)),
        endpoints_removed=tuple(sorted(old.endpoints - new.endpoints)),
        notes=tuple(_notes(old, new)),
        rules=tuple(rules),
    )


def _notes(old: _Told, new: _Told) -> Iterator[str]:
    for frontend, verdict in sorted(new.frontends.items()):
        if old.frontends.get(frontend, "balance") != verdict:
            yield f"{frontend} {_NOW[verdict]}"
    if old.sticky != new.sticky and new.frontends:
        yield "session affinity on" if new.sticky else "session affinity off"


def _action(was: bool, will_be: bool) -> Action:  # noqa: FBT001 (two of a kind)
    if was == will_be:
        return Action.CHANGED
    return Action.ADDED if will_be else Action.REMOVED


def _chain_lines(delta: Delta, observed: Observed, owners: Owners) -> Iterator[_Line]:
    """Every chain and affinity set of a transaction, with its owner."""
    for chain in delta.delete_chains:
        for rule in observed.chains[chain] or ("(empty)",):
            yield owners.of_name(chain), f"- chain {chain}: {rule}"
    for chain, wanted in delta.chains.items():
        if wanted == observed.chains.get(chain):
            yield owners.of_name(chain), f"+ chain {chain}: the same rules, for a set made anew"
        for line in _rule_lines(chain, observed.chains.get(chain, ()), wanted):
            yield owners.of_name(chain), line
    for name in delta.delete_affinity_sets:
        yield owners.of_name(name), f"- set {name}"
    for name in delta.add_affinity_sets:
        yield owners.of_name(name), f"+ set {name}"


def _tell_elements(
    found: _Account, name: str, changed: ElementDelta, owners: Owners, family: Family
) -> None:
    """Take down what happens to one set: deletions before additions."""
    if changed.flush:
        found.base.append(f"- {name}: everything, for it holds elements of a foreign form")
    find = owners.finder(name, _keys(changed))
    for key, value in changed.delete:
        found.take(find(key), partial(_lines, "-", name, key, value, family))
    for key, slot in changed.delete_slots:
        found.take(find(key), partial(_slot_line, "-", name, key, slot, family))
    for key, value in changed.add:
        found.take(find(key), partial(_lines, "+", name, key, value, family))
    for key, slot, backend in changed.add_slots:
        found.take(find(key), partial(_slot_line, "+", name, key, slot, family, backend))


def _keys(changed: ElementDelta) -> Iterator[Key]:
    """The key of every element that goes or comes."""
    yield from (key for key, _ in changed.delete)
    yield from (key for key, _ in changed.delete_slots)
    yield from (key for key, _ in changed.add)
    yield from (key for key, _, _ in changed.add_slots)


def _lines(sign: str, name: str, key: Key, value: Value, family: Family) -> list[str]:
    """An entry's elements, a line each."""
    return [f"{sign} {name} {{ {text} }}" for text in element_texts(name, key, value, family)]


def _slot_line(  # noqa: PLR0913, PLR0917 (an element is that many things)
    sign: str, name: str, key: Key, slot: int, family: Family, backend: Backend | None = None
) -> list[str]:
    """A single slot; with its backend when it comes."""
    text = f"{key_text(name, key, family)} . {slot}"
    value = f" : {backend.address} . {backend.port}" if backend else ""
    return [f"{sign} {name} {{ {text}{value} }}"]


def _base_lines(desired: Ruleset, observed: Observed, delta: Delta) -> Iterator[str]:
    """What happens to the table and its program."""
    table = f"table {'ip' if delta.family is Family.IPV4 else 'ip6'} {TABLE}"
    if delta.delete_table:
        yield f"- {table}: it cannot be changed in place"
    if delta.create or delta.delete_table:
        yield f"+ {table}"
    elif delta.program:
        for chain, wanted in read_listing(desired.program).chains.items():
            yield from _rule_lines(chain, observed.chains.get(chain, ()), wanted)


def _rule_lines(chain: str, old: tuple[str, ...], new: tuple[str, ...]) -> Iterator[str]:
    """The rules of a chain that go and come; something for every chain that differs."""
    gone = [f"- chain {chain}: {rule}" for rule in old if rule not in new]
    come = [f"+ chain {chain}: {rule}" for rule in new if rule not in old]
    yield from gone
    yield from come
    if old != new and not gone and not come:
        yield f"+ chain {chain}: each rule once, in order"
