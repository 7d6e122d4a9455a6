"""The running engine, one endpoint changed at a time: ``python -m bench.engine FILE NETNS N``.

Loads the state of a file, changes N EndpointSlices one after the other, and prints the seconds of
each change: from the decoded event to the kernel's answer.
"""

from __future__ import annotations

import gc
import sys
import time
from pathlib import Path

import msgspec

from bench.inside import node_config
from bench.states import NODES
from netplane.apply.netns import Namespace
from netplane.apply.nftables.engine import NftablesEngine
from netplane.apply.sync import plan_for
from netplane.core.model.cluster import build_snapshot
from netplane.core.model.documents import parse
from netplane.core.model.service import EndpointSlice

_STRIDE = 7_919  # meets every Service of a state once before any twice


def main(path: Path, netns: str, count: int) -> None:
    """Change the last endpoint of one Service after the other."""
    snapshot = build_snapshot(parse(path.read_bytes(), origin=str(path)))
    slices = [pieces[0] for pieces in snapshot.slices.values()]
    events = [_replaced(slices[turn * _STRIDE % len(slices)], turn) for turn in range(count)]
    node = plan_for(node_config(), snapshot).node
    with Namespace(netns) as namespace, NftablesEngine(namespace, node) as engine:
        engine.sync(snapshot)
        # A process that has been running: its start-up garbage is gone.
        gc.collect()
        seconds = []
        for event in events:
            begin = time.perf_counter()
            applied = engine.change({}, {event.service: (event,)})
            seconds.append(time.perf_counter() - begin)
            assert applied.changes, event.service
            assert not applied.observed, event.service
            assert not applied.refused, applied.refused
    sys.stdout.buffer.write(msgspec.json.encode(seconds))


def _replaced(piece: EndpointSlice, turn: int) -> EndpointSlice:
    """The slice after its last pod died and another, different each turn, took its place."""
    spare = msgspec.structs.replace(
        piece.endpoints[-1],
        address=f"10.{176 + (turn >> 16)}.{turn >> 8 & 255}.{turn & 255}",
        node=f"node-{1 + turn % (NODES - 1):03d}",
    )
    return msgspec.structs.replace(piece, endpoints=(*piece.endpoints[:-1], spare))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
