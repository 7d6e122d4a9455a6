"""Tell a delta per service port: the common report of both modes' diffs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from functools import cached_property
from typing import NamedTuple

from netplane.core.iptables.diff import Delta
from netplane.core.iptables.layout import TABLES, Chains, Ruleset
from netplane.core.iptables.names import PREFIXES
from netplane.core.iptables.parse import Observed
from netplane.core.iptables.reading import (
    BALANCE,
    DROP,
    REJECT,
    Frontend,
    PortKey,
    affinity_seconds,
    balancers,
    endpoint_chains,
    endpoints,
    frontends,
    owner,
    source_ranges,
)
from netplane.core.iptables.rule import read_rule
from netplane.core.plan.changes import Action, Changes, LostFrontend, ServiceChange

_HEALTH_CHECK = " health check node port"
_WORDS = {
    BALANCE: "now serves",
    REJECT: "now rejects connections",
    DROP: "now drops packets",
}


def report(desired: Ruleset, observed: Observed, delta: Delta) -> Changes:
    """What a delta changes, per service port of one family; false for an empty delta."""
    return Changes(_Story(desired, observed, delta))


class _Lines(NamedTuple):
    """What a delta writes and removes: by service port, and what is nobody's."""

    rules: dict[PortKey, list[str]]
    base: list[str]


