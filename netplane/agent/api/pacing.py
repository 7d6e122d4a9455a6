"""How long to wait before the next attempt: exponential, with jitter, and never in step."""

from __future__ import annotations

import random

import msgspec


class Pacing(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds.

    Attributes:
        first: The longest wait after a first fault; it doubles with each further one.
        longest: What it doubles up to.
        denied: About how long to wait after 401 and 403, which time alone seldom mends.
        confirm: How long to wait before asking again whether a list is really empty.
        calm: A watch that lasted so long was no failure, even if it told nothing.
        shortest_watch: The least time for which a watch is asked for; at most twice as long, so
            that nodes which began together do not go on together.
        silence: How long a connection may say nothing before it is given up.
        relist: About how often to list again without need, against events lost on the way that
            nobody can notice; 0: never.
    """

    first: float = 0.5
    longest: float = 30.0
    denied: float = 30.0
    confirm: float = 2.0
    calm: float = 1.0
    shortest_watch: float = 300.0
    silence: float = 100.0
    relist: float = 6 * 3600.0


class Backoff:
    """The waits between attempts that fail: full jitter, so that a crowd spreads at once."""

    def __init__(self, pacing: Pacing, rng: random.Random) -> None:
        self._pacing = pacing
        self._rng = rng
        self._limit = pacing.first

    def reset(self) -> None:
        """Something worked."""
        self._limit = self._pacing.first

    def next(self, at_least: float = 0.0) -> float:
        """The wait after one more fault.

        Args:
            at_least: What the other side asked for; it is never undercut.
        """
        wait = self._rng.uniform(0, self._limit)
        self._limit = min(2 * self._limit, self._pacing.longest)
        return at_least + wait

    def around(self, seconds: float) -> float:
        """About so many seconds, a fifth more or less."""
        return seconds * self._rng.uniform(0.8, 1.2)
