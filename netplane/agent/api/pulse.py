"""Whether an API server that says nothing still answers: asked before its silence would tell.

A watch in which nothing happens brings a bookmark about once a minute, so silence alone proves
nothing for longer than that. A server that hangs keeps its connections; who waited for silence
would think well of it for a minute and a half.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from netplane.agent.api.client import Client
from netplane.agent.api.wire import Resource
from netplane.errors import WatchError

#: Parts of a period: of silence before we ask, and for the answer. A server that hangs is found
#: within two periods, and one whose watches are quiet is asked about once a minute.
_QUIET = 4 / 3
_ANSWER = 1 / 3


class Pulse:
    """Asks a silent API server for one object now and then.

    Args:
        resource: The collection of that object.
        clock: Monotonic, in seconds.
        period: Seconds (``syncPeriod``).
        quiet_since: When the resource was heard that has been silent for longest without a fault.

    Attributes:
        fault: Why nothing is heard, as far as it is known from asking.
    """

    def __init__(
        self,
        resource: Resource,
        clock: Callable[[], float],
        *,
        period: float,
        quiet_since: Callable[[], float],
    ) -> None:
        self.fault: WatchError | None = None
        self._resource = resource
        self._clock = clock
        self._quiet = period * _QUIET
        self._patience = period * _ANSWER
        self._quiet_since = quiet_since
        self._asked = clock()

    async def keep(self, client: Client, changed: Callable[[], object]) -> None:
        """Ask until cancelled; ``changed`` is called when ``fault`` is another."""
        while True:
            before = self.fault
            if before is not None and self._quiet_since() > self._asked:
                self.fault = None  # it spoke by itself
            elif self._clock() >= self._due():
                self._asked = self._clock()
                self.fault = await self._ask(client)
            if (before is None) != (self.fault is None):
                changed()
            await asyncio.sleep(max(0.0, self._due() - self._clock()))

    def _due(self) -> float:
        if self.fault is not None:
            return self._asked + self._patience
        return max(self._asked, self._quiet_since()) + self._quiet

    async def _ask(self, client: Client) -> WatchError | None:
        """Any answer is one, whatever its status says; watches tell what that means."""
        query = {"fieldSelector": self._resource.field_selector, "resourceVersion": "0"}
        try:
            async with (
                asyncio.timeout(self._patience),
                client.get(self._resource.path, query) as answer,
            ):
                await answer.complaint()
        except TimeoutError:
            return WatchError("the API server does not answer")
        except WatchError as exc:
            return exc
        return None
