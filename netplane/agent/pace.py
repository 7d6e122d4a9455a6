"""When the loop's next pass may begin, and when it must: bounds on cost and on patience."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

_FIRST_PAUSE: Final = 0.25  # seconds after a first failure; doubled up to the period
#: Seconds from one look to the next; somebody who edits all the time must not keep us busy.
_SHORTEST: Final = 0.2
#: A look may take this part of the time at most.
_SHARE: Final = 0.5
_BURST: Final = 50.0  # passes at once without a pause; then as many a second


class Pace(msgspec.Struct, frozen=True):
    """How often at least, and at most.

    Attributes:
        period: Seconds after which the kernel is compared though nothing was heard (syncPeriod).
        shortest: Seconds between the beginnings of two passes (minSyncPeriod).
    """

    period: float = 30.0
    shortest: float = 0.0


class Pacer:
    """Keeps the time of one loop."""

    def __init__(self, pace: Pace, clock: Callable[[], float]) -> None:
        self.pace = pace
        self._clock = clock
        now = clock()
        self._began = now - pace.shortest
        self._look_at = now  # the first pass adopts what an earlier process left
        self._looked = now - _SHORTEST  # when the last look ended, and how long it took
        self._took = 0.0
        self._looking = False
        self._pause = 0.0  # after a failed pass
        self._again = 0.0  # between looks while part of a pass is owed
        self._tokens = _BURST
        self._counted = now

    @property
    def due(self) -> bool:
        """Whether a look at the kernel is due."""
        return self._clock() >= self._look_at

    @property
    def retrying(self) -> bool:
        """Whether something failed before, in part or whole, that the next pass may make good."""
        return self._pause > 0 or self._again > 0

    @property
    def patience(self) -> float:
        """Seconds until a look is due."""
        return max(0.0, self._look_at - self._clock())

    def begun(self, *, look: bool) -> None:
        """A pass begins."""
        now = self._clock()
        self._tokens = min(_BURST, self._tokens + (now - self._counted) * _BURST) - 1
        self._counted = self._began = now
        self._looking = look

    def passed(self, seconds: float, *, again: bool) -> None:
        """The pass took so many seconds; ``again`` where part of it is still owed.

        What is owed in part is tried again by looks, and keeps no change waiting meanwhile.
        """
        now = self._clock()
        self._pause = 0.0
        if self._looking:
            self._looked, self._took = now, seconds
            self._again = min(self.pace.period, self._again * 2 or _FIRST_PAUSE) if again else 0.0
            self._look_at = now + (self._again or self.pace.period)
        elif again and not self._again:
            self._again = _FIRST_PAUSE
            self._look_at = min(self._look_at, now + self._again)

    def failed(self) -> float:
        """The pass failed; returns the seconds until the next attempt."""
        self._pause = min(self.pace.period, self._pause * 2 or _FIRST_PAUSE)
        self._look_at = self._clock() + self._pause
        return self._pause

    def rest(self) -> float:
        """Seconds before the next pass may begin."""
        rest = self._began + self.pace.shortest - self._clock()
        if self._pause:
            rest = max(rest, self.patience)
        if self._tokens < 1:
            rest = max(rest, self._began + 1 / _BURST - self._clock())
        return max(0.0, rest)

    def rest_from_looking(self) -> float:
        """Seconds before a pass may look because a notice came."""
        pause = max(_SHORTEST, self._took * (1 / _SHARE - 1))
        return max(0.0, self._looked + pause - self._clock())
