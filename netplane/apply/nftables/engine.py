"""The nftables mode of a process that goes on: a change costs what changed, at any size.

    change   one Service or slice -> its plan -> its elements -> one or a few netlink transactions
    verify   the ruleset's generation -> nothing, or everything is observed

The ruleset's generation is the lock. While nobody else writes, or somebody vouches for who did,
the kernel is never read: the engine knows every slot it has filled. Otherwise, or where a write
failed, what is known is thrown away and everything is observed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import msgspec

from netplane.apply.engine import Applied, RuleCount
from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink.commit import Vouch, still
from netplane.apply.nfnetlink.errors import Refusal
from netplane.apply.nfnetlink.socket import NfnetlinkSocket
from netplane.apply.nftables.observe import Sight, Target, observe
from netplane.apply.nftables.tool import NftTool
from netplane.apply.nftables.write import Writer, Written
from netplane.core.model.address import Family
from netplane.core.model.service import EndpointSlice, Service, ServiceName
from netplane.core.model.snapshot import Snapshot
from netplane.core.nftables.damage import exceeds
from netplane.core.nftables.diff import Delta, diff, is_elementary, placed
from netplane.core.nftables.layout import Elements, Ruleset
from netplane.core.nftables.live import LiveTable
from netplane.core.nftables.program import is_follower
from netplane.core.nftables.record import NOTHING, Wanted, text_digest
from netplane.core.nftables.refused import labels_of, service_of
from netplane.core.nftables.report import report
from netplane.core.nftables.retold import Retold
from netplane.core.plan.changes import Changes, merged
from netplane.core.plan.incremental import Planner, Replanned, joined
from netplane.core.plan.node import NodeView
from netplane.errors import ApplyError, StaleError
from netplane.rendering import environment

_ATTEMPTS = 3


class NftablesEngine:
    """Keeps one namespace's tables what the plan says; a context manager, used by one thread.

    Args:
        namespace: Where, entered.
        node: What the plan is for.
        postpone: See ``Writer``.
        vouch: Who may know that foreign commits did no harm (``Witness.vouch``).

    What its methods promise stands in ``netplane.apply.engine.Engine``.
    """

    notes: tuple[str, ...] = ()
    rules: Mapping[tuple[Family, str], RuleCount] = {}

    def __init__(
        self,
        namespace: Namespace,
        node: NodeView,
        *,
        postpone: bool | None = None,
        vouch: Vouch | None = None,
    ) -> None:
        self._planner = Planner(node)
        self._insistence = _Insistence(vouch)
        self._vouch: Vouch = self._insistence.vouch
        self._link = NfnetlinkSocket(namespace, vouch=self._vouch)
        self._tool = NftTool(namespace)
        self._writer = Writer(self._link, self._tool, postpone=postpone, vouch=self._vouch)
        self._tables: list[LiveTable] | None = None  # None: what is in the kernel is not known
        self._doubted: list[LiveTable] | None = None  # as written, and maybe edited since
        self._mended: frozenset[Family] = frozenset()
        self._generation = 0
        self._refused: dict[ServiceName, str] = {}
        self._untold: tuple[Replanned, ...] = ()

    def __enter__(self) -> Self:
        self._link.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._link.__exit__(kind, value, tb)

    @property
    def planner(self) -> Planner:
        """What traffic should do; see ``Engine``."""
        return self._planner

    @property
    def conflicts(self) -> int:
        """How many commits were begun anew; see ``Engine``."""
        return self._link.conflicts

    def sync(self, snapshot: Snapshot) -> Applied:
        """Take in everything, observe everything, and write what differs."""
        self._take(self._planner.replace(snapshot))
        return self._look()

    def change(
        self,
        services: Mapping[ServiceName, Service | None],
        slices: Mapping[ServiceName, tuple[EndpointSlice, ...]],
    ) -> Applied:
        """Take in what changed, and write that; see ``Engine``."""
        doubted = self._doubted
        replanned = self._planner.update(services, slices)
        tables = self._take(replanned)
        if tables is None or self._concerns_refused(services, slices, replanned):
            return self._look((), _update(doubted, replanned)[0] if doubted else None)
        deltas, changes = _update(tables, replanned)
        if not changes:
            self._tables = tables
            return self._tell(changes)
        believed = [table.elements for table in tables]
        try:
            written = self._write(deltas, tables)
        except ApplyError as exc:
            if not exc.retryable:
                raise
            return self._look(believed, deltas)
        if written.refused:
            again = self._look(believed)
            return msgspec.structs.replace(again, changes=merged([changes, again.changes]))
        self._tables, self._generation = tables, written.generation
        return self._tell(changes)

    def turn_to(self, node: NodeView) -> Applied:
        """Take in what the node is now; see ``Engine``."""
        if node == self._planner.node:
            return self.change({}, {})
        self._take(self._planner.turn_to(node))
        return self._look()

    def verify(self) -> Applied:
        """Look, and mend; while the ruleset's generation is ours, there is nothing to read."""
        tables, self._tables = self._tables, None
        known = tables is not None and not self._refused
        if known and still(self._link.generation(), self._generation, self._vouch):
            self._tables = tables
            return self._tell(Changes())
        return self._look([table.elements for table in tables or ()], ())

    def _take(self, replanned: Sequence[Replanned]) -> list[LiveTable] | None:
        """Note what is planned anew; returns the tables as they are in the kernel, if known.

        Until that has been written whole, the tables are not as they say they are.
        """
        self._untold = joined(self._untold, replanned)
        tables, self._tables = self._tables, None
        return tables

    def _tell(self, changes: Changes, *, observed: bool = False) -> Applied:
        """What has been done, now that nothing is owed."""
        replanned, self._untold = self._untold, ()
        return Applied(
            changes=changes,
            refused=self._refused,
            replanned=replanned,
            observed=observed,
            mended=self._mended if observed else frozenset(),
            disturbed=self._tables is None,
        )

    def _concerns_refused(
        self,
        services: Mapping[ServiceName, object],
        slices: Mapping[ServiceName, object],
        replanned: Sequence[Replanned],
    ) -> bool:
        """Whether a Service is among these that is not in the kernel as it was planned."""
        if not self._refused:
            return False
        touched = {*services, *slices, *(change.service for change in replanned)}
        return not touched.isdisjoint(self._refused)

    def _write(self, deltas: Sequence[Delta], tables: Sequence[LiveTable]) -> Written:
        """Write a change, and record it where it is one of the structure."""
        written = self._writer.write(deltas, self._generation)
        if all(map(is_elementary, deltas)):
            return written
        wanted = [
            (table.ruleset.family, Wanted(text_digest(table.ruleset), NOTHING)) for table in tables
        ]
        return written._replace(generation=self._writer.note(wanted, written))

    def _look(
        self, believed: Sequence[Elements] = (), meant: Sequence[Delta] | None = None
    ) -> Applied:
        """Observe everything and write what differs; where somebody was quicker, again.

        What differs beyond what was ``meant`` to be written is damage; None: nobody can tell.

        The last time it is written onto whatever is there then. Who writes into our table without
        pause would keep us from ever writing otherwise; and what such a hand has changed between
        our look and our write is found by the next call, which looks again.
        """
        self._mended, self._doubted = frozenset(), None
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._tell(self._adopt(believed, meant), observed=True)
            except ApplyError as exc:
                if not exc.retryable:
                    raise
        with self._insistence.upon(self._link):
            changes = self._adopt(believed, meant)
            self._doubted, self._tables = self._tables, None
            if self._refused:
                raise StaleError("somebody keeps changing our tables, and was quicker each time")
        return self._tell(changes, observed=True)

    def _adopt(self, believed: Sequence[Elements], meant: Sequence[Delta] | None) -> Changes:
        """Observe, compare, write, and keep what the kernel then has."""
        plan = self._planner.plan()
        targets = [Target.of(family) for family in plan.families]
        if believed:
            targets = [t._replace(guess=g) for t, g in zip(targets, believed, strict=True)]
        sight = observe(self._link, self._tool, targets, slots=True, vouch=self._vouch)
        deltas = [
            diff(target.ruleset, seen.observed)
            for target, seen in zip(targets, sight.tables, strict=True)
        ]
        self._mended |= frozenset() if meant is None else _exceeding(deltas, meant)
        written = Written(sight.generation)
        if any(deltas) or not all(seen.recorded for seen in sight.tables):
            written = self._writer.write(deltas, sight.generation)
            wanted = [(t.ruleset.family, Wanted.of(t.ruleset)) for t in targets]
            written = written._replace(generation=self._writer.note(wanted, written))
        self._refused = _named(written.refused, targets)
        rulesets = [
            placed(target.ruleset, seen.observed, delta)
            for target, seen, delta in zip(targets, sight.tables, deltas, strict=True)
        ]
        self._generation = written.generation
        if written.refused:
            found = observe(self._link, self._tool, targets, slots=True, vouch=self._vouch)
            rulesets = _found(targets, found)
            self._generation = found.generation
        self._tables = [
            LiveTable(family.view, ruleset, family.ports, environment())
            for family, ruleset in zip(plan.families, rulesets, strict=True)
        ]
        return merged(
            report(target.ruleset, seen.observed, delta)
            for target, seen, delta in zip(targets, sight.tables, deltas, strict=True)
            if delta
        )


