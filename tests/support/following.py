"""Following a source as the loop does, and comparing with what a model says it must give."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterable

from netplane.agent.api.pacing import Pacing
from netplane.agent.changes import ObjectKey, Source
from netplane.agent.clocks import Clocks
from netplane.core.model.cluster import build_snapshot
from netplane.core.model.documents import parse
from netplane.core.model.problem import Problem
from netplane.core.model.service import EndpointSlice, Node, Service, ServiceName
from netplane.core.model.snapshot import Snapshot
from tests.support.manifests import Object

CLOCKS = Clocks(time.monotonic, time.time)
#: Everything about a hundredth as slow as on a node.
HASTY = Pacing(
    first=0.005,
    longest=0.02,
    denied=0.02,
    confirm=0.01,
    calm=0.01,
    shortest_watch=1.0,
    silence=0.3,
    relist=0.5,
)


class Follower:
    """What the loop knows from a source."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.services: dict[ServiceName, Service] = {}
        self.slices: dict[ServiceName, tuple[EndpointSlice, ...]] = {}
        self.problems: dict[ObjectKey, tuple[Problem, ...]] = {}
        self.node: Node | None = None
        self.eligible: bool | None = None
        self.takes = 0

    def take(self) -> None:
        change = self.source.take()
        if change is None:
            return
        self.takes += 1
        for name, service in change.services.items():
            if service is None:
                del self.services[name]  # what is gone was told before
            else:
                self.services[name] = service
        for name, slices in change.slices.items():
            assert slices != self.slices.get(name, ())
            if slices:
                self.slices[name] = slices
            else:
                del self.slices[name]
        for key, problems in change.problems.items():
            if problems:
                self.problems[key] = problems
            else:
                del self.problems[key]
        self.node = change.node or self.node
        if change.eligible is not None:
            self.eligible = change.eligible

    def equals(self, snapshot: Snapshot) -> bool:
        problems = sorted(p for group in self.problems.values() for p in group)
        return (
            self.services == snapshot.services
            and self.slices == snapshot.slices
            and tuple(problems) == snapshot.problems
        )

    async def until(self, condition: Callable[[], bool], *, within: float = 20.0) -> None:
        """Take what comes until a condition holds; fails when it does not in time."""
        async with asyncio.timeout(within):
            while True:
                self.take()
                if condition():
                    return
                await self.source.wait()


async def polled(condition: Callable[[], object], *, within: float = 10.0) -> None:
    """Wait until a condition holds that becomes true in another thread, of which nobody tells."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 (that thread has no event of ours to set)
            await asyncio.sleep(0.002)


def snapshot_of(objects: Iterable[Object]) -> Snapshot:
    listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    return build_snapshot(parse(json.dumps(listed).encode(), origin="model"))


async def following(source: Source, story: Callable[[Follower], object]) -> None:
    """Run a source while a story is told to its follower."""
    task = asyncio.create_task(source.run())
    try:
        outcome = story(Follower(source))
        if asyncio.iscoroutine(outcome):
            await outcome
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def rng(seed: int = 0) -> random.Random:
    return random.Random(seed)
