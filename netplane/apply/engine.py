"""What a process that goes on asks of a mode: take in what changed, and write that alone.

    sync     snapshot -> plan -> observe everything -> write the difference
    change   some Services or slices -> their plans -> what they have in the kernel
    turn_to  other facts of the node -> everything planned again -> the difference
    verify   look whether the kernel still is as it should be -> mend what is not

One thread uses an engine. It remembers what it has written, so a change costs what changed; where
that memory is in doubt (a write failed, somebody else has written) everything is observed again.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import NamedTuple, Protocol, Self

import msgspec

from netplane.core.model.address import Family
from netplane.core.model.service import EndpointSlice, Service, ServiceName
from netplane.core.model.snapshot import Snapshot
from netplane.core.plan.changes import Changes, merged
from netplane.core.plan.incremental import Planner, Replanned, joined
from netplane.core.plan.node import NodeView


class RuleCount(NamedTuple):
    """How many rules there are of ours, and how many the last call has written."""

    total: int
    written: int


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine has done.

    Attributes:
        changes: What it has changed in the kernel; false where nothing had to be.
        refused: Services of which the kernel refused something, with its words. They are as they
            were; they are tried again with each sync, each look and each change of their own.
        replanned: The Services whose plan is another than when the last call returned that did;
            what a call that failed had planned is among it.
        observed: The kernel was read.
        mended: The families in which ``changes`` has what somebody else had damaged. Where the
            node is another than before nobody can tell.
        disturbed: Somebody else may have written meanwhile: the next call should look.
    """

    changes: Changes
    refused: Mapping[ServiceName, str]
    replanned: tuple[Replanned, ...] = ()
    observed: bool = False
    mended: frozenset[Family] = frozenset()
    disturbed: bool = False


def told_with(first: Applied | None, second: Applied) -> Applied:
    """A call of an engine and one before it, told as one."""
    if first is None:
        return second
    return Applied(
        changes=merged([first.changes, second.changes]),
        refused=second.refused,
        replanned=joined(first.replanned, second.replanned),
        observed=first.observed or second.observed,
        mended=first.mended | second.mended,
        disturbed=second.disturbed,
    )


class Engine(Protocol):
    """Keeps the rules of one mode in one namespace what the plan says; a context manager.

    Every method raises ApplyError where the kernel or a tool fails as a whole. Nothing owed is
    forgotten by that: the next call writes it.
    """

    def __enter__(self) -> Self:
        """Open what it takes to write."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Close that; the rules stay."""

    @property
    def planner(self) -> Planner:
        """What traffic should do, kept up to date; to be read only."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What had to be left out so far, in words: IPv6, on a kernel without it."""

    @property
    def rules(self) -> Mapping[tuple[Family, str], RuleCount]:
        """How many rules, by family and table; nothing where a mode has none per Service."""

    @property
    def conflicts(self) -> int:
        """How many commits so far were begun anew, since somebody else's had come between."""

    def sync(self, snapshot: Snapshot) -> Applied:
        """Take in everything, observe everything, and write what differs."""

    def change(
        self,
        services: Mapping[ServiceName, Service | None],
        slices: Mapping[ServiceName, tuple[EndpointSlice, ...]],
    ) -> Applied:
        """Take in what changed, and write that; before the first ``sync``, observe as that does.

        Args:
            services: New or changed Services; None for those that are gone.
            slices: Per Service all of its slices, where any of them changed.
        """

    def turn_to(self, node: NodeView) -> Applied:
        """Take in what the node is now: plan everything again, observe, write what differs.

        Where the node is as it was, this is a change of nothing.
        """

    def verify(self) -> Applied:
        """Look whether the kernel is as it should be, and mend what is not.

        ``changes`` tells what had been damaged. Services that were refused are tried again.
        """
