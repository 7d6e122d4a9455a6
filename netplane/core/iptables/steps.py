"""The order of writing: restore inputs of which each lands atomically, and none does harm.

``iptables-restore`` commits table by table, so a sync is a sequence of steps, each one input for
one table. After every step, whatever comes next or not, packets meet old or new rules:

1. filter gets what it must refuse from now on that nat has served so far, and keeps what it has
   refused so far. Its refusals meet only packets nat did not send to an endpoint: one too many
   never hits a Service that works, one too few lets packets for one that stops out into the world.
2. nat gets new and changed per-service chains, a few hundred service ports per step when there are
   many. Nothing leads to the new ones yet. A changed one serves its frontends by the new rules
   from now on. Where one of its frontends is about to leave it, those rules may not know that one
   (its masquerade rule has moved to another chain), so the service port waits for the next step.
3. nat gets the dispatch chains, its jumps, and loses stale chains, in one step: frontends move
   from old to new at once.
4. filter loses what it has refused so far and nat serves now, and gets the other new refusals: of
   a frontend nat has not known, where the policy Local may refuse clients outside and serve pods.

Chunks: on iptables-nft the time of one restore grows with the square of its size, while on
iptables-legacy every restore carries the whole table in and out of the kernel; see ``chunk``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import msgspec

from netplane.core.iptables.diff import Delta, TableDelta, insertion
from netplane.core.iptables.edits import edits
from netplane.core.iptables.layout import (
    DISPATCH_CHAINS,
    FILTER,
    FIXED_CHAINS,
    NAT,
    TABLES,
    Chains,
    Ruleset,
)
from netplane.core.iptables.parse import Observed
from netplane.core.iptables.rule import read_rule

_Frontend: TypeAlias = tuple[str, str, str]

_UNCUT = 3  # steps: filter, nat and filter again


class Step(msgspec.Struct, frozen=True):
    """One input of ``iptables-restore --noflush``; ``title`` says what it does.

    Attributes:
        table: The table it is for; several of a ``joined`` step.
        commits: How many parts it has, of which each lands atomically.
    """

    table: str
    title: str
    text: str
    commits: int = 1


def steps(
    groups: tuple[tuple[str, ...], ...],
    observed: Observed,
    delta: Delta,
    *,
    chunk: int,
    edit: bool = False,
) -> tuple[Step, ...]:
    """What to restore, in order; nothing for an empty delta.

    Args:
        groups: Per service port the names of its chains (``Ruleset.groups``).
        observed: What the delta starts from.
        delta: What has to be written.
        chunk: How many per-service chains go into one step at most; a service port's own chains
            are never split.
        edit: Change single rules of a dispatch chain where these are few. What is observed must be
            rules of ours: somebody else's may not be such that iptables can name them.
    """
    before, after = _filter_steps(delta.filter, observed)
    nat = _nat_steps(groups, observed.nat.chains, delta.nat, chunk, edit=edit)
    return (*before, *nat, *after)


def joined(order: tuple[Step, ...]) -> tuple[Step, ...]:
    """The same steps in as few inputs: each table of an input lands by itself, in its order.

    What is cut into chunks stays so.
    """
    if not 1 < len(order) <= _UNCUT:
        return order
    tables = " and ".join(dict.fromkeys(step.table for step in order))
    title = ", then ".join(step.title for step in order)
    return (Step(tables, title, "".join(step.text for step in order), len(order)),)


def restore_text(table: str, delta: TableDelta) -> str:
    """One table's restore input: chains emptied or made, their rules, single rules, deletions.

    Both variants keep their chains in a list sorted by name, and look for a chain's place from its
    head; so the last name is declared first. iptables-legacy loads 60,000 chains in three fifths
    of the time, iptables-nft 12,000 in a third.
    """
    declared = sorted((*delta.writes, *delta.deletes), reverse=True)
    return _text(table, declared, delta)


def whole_text(ruleset: Ruleset) -> str:
    """A whole ruleset as restore input, jumps included, for a kernel that has none of it.

    This is for people to read: chains are declared in plan order.
    """
    return "".join(
        _text(
            table,
            ruleset.tables[table],
            TableDelta(
                writes=ruleset.tables[table],
                additions=tuple(insertion(jump) for jump in ruleset.jumps[table]),
            ),
        )
        for table in TABLES
    )


def _text(table: str, declared: Iterable[str], delta: TableDelta) -> str:
    # Declaring a chain empties it as well; so chains about to go may lead to one another.
    lines = [f"*{table}", *(f":{chain} - [0:0]" for chain in declared)]
    for rules in delta.writes.values():
        lines += rules
    lines += delta.additions
    lines += delta.removals
    lines += [f"-X {chain}" for chain in delta.deletes]
    lines += ("COMMIT", "")
    return "\n".join(lines)


def _step(table: str, title: str, delta: TableDelta) -> Step:
    return Step(table, title, restore_text(table, delta))


def _filter_steps(
    delta: TableDelta, observed: Observed
) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """What is written in filter before nat, and what after it."""
    if not delta:
        return (), ()
    there = observed.filter.chains
    asked = {
        _destination(rule)
        for chain, rules in delta.writes.items()
        for rule in frozenset(rules).difference(there.get(chain, ()))
    }
    served = _frontends(
        rule
        for chain in DISPATCH_CHAINS
        for rule in observed.nat.chains.get(chain, ())
        if _destination(rule) in asked
    )
    first = {
        chain: _meanwhile(there.get(chain, ()), rules, served)
        for chain, rules in delta.writes.items()
    }
    early = {chain: rules for chain, rules in first.items() if rules != there.get(chain)}
    late = {chain: rules for chain, rules in delta.writes.items() if rules != first[chain]}
    before = TableDelta(writes=early, additions=delta.additions)
    after = TableDelta(writes=late, deletes=delta.deletes, removals=delta.removals)
    return (
        (_step(FILTER, "fixed chains, jumps, refusals of what stops", before),) if before else (),
        (_step(FILTER, "other refusals", after),) if after else (),
    )


def _meanwhile(
    old: tuple[str, ...], new: tuple[str, ...], served: frozenset[_Frontend]
) -> tuple[str, ...]:
    """A chain of filter until nat is written: what it had, and what it must have by then."""
    had, wanted = frozenset(old), frozenset(new)
    kept = [rule for rule in new if rule in had or _frontends((rule,)) <= served]
    going = [rule for rule in old if rule not in wanted]
    return old if going and had.issuperset(kept) else (*kept, *going)


def _frontends(rules: Iterable[str]) -> frozenset[_Frontend]:
    """The frontends rules name, as (destination, protocol, port); "" for a NodePort's address."""
    found = (read_rule(rule).options for rule in rules if " --dport " in rule)
    return frozenset((o.get("-d", ""), o.get("-p", ""), o["--dport"]) for o in found)


