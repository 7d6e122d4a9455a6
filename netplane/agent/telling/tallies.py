"""Connections per Service, for whoever scrapes the metrics: counters are read then, and seldom.

Reading them costs what the rules cost to list, so nobody who does not ask pays for it, and who
asks all the time gets what was read a moment ago. It is done in a thread and a namespace's thread
of its own: neither the loop nor its worker waits.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self

from netplane.agent.clocks import Clocks
from netplane.agent.telling.logs import Journal
from netplane.agent.telling.metrics import Metrics
from netplane.apply.netns import Namespace
from netplane.apply.tallies import new_connections
from netplane.config import Mode
from netplane.errors import ApplyError, WireError

#: Seconds between two readings at the least.
PAUSE: Final = 10.0
#: The part of the time that readings may take: iptables has to list all its rules, which is
#: seconds where there are 10,000 Services.
SHARE: Final = 0.005
#: Seconds a scrape waits for a reading; then it gets the one before.
PATIENCE: Final = 2.0


class Tallies:
    """Keeps the metric of new connections as fresh as it is asked for; a context manager.

    Args:
        netns: The name of the namespace to read in; None for ours.
        limit: How many Services are told; 0: none is, and nothing is ever read.
    """

    def __init__(  # noqa: PLR0913 (made in one place)
        self,
        mode: Mode,
        netns: str | None,
        metrics: Metrics,
        *,
        clocks: Clocks,
        journal: Journal,
        limit: int,
    ) -> None:
        self._mode = mode
        self._namespace = Namespace(netns)
        self._metrics = metrics
        self._clock = clocks.monotonic
        self._journal = journal
        self._limit = limit
        self._reading: asyncio.Task[None] | None = None
        self._read_at: float | None = None
        self._took = 0.0

    def __enter__(self) -> Self:
        self._namespace.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._reading is not None:
            self._reading.cancel()
        self._namespace.__exit__(kind, value, tb)

    async def refresh(self) -> None:
        """Read the counters, unless that was done a moment ago."""
        if self._reading is None and self._due():
            self._reading = asyncio.create_task(self._read())
        if self._reading is not None:
            await asyncio.wait({self._reading}, timeout=PATIENCE)

    def _due(self) -> bool:
        if not self._limit:
            return False
        pause = max(PAUSE, self._took / SHARE)
        return self._read_at is None or self._clock() - self._read_at >= pause

    async def _read(self) -> None:
        begin = self._clock()
        try:
            totals = await asyncio.to_thread(new_connections, self._mode, self._namespace)
        except (ApplyError, WireError) as exc:
            self._journal.warning(
                "counters", "the connections could not be counted", reason=str(exc)
            )
        else:
            self._metrics.connections({str(name): count for name, count in totals.items()})
        finally:
            self._read_at = self._clock()
            self._took = self._read_at - begin
            self._reading = None
