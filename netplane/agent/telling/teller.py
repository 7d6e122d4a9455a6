"""What a running agent tells ``netplane status``, over the socket by which it holds its namespace.

A connection asks nothing: it gets one JSON document and is closed. It is told to root, and to the
user the agent runs as.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator

import msgspec

import netplane
from netplane.agent.changes import Source
from netplane.agent.holder import is_trusted, other_side
from netplane.agent.telling.health import Health
from netplane.agent.telling.ledger import Ledger, State
from netplane.agent.telling.status import TIMEOUT, AgentStatus, ServiceStanding
from netplane.config import Config


class Teller:
    """Answers for one agent, from state of the event loop's own thread."""

    def __init__(self, config: Config, source: Source, health: Health, ledger: Ledger) -> None:
        self._config = config
        self._source = source
        self._health = health
        self._ledger = ledger

    def status(self) -> AgentStatus:
        """What it is now."""
        standings = self._ledger.standings()
        reasons = self._health.reasons()
        return AgentStatus(
            pid=os.getpid(),
            version=netplane.__version__,
            mode=self._config.mode,
            node=self._config.node_name,
            healthy=not reasons,
            reasons=reasons,
            in_sync=self._source.in_sync,
            fault=self._source.fault,
            watch_age=round(self._health.watch_age, 3),
            counts={
                **dict.fromkeys(map(str, State), 0),
                **Counter(str(standing.state) for standing in standings),
            },
            services=tuple(
                ServiceStanding(s.service.namespace, s.service.name, str(s.state), s.why)
                for s in standings
            ),
            problems=tuple(map(str, self._ledger.problems)),
            remarks=self._ledger.remarks,
        )

    @contextlib.asynccontextmanager
    async def answering(self, held: socket.socket) -> AsyncIterator[None]:
        """Answer on a listening socket meanwhile."""
        server = await asyncio.start_unix_server(self._answer, sock=held)
        async with server:
            yield

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        with contextlib.suppress(OSError, TimeoutError):
            _, user = other_side(writer.get_extra_info("socket"))
            if is_trusted(user):
                writer.write(msgspec.json.encode(self.status()))
                await asyncio.wait_for(writer.drain(), TIMEOUT)
        writer.close()
