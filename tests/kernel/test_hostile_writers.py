"""Others who write all the time, beside an engine and in its own table; and those who flush it.

Each transaction of anybody's moves the generation, which is the lock of ours. At 800 foreign ones
a second no observation is of one generation and no commit would be taken; so the engine runs with
a witness, as in the agent: the kernel's notices tell which tables were touched, and commits that
did not touch ours are vouched for. Who writes into our table is another matter: each look finds
something else. After two that were in vain the engine writes onto whatever is there, and looks
again with the next call; so a change gets in nevertheless, and what the other hand has damaged is
mended when it rests. A change may be owed for a while, told as an error that passes.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from netplane.apply.dataplane import Dataplane
from netplane.apply.engine import Engine
from netplane.apply.modes import open_engine, open_mode
from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink.witness import Witness, concern_of
from netplane.apply.tools import run
from netplane.config import Mode
from netplane.core.model.address import Family
from netplane.core.model.snapshot import Snapshot
from netplane.core.plan.node import FamilyView, NodeView
from netplane.errors import ApplyError
from tests.support.command import run_netplane
from tests.support.hostile import Writer, hostile
from tests.support.manifests import kube_list
from tests.support.netns import run_tool
from tests.support.scenario import MODES
from tests.support.snapshots import difference, snapshot_of, web

pytestmark = pytest.mark.kernel

NODE = NodeView(name="node-1", families=tuple(FamilyView(family=f) for f in Family))
SERVICES = 60
WRITERS = 4
BRIEF, LONG = 3.0, 30.0  # seconds
LENGTHS = [BRIEF, pytest.param(LONG, marks=pytest.mark.soak)]
SENTINEL = """
table ip sentinel {
    set kept { type ipv4_addr; elements = { 192.0.2.7, 192.0.2.8 } }
    chain c { type nat hook prerouting priority -90; ip daddr @kept tcp dport 80 accept; }
}
"""
FLUSHES = {
    "nft": ["nft", "flush", "ruleset"],
    "iptables": ["iptables", "-t", "nat", "-F"],
}


class Cluster:
    """Services whose endpoints change at random, of which some come and go."""

    def __init__(self) -> None:
        self._rng = random.Random(7)
        self._objects = [web(SERVICES, count) for count in range(5)]
        self._endpoints = dict.fromkeys(range(SERVICES), 3)
        self.snapshot = self._snapshot()

    def change(self) -> Snapshot:
        """One Service changes; returns the state before."""
        number = self._rng.randrange(SERVICES)
        self._endpoints[number] = self._rng.choice([0, 1, 2, 3, 4])
        before, self.snapshot = self.snapshot, self._snapshot()
        return before

    def _snapshot(self) -> Snapshot:
        return snapshot_of(
            *(
                thing
                for number, count in self._endpoints.items()
                if count  # without any, the Service is gone
                for thing in self._objects[count][2 * number : 2 * number + 2]
            )
        )


@contextmanager
def foreign_writers(netns: Namespace) -> Iterator[list[Writer]]:
    """Four, each in a table of its own."""
    with ExitStack() as stack:
        writers = []
        for number in range(WRITERS):
            script = f"table ip hostile-{number} {{ set s {{ type ipv4_addr; }}; }}"
            run_tool(["nft", "-f", "-"], stdin=script, inside=netns)
            writers.append(stack.enter_context(hostile(netns, f"hostile-{number}", "s")))
        yield writers


def assert_as_wanted(engine: Engine, mode: Mode, netns: Namespace) -> None:
    """A process that remembers nothing finds nothing to change."""
    fresh: Dataplane = open_mode(mode, netns)
    assert not fresh.prepare(engine.planner.plan()).changes


def sentinel(netns: Namespace) -> str:
    return run_tool(["nft", "-a", "list", "table", "ip", "sentinel"], inside=netns)


@pytest.mark.parametrize("seconds", LENGTHS)
def test_every_change_gets_in_beside_foreign_writers(netns: Namespace, seconds: float) -> None:
    run_tool(["nft", "-f", "-"], stdin=SENTINEL, inside=netns)
    before = sentinel(netns)
    cluster = Cluster()
    changes = observed = 0
    with (
        Witness(netns, concern_of("nftables")) as witness,
        open_engine("nftables", netns, NODE, vouch=witness.vouch) as engine,
        foreign_writers(netns) as writers,
    ):
        engine.sync(cluster.snapshot)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            applied = engine.change(*difference(cluster.change(), cluster.snapshot))
            assert not applied.refused
            changes += 1
            observed += applied.observed
        assert_as_wanted(engine, "nftables", netns)  # while they are still writing
        committed = [writer.stop() for writer in writers]
    print(f"{changes} changes, {observed} of them observed, beside {sum(committed)} foreign ones")
    assert min(committed) > 0
    assert changes > observed, "each change observed everything"
    assert sentinel(netns) == before


def test_an_apply_gets_in_beside_foreign_writers(netns: Namespace, tmp_path: Path) -> None:
    """A process of a moment listens once it was too slow, and then is as good as the agent."""
    manifest = tmp_path / "state.json"
    options = ["--mode", "nftables", "--netns", str(netns.name), "--node", "node-1"]
    with foreign_writers(netns) as writers:
        for count in (3, 4, 2):
            manifest.write_bytes(kube_list(*web(SERVICES, count)))
            ran = run_netplane("apply", "-f", str(manifest), *options)
            assert ran.status == 0, str(ran)
        assert min(writer.stop() for writer in writers) > 0
    assert run_netplane("diff", "-f", str(manifest), *options).status == 0


@pytest.mark.parametrize("seconds", LENGTHS)
def test_a_writer_in_our_table(netns: Namespace, seconds: float) -> None:
    run_tool(["nft", "-f", "-"], stdin=SENTINEL, inside=netns)
    before = sentinel(netns)
    cluster = Cluster()
    changes = owed = 0
    with (
        Witness(netns, concern_of("nftables")) as witness,
        open_engine("nftables", netns, NODE, vouch=witness.vouch) as engine,
    ):
        engine.sync(cluster.snapshot)
        with (
            foreign_writers(netns) as writers,
            hostile(netns, "netplane", "cluster-ips") as writer,
        ):
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                changes += 1
                try:
                    engine.change(*difference(cluster.change(), cluster.snapshot))
                except ApplyError as exc:
                    if not exc.retryable:
                        raise
                    owed += 1
            committed = [writer.stop(), *(foreign.stop() for foreign in writers)]
        engine.verify()
        assert_as_wanted(engine, "nftables", netns)
    print(f"{changes} changes, {owed} of them owed for a while, beside {sum(committed)} others")
    assert min(committed) > 0
    assert owed < changes, "none got in while they wrote"
    assert sentinel(netns) == before


@pytest.mark.parametrize("flush", FLUSHES.values(), ids=FLUSHES)
@pytest.mark.parametrize("mode", MODES)
def test_what_is_flushed_while_idle_is_back_with_the_next_look(
    netns: Namespace, mode: Mode, flush: list[str]
) -> None:
    cluster = Cluster()
    with open_engine(mode, netns, NODE) as engine:
        engine.sync(cluster.snapshot)
        run_tool(flush, inside=netns)
        engine.verify()
        assert_as_wanted(engine, mode, netns)


@pytest.mark.parametrize("flush", FLUSHES.values(), ids=FLUSHES)
@pytest.mark.parametrize("mode", MODES)
def test_what_is_flushed_again_and_again_in_the_middle_of_syncs(
    netns: Namespace, mode: Mode, flush: list[str]
) -> None:
    cluster = Cluster()
    ended = threading.Event()
    flushed = failed = 0

    def keep_flushing() -> None:
        nonlocal flushed
        with Namespace(netns.name) as own:
            while not ended.is_set():
                flushed += run(own, flush).status == 0
                ended.wait(0.02)

    flusher = threading.Thread(target=keep_flushing)
    with open_engine(mode, netns, NODE) as engine:
        flusher.start()
        try:
            for _ in range(8):
                try:
                    engine.change(*difference(cluster.change(), cluster.snapshot))
                except ApplyError:
                    # What nft or iptables was about to change may be gone: the next call tells.
                    failed += 1
        finally:
            ended.set()
            flusher.join()
        engine.sync(cluster.snapshot)
        assert_as_wanted(engine, mode, netns)
    print(f"{failed} of 8 changes failed between {flushed} flushes")
    assert flushed > 0
