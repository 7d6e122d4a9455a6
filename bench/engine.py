"""The running engine, one endpoint changed at a time: ``python -m bench.engine FILE NETNS N``.

Loads the state of a file, changes N EndpointSlices one after the other, and prints the seconds of
each change: from the decoded event to the kernel's answer. ``Engine`` is the only place here that
knows how netplane takes an event in.
"""

from __future__ import annotations

import gc
import sys
import time
from pathlib import Path

import msgspec

from bench.inside import node_config
from bench.states import NODES
from netplane.apply.modes import open_mode
from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink import NfnetlinkSocket
from netplane.apply.nfnetlink_commit import commit_all
from netplane.apply.sync import plan_for
from netplane.core.model.cluster import build_snapshot
from netplane.core.model.documents import parse
from netplane.core.model.service import EndpointSlice
from netplane.core.model.snapshot import Snapshot
from netplane.core.nftables.compile import compile_family
from netplane.core.nftables.live import LiveTable
from netplane.core.nftables.wire_transactions import transactions
from netplane.core.plan.incremental import Planner
from netplane.rendering import environment

_STRIDE = 7_919  # meets every Service of a state once before any twice


class Engine:
    """netplane's incremental core over one namespace that it has just loaded.

    Args:
        namespace: Where, entered.
        link: Its nftables.
        snapshot: The state to start from.
    """

    def __init__(self, namespace: Namespace, link: NfnetlinkSocket, snapshot: Snapshot) -> None:
        self._link = link
        plan = plan_for(node_config(), snapshot)
        open_mode("nftables", namespace).prepare(plan).commit()
        self._planner = Planner(plan.node)
        self._planner.replace(snapshot)
        self._tables = [
            LiveTable(f.view, compile_family(f, environment()), f.ports, environment())
            for f in plan.families
        ]
        self._generation: int | None = link.generation()

    def take(self, changed: EndpointSlice) -> None:
        """Take in a Service's one slice, and make the kernel so."""
        for replanned in self._planner.update({}, {changed.service: (changed,)}):
            for table, before, after in zip(
                self._tables, replanned.before, replanned.after, strict=True
            ):
                delta = table.update(before, after)
                series = transactions(delta.family, delta.elements)
                outcome = commit_all(self._link, series, generation=self._generation)
                assert not outcome.refused, outcome.refused
                self._generation = outcome.generation


def main(path: Path, netns: str, count: int) -> None:
    """Change the last endpoint of one Service after the other."""
    snapshot = build_snapshot(parse(path.read_bytes(), origin=str(path)))
    slices = [pieces[0] for pieces in snapshot.slices.values()]
    events = [_replaced(slices[turn * _STRIDE % len(slices)], turn) for turn in range(count)]
    with Namespace(netns) as namespace, NfnetlinkSocket(namespace) as link:
        engine = Engine(namespace, link, snapshot)
        # A process that has been running: its start-up garbage is gone.
        gc.collect()
        seconds = []
        for event in events:
            begin = time.perf_counter()
            engine.take(event)
            seconds.append(time.perf_counter() - begin)
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
