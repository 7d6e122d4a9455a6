"""What the commands ask of a mode: render, prepare, commit, status, cleanup."""

from __future__ import annotations

from typing import Protocol

from netplane.apply.nfnetlink.commit import Vouch
from netplane.core.plan.changes import Changes
from netplane.core.plan.plan import Plan
from netplane.core.plan.status import Status


class Update(Protocol):
    """A sync that has been worked out against what was observed, and not written yet."""

    @property
    def changes(self) -> Changes:
        """What commit would change, per Service; false when there is nothing to do."""

    def commit(self) -> None:
        """Write it; writes nothing at all when there is nothing to do.

        Raises:
            ApplyError: See its subclasses; RefusedError says what had been written.
        """


class Dataplane(Protocol):
    """One mode in one network namespace."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What had to be left out so far, in words: IPv6, on a kernel without it."""

    def render(self, plan: Plan) -> str:
        """The whole desired state as text that this mode's tool loads; needs no kernel."""

    def heed(self, vouch: Vouch) -> None:
        """From now on, believe who may know that foreign commits did no harm."""

    def prepare(self, plan: Plan) -> Update:
        """Compile the plan, observe the kernel, and work out the difference; writes nothing."""

    def status(self) -> Status:
        """What is in the kernel now, from the kernel alone."""

    def cleanup(self) -> tuple[str, ...]:
        """Remove all and only what is ours; returns what was removed, in words."""