def _destination(rule: str) -> str:
    """The destination a rule's frontend starts with, "" without one."""
    words = rule.split(" ", 4)
    return words[3] if words[2] == "-d" else ""


def _nat_steps(
    groups: tuple[tuple[str, ...], ...],
    observed: Chains,
    delta: TableDelta,
    chunk: int,
    *,
    edit: bool,
) -> Iterator[Step]:
    """Per-service chains in chunks, then what must change at once, then what is stale."""
    if not delta:
        return
    early: list[Chains] = []
    if len(delta.writes) + len(delta.deletes) > chunk:
        early = list(_chunks(groups, observed, delta.writes, chunk))
    written = frozenset(chain for chains in early for chain in chains)
    for number, chains in enumerate(early, start=1):
        title = f"service chains, part {number} of {len(early)}"
        yield _step(NAT, title, TableDelta(writes=chains))
    # Old dispatch rules may lead to stale chains until now, so none may have gone before.
    few = len(delta.deletes) <= chunk
    at_once, later = (delta.deletes, ()) if few else ((), delta.deletes)
    rest = {chain: rules for chain, rules in delta.writes.items() if chain not in written}
    additions = delta.additions
    for chain in DISPATCH_CHAINS if edit else ():
        if chain in rest and (commands := edits(chain, observed.get(chain, ()), rest[chain])):
            del rest[chain]
            additions += commands
    final = TableDelta(writes=rest, additions=additions, deletes=at_once, removals=delta.removals)
    if final:
        yield _step(NAT, "dispatch chains and jumps", final)
    for start in range(0, len(later), chunk):
        yield _step(NAT, "stale chains", TableDelta(deletes=later[start : start + chunk]))


def _chunks(
    groups: tuple[tuple[str, ...], ...], observed: Chains, writes: Chains, chunk: int
) -> Iterator[Chains]:
    """The per-service chains that may be written before the dispatch chains lead to them."""
    left = _left(observed, writes)
    leaves = (chain for chain in FIXED_CHAINS[NAT] if chain not in DISPATCH_CHAINS)
    part = {chain: writes[chain] for chain in leaves if chain in writes}
    for group in groups:
        changed = {chain: writes[chain] for chain in group if chain in writes}
        if not left.isdisjoint(changed):
            continue
        if part and len(part) + len(changed) > chunk:
            yield part
            part = {}
        part |= changed
    if part:
        yield part


def _left(observed: Chains, writes: Chains) -> frozenset[str]:
    """The chains that a dispatch rule will no longer lead to."""
    gone = (
        rule
        for chain in DISPATCH_CHAINS
        if chain in writes
        for rule in frozenset(observed.get(chain, ())).difference(writes[chain])
    )
    return frozenset(rule[rule.rfind(" ") + 1 :] for rule in gone)


def rules_in(text: str) -> dict[str, int]:
    """How many rules an input adds, by table."""
    parts = f"\n{text}".split("\n*")[1:]
    return {part.partition("\n")[0]: part.count("\n-A ") + part.count("\n-I ") for part in parts}
