"""What has to be written so that the kernel's chains become the desired ones, chain by chain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from netplane.core.iptables.layout import (
    DISPATCH_CHAINS,
    FILTER,
    KUBE_FIREWALL,
    NAT,
    TABLES,
    Chains,
    Ruleset,
)
from netplane.core.iptables.names import EXT, FW, SEP, SVC, SVL
from netplane.core.iptables.parse import Observed, ObservedTable
from netplane.core.iptables.rule import read_rule

#: The comment of the one rule netplane and the kubelet both write into KUBE-FIREWALL.
_LOCALNET = '--comment "block incoming localnet connections"'

_OUTSIDE_IN = (*DISPATCH_CHAINS, FW, EXT, SVC, SVL, SEP, "")


class TableDelta(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be written in one table.

    Attributes:
        writes: Chains that are absent or different, with the rules they get.
        deletes: Stale chains that nobody else's rule leads to.
        additions: Single rules, ``-I`` jumps into our chains and ``-A`` for the shared chain.
        removals: Single rules to delete, ``-D``; each deletes the first rule of that text.
    """

    writes: Chains = {}
    deletes: tuple[str, ...] = ()
    additions: tuple[str, ...] = ()
    removals: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.writes or self.deletes or self.additions or self.removals)


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be written in one family."""

    filter: TableDelta = TableDelta()
    nat: TableDelta = TableDelta()

    def table(self, name: str) -> TableDelta:
        """The table of this name."""
        return self.filter if name == FILTER else self.nat

    def __bool__(self) -> bool:
        return bool(self.filter or self.nat)


def diff(desired: Ruleset, observed: Observed) -> Delta:
    """The difference; false where there is nothing to do."""
    return Delta(
        filter=_diff_table(desired, FILTER, observed.filter, shared=_is_shared(observed)),
        nat=_diff_table(desired, NAT, observed.nat, shared=False),
    )


def _is_shared(observed: Observed) -> bool:
    """Whether KUBE-FIREWALL is not ours alone: a kubelet is here, or somebody's rule is in it."""
    rules = observed.filter.chains.get(KUBE_FIREWALL, ())
    return (
        observed.filter.shared
        or observed.nat.shared
        or any(_LOCALNET not in rule for rule in rules)
    )


def removal(observed: Observed, jumps: dict[str, tuple[str, ...]]) -> Delta:
    """What takes away all and only what is ours (reference section 5).

    A shared KUBE-FIREWALL and its jumps stay. A chain that somebody else's rule leads to is
    emptied, and stays.

    Args:
        observed: What the kernel holds.
        jumps: Those of ``compile_jumps``.
    """
    shared = _is_shared(observed)
    parts = {}
    for table in TABLES:
        there = observed.table(table)
        kept = {KUBE_FIREWALL} if shared else set()
        known = frozenset(jumps[table])
        going = tuple(
            rule
            for rule in there.references
            if rule in known and read_rule(rule).target not in kept
        )
        others = [rule for rule in there.references if rule not in known]
        stale = [chain for chain in there.chains if chain not in kept]
        writes, deletes = _retire(stale, there.chains, others)
        parts[table] = TableDelta(
            writes=writes,
            deletes=deletes,
            removals=tuple(f"-D{rule[2:]}" for rule in going),
        )
    return Delta(filter=parts[FILTER], nat=parts[NAT])


def _diff_table(
    desired: Ruleset, table: str, observed: ObservedTable, *, shared: bool
) -> TableDelta:
    writes = {
        chain: rules
        for chain, rules in desired.tables[table].items()
        if observed.chains.get(chain) != rules
    }
    additions: list[str] = []
    if shared and KUBE_FIREWALL in writes and KUBE_FIREWALL in observed.chains:
        # Others' rules stay as they are, ours is added where it is not there already.
        there = observed.chains[KUBE_FIREWALL]
        additions += [rule for rule in writes.pop(KUBE_FIREWALL) if rule not in there]
    present = frozenset(observed.references)
    additions += [insertion(jump) for jump in desired.jumps[table] if jump not in present]
    stale = [chain for chain in observed.chains if chain not in desired.tables[table]]
    emptied, deletes = _retire(stale, observed.chains, observed.references)
    return TableDelta(
        writes=writes | emptied,
        deletes=deletes,
        additions=tuple(additions),
        removals=tuple(_repeated(desired.jumps[table], observed.references, shared=shared)),
    )


def _repeated(jumps: Iterable[str], references: Sequence[str], *, shared: bool) -> Iterator[str]:
    """Removals of jumps that are there more than once: two that wrote at a time each put one.

    Those to a shared KUBE-FIREWALL are left alone, as anybody may have written them.
    """
    if len(references) == len(frozenset(references)):
        return
    for jump in jumps:
        if not (shared and read_rule(jump).target == KUBE_FIREWALL):
            yield from [f"-D{jump[2:]}"] * (references.count(jump) - 1)


def _retire(
    stale: Sequence[str], chains: Chains, references: Iterable[str]
) -> tuple[Chains, tuple[str, ...]]:
    """Which stale chains are emptied, because a rule leads to them, and which are deleted."""
    held = {read_rule(rule).target for rule in references} if stale else frozenset[str]()
    emptied: Chains = {chain: () for chain in stale if chain in held and chains[chain]}
    return emptied, in_deletion_order(c for c in stale if c not in held)


def in_deletion_order(chains: Iterable[str]) -> tuple[str, ...]:
    """Chains in the order in which they can be deleted."""
    return tuple(sorted(chains, key=lambda chain: (_depth(chain), chain)))


def _depth(chain: str) -> int:
    """How far from the built-in chains: what jumps to others goes before what it jumps to."""
    return next(i for i, prefix in enumerate(_OUTSIDE_IN) if chain.startswith(prefix))


def insertion(rule: str) -> str:
    """A rule ``-A CHAIN ...`` as the command that puts it at the head of its chain."""
    return f"-I{rule[2:]}"
