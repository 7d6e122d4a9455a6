"""Tell a delta per service port: the common report of both modes' diffs."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Set as AbstractSet

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
from netplane.core.plan.changes import Action, Changes, ServiceChange

_HEALTH_CHECK = " health check node port"
_WORDS = {
    BALANCE: "now serves",
    REJECT: "now rejects connections",
    DROP: "now drops packets",
}


def report(desired: Ruleset, observed: Observed, delta: Delta) -> Changes:
    """What a delta changes, per service port of one family; false for an empty delta."""
    if not delta:
        return Changes()
    story = _Story(desired, observed)
    for table in TABLES:
        part = delta.table(table)
        for chain, rules in (part.writes | dict.fromkeys(part.deletes, ())).items():
            story.tell(table, chain, observed.table(table).chains.get(chain), rules)
        story.base += [f"+ {story.family} {table}: {rule}" for rule in part.additions]
        story.base += [f"- {story.family} {table}: {rule}" for rule in part.removals]
    return story.end()


class _Story:
    """A report in the making: lines by service port, and those of nobody's."""

    def __init__(self, desired: Ruleset, observed: Observed) -> None:
        self.family = f"IPv{desired.family.value}"
        self.base: list[str] = []
        self._old_nat = observed.nat.chains
        self._new_nat = desired.tables["nat"]
        self._old = frontends({t: observed.table(t).chains for t in TABLES})
        self._new = frontends(desired.tables)
        self._rules: dict[PortKey, list[str]] = defaultdict(list)
        self._by_label = {key.label: key for key in (*self._old, *self._new)}

    def tell(
        self, table: str, chain: str, old: tuple[str, ...] | None, new: tuple[str, ...]
    ) -> None:
        """Take note of a chain that changes from ``old`` (None: absent) to ``new``."""
        before, after = frozenset(old or ()), frozenset(new)
        lines = [f"- {rule}" for rule in old or () if rule not in after]
        lines += [f"+ {rule}" for rule in new if rule not in before]
        key = self._owner(chain, new or old or ()) if chain.startswith(PREFIXES) else None
        for line in lines:
            whose = key or self._whose(line)
            if whose is None:
                self.base.append(f"{line[:2]}{self.family} {table}: {line[2:]}")
            else:
                self._rules[whose].append(line)
        if lines:
            return
        if old is None:
            self.base.append(f"+ {self.family} {table}: chain {chain}")
        elif new:
            self.base.append(
                f"+ {self.family} {table}: chain {chain}, same rules in another order"
            )
        else:
            self.base.append(f"- {self.family} {table}: chain {chain}")

    def _whose(self, line: str) -> PortKey | None:
        """The service port of a rule in a shared chain."""
        rule = read_rule(line[2:])
        label = rule.label
        if rule.comment.endswith(_HEALTH_CHECK) and label in self._by_label:
            return self._by_label[label]  # always TCP, whatever the service port is
        protocol = rule.options.get("-p", "")
        return PortKey(label, protocol) if label and protocol else None

    def end(self) -> Changes:
        """The report."""
        return Changes(
            services=tuple(self._change(key) for key in sorted(self._rules)),
            base=tuple(self.base),
        )

    def _owner(self, chain: str, rules: tuple[str, ...]) -> PortKey | None:
        """The service port of a per-service chain, by its own rules or by what leads to it."""
        return owner(chain, rules) or self._owners.get(chain)

    @functools.cached_property
    def _owners(self) -> dict[str, PortKey]:
        """Whose the observed chains are; kube-proxy writes some without comments."""
        owners: dict[str, PortKey] = {}
        for key in self._old:
            for chain in balancers(key):
                owners[chain] = key
                seps = endpoint_chains(self._old_nat.get(chain, ()))
                owners.update(dict.fromkeys(seps, key))
        return owners

    def _change(self, key: PortKey) -> ServiceChange:
        old, new = self._old.get(key, {}), self._new.get(key, {})
        before, after = endpoints(key, self._old_nat), endpoints(key, self._new_nat)
        notes = _notes(key, old, new)
        if old and new:
            notes += _policy_notes(key, self._old_nat, self._new_nat)
        told = bool(notes) or before != after or old.keys() != new.keys()
        action = Action.CHANGED if new and old else Action.ADDED if new else Action.REMOVED
        return ServiceChange(
            label=key.label,
            family=self.family,
            action=action,
            protocol=key.protocol,
            frontends_added=_texts(key, new.keys() - old.keys()),
            frontends_removed=_texts(key, old.keys() - new.keys()),
            endpoints_added=tuple(sorted(after - before)),
            endpoints_removed=tuple(sorted(before - after)),
            notes=tuple(notes) if told else ("the same frontends and endpoints, by other rules",),
            rules=tuple(self._rules[key]),
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
