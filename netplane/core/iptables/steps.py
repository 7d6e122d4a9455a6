"""The order of writing: restore inputs of which each lands atomically, and none does harm.

``iptables-restore`` commits table by table, so a sync is a sequence of steps, each one input for
one table. After every step, whatever comes next or not, packets meet old or new rules:

1. filter gets what it must refuse from now on that nat has served so far, and keeps what it has
   refused so far. Its refusals meet only packets nat did not send to an endpoint: one too many
   never hits a Service that works, one too few lets packets for one that stops out into the world.
2. nat gets new and changed per-service chains, a few hundred service ports per step when there are
   many. Nothing leads to the new ones yet. A changed one keeps its meaning for the frontends that
   lead to it; where a change would not (the ClusterIP's masquerade rule moved elsewhere), the
   chain waits for the next step.
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
from netplane.core.iptables.layout import (
    DISPATCH_CHAINS,
    FILTER,
    FIXED_CHAINS,
    KUBE_MARK_MASQ,
    NAT,
    TABLES,
    Chains,
    Ruleset,
)
from netplane.core.iptables.parse import Observed
from netplane.core.iptables.rule import read_rule

_Frontend: TypeAlias = tuple[str, str, str]


class Step(msgspec.Struct, frozen=True):
    """One input of ``iptables-restore --noflush``, for one table; ``title`` says what it does."""

    table: str
    title: str
    text: str


def steps(
    groups: tuple[tuple[str, ...], ...], observed: Observed, delta: Delta, *, chunk: int
) -> tuple[Step, ...]:
    """What to restore, in order; nothing for an empty delta.

    Args:
        groups: Per service port the names of its chains (``Ruleset.groups``).
        observed: What the delta starts from.
        delta: What has to be written.
        chunk: How many per-service chains go into one step at most; a service port's own chains
            are never split.
    """
    before, after = _filter_steps(delta.filter, observed)
    return (*before, *_nat_steps(groups, observed.nat.chains, delta.nat, chunk), *after)


def restore_text(table: str, delta: TableDelta) -> str:
    """One table's restore input: chains emptied or made, their rules, single rules, deletions."""
    lines = [f"*{table}"]
    # Declaring a chain empties it as well; so chains about to go may lead to one another.
    lines += [f":{chain} - [0:0]" for chain in (*delta.writes, *delta.deletes)]
    for rules in delta.writes.values():
        lines += rules
    lines += delta.additions
    lines += delta.removals
    lines += [f"-X {chain}" for chain in delta.deletes]
    return "\n".join([*lines, "COMMIT", ""])


def whole_text(ruleset: Ruleset) -> str:
    """A whole ruleset as restore input, jumps included, for a kernel that has none of it."""
    return "".join(
        restore_text(
            table,
            TableDelta(
                writes=ruleset.tables[table],
                additions=tuple(insertion(jump) for jump in ruleset.jumps[table]),
            ),
        )
        for table in TABLES
    )


def _step(table: str, title: str, delta: TableDelta) -> Step:
    return Step(table, title, restore_text(table, delta))


def _filter_steps(
    delta: TableDelta, observed: Observed
) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """What is written in filter before nat, and what after it."""
    if not delta:
        return (), ()
    there = observed.filter.chains
    served = _frontends(r for c in DISPATCH_CHAINS for r in observed.nat.chains.get(c, ()))
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


def _nat_steps(
    groups: tuple[tuple[str, ...], ...], observed: Chains, delta: TableDelta, chunk: int
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
    final = TableDelta(
        writes=rest, additions=delta.additions, deletes=at_once, removals=delta.removals
    )
    if final:
        yield _step(NAT, "dispatch chains and jumps", final)
    for start in range(0, len(later), chunk):
        yield _step(NAT, "stale chains", TableDelta(deletes=later[start : start + chunk]))


def _chunks(
    groups: tuple[tuple[str, ...], ...], observed: Chains, writes: Chains, chunk: int
) -> Iterator[Chains]:
    """The per-service chains that may be written before the dispatch chains lead to them."""
    leaves = (chain for chain in FIXED_CHAINS[NAT] if chain not in DISPATCH_CHAINS)
    part = {chain: writes[chain] for chain in leaves if chain in writes}
    for group in groups:
        changed = {chain: writes[chain] for chain in group if chain in writes}
        if any(_forgets_frontend(observed.get(chain, ()), changed[chain]) for chain in changed):
            continue
        if part and len(part) + len(changed) > chunk:
            yield part
            part = {}
        part |= changed
    if part:
        yield part


def _forgets_frontend(old: tuple[str, ...], new: tuple[str, ...]) -> bool:
    """Whether a ClusterIP whose clients the old chain masquerades is unknown to the new one."""
    return bool(old) and not _masqueraded(old[0]) <= _masqueraded(new[0] if new else "")


def _masqueraded(first: str) -> frozenset[tuple[str, str]]:
    """The frontend of the masquerade rule a balancing chain may start with."""
    if not first.endswith(f" -j {KUBE_MARK_MASQ}") or " --dport " not in first:
        return frozenset()
    options = read_rule(first).options
    return frozenset({(options.get("-d", ""), options["--dport"])})
