"""What became of each Service: programmed, waiting, or refused and why. State, no sockets.

Everything is called on the event loop's thread, so that it can be asked for while a write hangs.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from netplane.agent.changes import ClusterChange, ObjectKey
from netplane.core.model.problem import Problem
from netplane.core.model.service import ServiceName


class State(enum.StrEnum):
    """Of a Service on this node.

    PARTLY is in the kernel without something that was refused; REFUSED is not in the kernel, or
    not as it is wanted.
    """

    PROGRAMMED = "programmed"
    PARTLY = "partly programmed"
    PENDING = "pending"
    REFUSED = "refused"


class Standing(msgspec.Struct, frozen=True, order=True):
    """One Service, and in words why it is not simply programmed."""

    service: ServiceName
    state: State
    why: tuple[str, ...] = ()


class _Owed(NamedTuple):
    """A change that is not in the kernel yet: of a Service itself, or of its slices."""

    service: ServiceName
    slices: bool


class Ledger:
    """The books of one agent.

    Attributes:
        revision: Moves whenever ``problems`` do.
        remarks: What else an operator should know, in words.
    """

    def __init__(self) -> None:
        self._services: set[ServiceName] = set()
        self._problems: dict[ObjectKey, tuple[Problem, ...]] = {}
        self._concerns: dict[ObjectKey, ServiceName] = {}
        self._collisions: tuple[Problem, ...] = ()
        self._refused: Mapping[ServiceName, str] = {}
        self._pending: set[_Owed] = set()
        self._underway: set[_Owed] = set()
        self.revision = 0
        self.remarks: tuple[str, ...] = ()

    # --- what the loop tells ------------------------------------------------------------------

    def take(self, change: ClusterChange) -> tuple[Problem, ...]:
        """Changes were received; returns the refusals that are new with them."""
        for name, service in change.services.items():
            if service is None:
                self._services.discard(name)
            else:
                self._services.add(name)
        self._pending |= {_Owed(name, slices=False) for name in change.services}
        self._pending |= {_Owed(name, slices=True) for name in change.slices}
        self.revision += bool(change.problems)
        fresh: list[Problem] = []
        for key, problems in change.problems.items():
            fresh += [p for p in problems if p not in self._problems.get(key, ())]
            self._concerns.pop(key, None)
            if problems:
                self._problems[key] = problems
            else:
                self._problems.pop(key, None)
        self._concerns |= change.concerns
        return tuple(fresh)

    def begun(self) -> None:
        """A pass has taken up everything received so far."""
        self._underway |= self._pending
        self._pending.clear()

    def settled(
        self, refused: Mapping[ServiceName, str], collisions: tuple[Problem, ...]
    ) -> tuple[Problem, ...]:
        """The pass is done; returns the collisions that are new with it.

        Args:
            refused: Services of which the kernel refused something, with its words.
            collisions: What Services lost to others.
        """
        self._underway.clear()
        fresh = tuple(p for p in collisions if p not in self._collisions)
        self.revision += collisions != self._collisions
        self._refused, self._collisions = refused, collisions
        return fresh

    def failed(self) -> None:
        """The pass failed; what it had taken up waits as before."""
        self._pending |= self._underway
        self._underway.clear()

    # --- what follows from it -----------------------------------------------------------------

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Everything that is refused now, sorted."""
        return tuple(sorted(set(self._all_problems())))

    @property
    def pending(self) -> frozenset[ServiceName]:
        """Services with changes that are not in the kernel yet."""
        return frozenset(owed.service for owed in (*self._pending, *self._underway))

    def waiting(self, *, slices: bool) -> int:
        """How many Services wait with changes of their slices, or of themselves."""
        return sum(owed.slices is slices for owed in self._pending | self._underway)

    def standings(self) -> list[Standing]:
        """Every Service that is there, or was refused, sorted by name."""
        why: dict[ServiceName, list[str]] = {}
        for problem in self._all_problems():
            if problem.kind == "Service":
                name = ServiceName(problem.namespace, problem.name)
                why.setdefault(name, []).append(str(problem))
        for key, name in self._concerns.items():
            if name in self._services:
                why.setdefault(name, []).extend(map(str, self._problems[key]))
        for name, words in self._refused.items():
            why.setdefault(name, []).append(f"the kernel refused it: {words}")
        pending = self.pending
        found = []
        for name in sorted(self._services | why.keys()):
            if name in pending:
                state = State.PENDING
            elif name not in self._services or name in self._refused:
                state = State.REFUSED
            else:
                state = State.PARTLY if name in why else State.PROGRAMMED
            found.append(Standing(name, state, tuple(why.get(name, ()))))
        return found

    def _all_problems(self) -> Iterable[Problem]:
        for problems in self._problems.values():
            yield from problems
        yield from self._collisions
