"""A transaction told per service port, in the words of the common report of both modes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from netplane.core.model.address import Family
from netplane.core.nftables.diff import Delta, ElementDelta
from netplane.core.nftables.frontends import Frontend, Side, endpoints_of, frontends
from netplane.core.nftables.layout import TABLE, Ruleset
from netplane.core.nftables.listing import read_listing
from netplane.core.nftables.observed import Observed
from netplane.core.nftables.owners import Owner, Owners, is_sticky
from netplane.core.nftables.text import element_texts, key_text
from netplane.core.plan.changes import Action, Changes, ServiceChange

_NOW = {"balance": "answers again", "reject": "refuses connections", "drop": "drops connections"}

_Line: TypeAlias = tuple[Owner | None, str]


def report(desired: Ruleset, observed: Observed, delta: Delta) -> Changes:
    """Tell a transaction per service port; what belongs to none of them is base.

    False exactly where the transaction is.
    """
    if not delta:
        return Changes()
    before, after = (
        Side(observed.elements, observed.chains),
        Side(desired.elements, desired.chains),
    )
    rules: dict[Owner, list[str]] = {}
    base = list(_base_lines(desired, observed, delta))
    for owner, line in _lines(delta, observed, Owners(after, before)):
        if owner is None:
            base.append(line)
        else:
            rules.setdefault(owner, []).append(line)
    old, new = _by_owner(before, rules), _by_owner(after, rules)
    family = f"IPv{delta.family.value}"
    services = (
        _change(
            owner,
            family,
            _Told(before, old.get(owner, [])),
            _Told(after, new.get(owner, [])),
            rules[owner],
        )
        for owner in sorted(rules)
    )
    return Changes(services=tuple(services), base=tuple(base))


class _Told:
    """One side of one service port: its frontends with their verdicts, its endpoints."""

    def __init__(self, side: Side, mine: list[Frontend]) -> None:
        self.frontends = {str(f): f.verdict for f in mine}
        self.endpoints = {text for f in mine for text in endpoints_of(side, f)}
        self.sticky = any(is_sticky(side, f) for f in mine)


def _change(
    owner: Owner, family: str, old: _Told, new: _Told, rules: Iterable[str]
) -> ServiceChange:
    if bool(old.frontends) == bool(new.frontends):
        action = Action.CHANGED
    else:
        action = Action.ADDED if new.frontends else Action.REMOVED
    return ServiceChange(
        label=owner.label,
        family=family,
        action=action,
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


def _by_owner(side: Side, owners: Iterable[Owner]) -> dict[Owner, list[Frontend]]:
    found: dict[Owner, list[Frontend]] = {owner: [] for owner in owners}
    for frontend in frontends(side):
        mine = found.get(Owner(frontend.label, frontend.protocol))
        if mine is not None:
            mine.append(frontend)
    return found


def _lines(delta: Delta, observed: Observed, owners: Owners) -> Iterator[_Line]:
    """Every element, chain and affinity set of a transaction, with its owner."""
    for name, changed in delta.elements.items():
        yield from _deletions(name, changed, delta.family, owners)
        yield from _additions(name, changed, delta.family, owners)
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
    for name, seconds in delta.add_affinity_sets.items():
        yield owners.of_name(name), f"+ set {name}: timeout {seconds} s"


def _deletions(
    name: str, changed: ElementDelta, family: Family, owners: Owners
) -> Iterator[_Line]:
    if changed.flush:
        yield None, f"- {name}: everything, for it holds elements of a foreign form"
    for key, value in changed.delete:
        owner = owners.of_element(name, key)
        for text in element_texts(name, key, value, family):
            yield owner, f"- {name} {{ {text} }}"
    for key, slot in changed.delete_slots:
        yield (
            owners.of_element(name, key),
            f"- {name} {{ {key_text(name, key, family)} . {slot} }}",
        )


def _additions(
    name: str, changed: ElementDelta, family: Family, owners: Owners
) -> Iterator[_Line]:
    for key, value in changed.add:
        owner = owners.of_element(name, key)
        for text in element_texts(name, key, value, family):
            yield owner, f"+ {name} {{ {text} }}"
    for key, slot, (address, port) in changed.add_slots:
        text = f"{key_text(name, key, family)} . {slot} : {address} . {port}"
        yield owners.of_element(name, key), f"+ {name} {{ {text} }}"


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