class _Story:
    """A delta of one family; see ``netplane.core.plan.changes.Story``."""

    def __init__(self, desired: Ruleset, observed: Observed, delta: Delta) -> None:
        self._family = desired.family
        self._delta = delta
        self._observed = observed
        self._desired = desired
        self._old_nat = observed.nat.chains
        self._new_nat = desired.tables["nat"]

    def __bool__(self) -> bool:
        return bool(self._delta)

    def totals(self) -> Counter[Action]:
        """See ``Story``."""
        return Counter(self._action(key) for key in self._brief.rules)

    def services(self, *, limit: int | None = None, rules: bool = False) -> list[ServiceChange]:
        """See ``Story``."""
        lines = (self._told(rules=True) if rules else self._brief).rules
        return [self._change(key, lines[key] if rules else ()) for key in sorted(lines)[:limit]]

    def base(self) -> tuple[str, ...]:
        """See ``Story``."""
        return tuple(self._brief.base)

    def lost(self) -> Iterator[LostFrontend]:
        """See ``Story``."""
        for key, gone in self._old.items():
            for _, address, port in gone.keys() - self._new.get(key, {}).keys():
                yield LostFrontend(self._family, address, key.protocol, port)

    @cached_property
    def _old(self) -> dict[PortKey, dict[Frontend, str]]:
        return frontends({table: self._observed.table(table).chains for table in TABLES})

    @cached_property
    def _new(self) -> dict[PortKey, dict[Frontend, str]]:
        return frontends(self._desired.tables)

    @cached_property
    def _by_label(self) -> dict[str, PortKey]:
        return {key.label: key for key in (*self._old, *self._new)}

    @cached_property
    def _brief(self) -> _Lines:
        return self._told(rules=False)

    def _told(self, *, rules: bool) -> _Lines:
        """Go through the delta; without ``rules`` the lines of service ports need not be there."""
        family = f"IPv{self._family.value}"
        found = _Lines(defaultdict(list), [])
        # Where nothing is, every service port comes: no need to ask of each of its chains.
        shortened = not rules and not any(self._observed.table(t).chains for t in TABLES)
        if shortened:
            found.rules.update((key, []) for key in self._new)
        for table in TABLES:
            part = self._delta.table(table)
            for chain, wanted in (part.writes | dict.fromkeys(part.deletes, ())).items():
                if not (shortened and chain.startswith(PREFIXES)):
                    self._tell(found, table, chain, wanted)
            found.base.extend(f"+ {family} {table}: {rule}" for rule in part.additions)
            found.base.extend(f"- {family} {table}: {rule}" for rule in part.removals)
        return found

    def _tell(self, found: _Lines, table: str, chain: str, new: tuple[str, ...]) -> None:
        """Take note of a chain that gets these rules."""
        old = self._observed.table(table).chains.get(chain)
        before, after = frozenset(old or ()), frozenset(new)
        lines = [f"- {rule}" for rule in old or () if rule not in after]
        lines += [f"+ {rule}" for rule in new if rule not in before]
        key = self._owner(chain, new or old or ()) if chain.startswith(PREFIXES) else None
        where = f"IPv{self._family.value} {table}:"
        for line in lines:
            whose = key or self._whose(line)
            if whose is None:
                found.base.append(f"{line[:2]}{where} {line[2:]}")
            else:
                found.rules[whose].append(line)
        if lines:
            return
        if old is None:
            found.base.append(f"+ {where} chain {chain}")
        elif new:
            found.base.append(f"+ {where} chain {chain}, same rules in another order")
        else:
            found.base.append(f"- {where} chain {chain}")

    def _whose(self, line: str) -> PortKey | None:
        """The service port of a rule in a shared chain."""
        rule = read_rule(line[2:])
        label = rule.label
        if rule.comment.endswith(_HEALTH_CHECK) and label in self._by_label:
            return self._by_label[label]  # always TCP, whatever the service port is
        protocol = rule.options.get("-p", "")
        return PortKey(label, protocol) if label and protocol else None

    def _owner(self, chain: str, rules: tuple[str, ...]) -> PortKey | None:
        """The service port of a per-service chain, by its own rules or by what leads to it."""
        return owner(chain, rules) or self._owners.get(chain)

    @cached_property
    def _owners(self) -> dict[str, PortKey]:
        """Whose the observed chains are; kube-proxy writes some without comments."""
        owners: dict[str, PortKey] = {}
        for key in self._old:
            for chain in balancers(key):
                owners[chain] = key
                seps = endpoint_chains(self._old_nat.get(chain, ()))
                owners.update(dict.fromkeys(seps, key))
        return owners

    def _action(self, key: PortKey) -> Action:
        old, new = bool(self._old.get(key)), bool(self._new.get(key))
        return Action.CHANGED if new and old else Action.ADDED if new else Action.REMOVED

    def _change(self, key: PortKey, rules: Iterable[str]) -> ServiceChange:
        old, new = self._old.get(key, {}), self._new.get(key, {})
        before, after = endpoints(key, self._old_nat), endpoints(key, self._new_nat)
        notes = _notes(key, old, new)
        if old and new:
            notes += _policy_notes(key, self._old_nat, self._new_nat)
        told = bool(notes) or before != after or old.keys() != new.keys()
        return ServiceChange(
            label=key.label,
            family=f"IPv{self._family.value}",
            action=self._action(key),
            protocol=key.protocol,
            frontends_added=_texts(key, new.keys() - old.keys()),
            frontends_removed=_texts(key, old.keys() - new.keys()),
            endpoints_added=tuple(sorted(after - before)),
            endpoints_removed=tuple(sorted(before - after)),
            notes=tuple(notes) if told else ("the same frontends and endpoints, by other rules",),
            rules=tuple(rules),
        )


def _texts(key: PortKey, found: AbstractSet[Frontend]) -> tuple[str, ...]:
    return tuple(sorted(frontend.text(key.protocol) for frontend in found))


def _notes(key: PortKey, old: dict[Frontend, str], new: dict[Frontend, str]) -> list[str]:
    """What is to be said of verdicts: a new frontend that refuses, an old one that changed."""
    return [
        f"{frontend.text(key.protocol)} {_WORDS[verdict]}"
        for frontend, verdict in sorted(new.items())
        if verdict != old.get(frontend, BALANCE)
    ]


def _policy_notes(key: PortKey, old: Chains, new: Chains) -> list[str]:
    """What is to be said of session affinity and source ranges."""
    notes = []
    was, now = affinity_seconds(key, old), affinity_seconds(key, new)
    if was != now:
        notes.append(f"session affinity {now} s" if now else "no session affinity any more")
    before, after = source_ranges(key, old), source_ranges(key, new)
    if before != after:
        allowed = ", ".join(sorted(after)) or "everyone"
        notes.append(f"load balancer sources allowed: {allowed}")
    return notes