class _Insistence:
    """Vouches as somebody else does, or, while we insist, for everything.

    Args:
        vouch: Who may know that foreign commits did no harm.
    """

    def __init__(self, vouch: Vouch | None) -> None:
        self._vouch = vouch
        self._link: NfnetlinkSocket | None = None  # to be insisted upon

    def vouch(self, generation: int) -> int | None:
        """See ``Witness.vouch``."""
        if self._link is not None:
            return self._link.generation()
        return None if self._vouch is None else self._vouch(generation)

    @contextmanager
    def upon(self, link: NfnetlinkSocket) -> Iterator[None]:
        """Vouch for everything during the block."""
        self._link = link
        try:
            yield
        finally:
            self._link = None


def _update(
    tables: Sequence[LiveTable], replanned: Sequence[Replanned]
) -> tuple[list[Delta], Changes]:
    """Each table's transaction, and all of them told."""
    deltas = []
    stories = []
    for index, table in enumerate(tables):
        before = tuple([port for change in replanned for port in change.before[index]])
        after = tuple([port for change in replanned for port in change.after[index]])
        if before or after:
            delta = table.update(before, after)
            deltas.append(delta)
            stories.append(Retold(table.view, before, after, delta, environment()))
    return deltas, Changes(*stories)


def _exceeding(found: Iterable[Delta], meant: Iterable[Delta]) -> frozenset[Family]:
    """The families in which more differs than was to be written."""
    intended = {delta.family: delta for delta in meant}
    return frozenset(
        delta.family
        for delta in found
        if exceeds(delta, intended.get(delta.family, Delta(family=delta.family)))
    )


def _named(refused: Sequence[Refusal], targets: Sequence[Target]) -> dict[ServiceName, str]:
    """What was refused, by Service: the first refusal of each."""
    named: dict[ServiceName, str] = {}
    for refusal in refused:
        for target in targets:
            if refusal.place is not None and target.ruleset.family is refusal.family:
                for label in labels_of(refusal.place, target.ruleset.elements):
                    named.setdefault(service_of(label), f"{label}: {refusal}")
    return named


def _found(targets: Sequence[Target], sight: Sight) -> list[Ruleset]:
    """What the tables hold, where that is not what was wanted."""
    return [
        msgspec.structs.replace(
            target.ruleset,
            elements=seen.observed.elements,
            chains={n: rules for n, rules in seen.observed.chains.items() if is_follower(n)},
        )
        for target, seen in zip(targets, sight.tables, strict=True)
    ]
