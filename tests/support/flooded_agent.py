"""An agent on a source in its own process that changes without end; says how large it becomes.

    python -m tests.support.flooded_agent MODE COUNT...

After each COUNT of changes it prints a line: the count, its resident memory in bytes, and the
processor seconds used so far; after the last it goes on idling.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from pathlib import Path

import msgspec

from netplane.agent.changes import ClusterChange
from netplane.agent.cluster_state import ClusterState, key_of
from netplane.agent.node_agent import Settings, run
from netplane.config import Setting, resolve
from netplane.core.model.documents import Manifest
from tests.support.manifests import Object, endpoint_slice, node, service

SERVICES = 2000
_BATCH = 100


class Flood:
    """A source that has as many changes as anybody takes."""

    in_sync = True
    patience = 1e9
    fault = ""

    def __init__(self, marks: list[int]) -> None:
        self._state = ClusterState("node-1")
        self._rng = random.Random(1)
        self._marks = marks
        self._made = 0
        self._put(node("node-1", ip="192.0.2.1"))
        for number in range(SERVICES):
            self._put(_service(number, 0))
            self._put(_slice(number, range(1, 4)))

    @property
    def last_heard(self) -> float:
        return time.monotonic()

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def wait(self) -> None:
        if not self._marks:
            await asyncio.Event().wait()

    def take(self) -> ClusterChange | None:
        if self._marks and self._made >= self._marks[0]:
            self._say()
        if self._marks:
            for _ in range(_BATCH):
                self._change()
        return self._state.take()

    def _change(self) -> None:
        self._made += 1
        number, chance = self._rng.randrange(SERVICES), self._rng.random()
        if chance < 0.7:
            self._put(_slice(number, self._rng.sample(range(1, 250), self._rng.randrange(6))))
        elif chance < 0.9:
            self._put(_service(number, self._rng.randrange(5)))
        elif chance < 0.95:
            made = _service(number, 0)
            made["spec"]["clusterIPs"] = [f"not-an-address-{self._rng.random()}"]
            self._put(made)
        else:
            self._state.delete(key_of(_manifest(_service(number, 0))))
            self._state.delete(key_of(_manifest(_slice(number, []))))

    def _put(self, thing: Object) -> None:
        self._state.upsert(_manifest(thing))

    def _say(self) -> None:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        memory = pages * os.sysconf("SC_PAGE_SIZE")
        print(self._marks.pop(0), memory, round(time.process_time(), 2), flush=True)


def _service(number: int, variant: int) -> Object:
    address = f"172.30.{number // 250}.{number % 250 + 1}"
    return service(f"web-{number}", cluster_ips=[address], ports=[{"port": 80 + variant}])


def _slice(number: int, hosts: range | list[int]) -> Object:
    ends = [f"10.244.{number % 200}.{host}" for host in hosts]
    return endpoint_slice(f"web-{number}", ends, ports=[{"port": 8080}])


def _manifest(thing: Object) -> Manifest:
    meta = thing["metadata"]
    return Manifest(
        origin="flood",
        kind=thing["kind"],
        api_version=thing["apiVersion"],
        namespace=meta.get("namespace", ""),
        name=meta["name"],
        payload=msgspec.Raw(json.dumps(thing).encode()),
    )


def main() -> None:
    mode, *marks = sys.argv[1:]
    asked = {"mode": Setting(mode, "flag --mode"), "node_name": Setting("node-1", "flag --node")}
    config = resolve(None, asked, host_name="node-1")
    run(
        Settings(
            config=config,
            netns=None,
            make_source=lambda *_: Flood([int(mark) for mark in marks]),
            top_services=20,
        )
    )


if __name__ == "__main__":
    main()
