"""A report whose every word is given: what a mode would tell of a delta."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from netplane.core.plan.changes import Action, Changes, LostFrontend, ServiceChange


class Told:
    """A story of given changes; see ``netplane.core.plan.changes.Story``."""

    def __init__(
        self,
        *services: ServiceChange,
        base: tuple[str, ...] = (),
        lost: tuple[LostFrontend, ...] = (),
    ) -> None:
        self._services = services
        self._base = base
        self._lost = lost

    def __bool__(self) -> bool:
        return bool(self._services or self._base)

    def totals(self) -> Counter[Action]:
        """The actions of the given changes."""
        return Counter(change.action for change in self._services)

    def services(self, *, limit: int | None = None, rules: bool = False) -> list[ServiceChange]:
        """The given changes."""
        told = sorted(self._services, key=lambda change: (change.label, change.protocol))[:limit]
        return told if rules else [msgspec.structs.replace(c, rules=()) for c in told]

    def base(self) -> tuple[str, ...]:
        """The given lines."""
        return self._base

    def lost(self) -> Iterable[LostFrontend]:
        """The given frontends."""
        return self._lost


def told(
    *services: ServiceChange,
    base: tuple[str, ...] = (),
    lost: tuple[LostFrontend, ...] = (),
) -> Changes:
    """A report of one family."""
    return Changes(Told(*services, base=base, lost=lost))
