"""A process to let faults happen to: ``python -m tests.support.fault_subject``.

It imports everything once, then forks a child for each order, a line of JSON on stdin. The child
prepares, says that it is ready, waits for a line, acts (that is when faults happen), tells how it
went, waits for another line, acts again without faults, and tells what it has left open. So a case
costs no start of an interpreter, and system calls are counted from the moment that matters.

It waits and tells by the calls ``OWN_CALLS``, which nothing else makes and no fault meets: one is
under way when strace attaches, and whether that one is counted is chance.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from netplane.apply.engine import Engine
from netplane.apply.modes import open_engine
from netplane.apply.netns import Namespace
from netplane.config import Mode
from netplane.core.model.address import Family
from netplane.core.model.cluster import build_snapshot
from netplane.core.model.documents import parse
from netplane.core.model.snapshot import Snapshot
from netplane.core.plan.node import FamilyView, NodeView
from netplane.errors import NetplaneError
from tests.support.command import run_netplane
from tests.support.snapshots import difference

#: System calls by which a child and the process that gives orders speak.
OWN_CALLS = frozenset({"readv", "writev"})
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_GONE_SECONDS = 10
_CLONE_NEWNET = 0x40000000  # linux/sched.h
# What a command imports when it comes to it.
_LAZY = (
    "netplane.apply.iptables.mode",
    "netplane.apply.iptables.engine",
    "netplane.apply.nftables.mode",
    "netplane.apply.nftables.engine",
    "netplane.apply.sync",
    "netplane.cli.apply",
    "netplane.cli.inputs",
    "netplane.cli.log",
    "netplane.cli.report",
    "pyroute2.netlink.nfnetlink.nfctsocket",
    "rich.console",
)
NODE = NodeView(name="node-1", families=tuple(FamilyView(family=f) for f in Family))


Subject: TypeAlias = Literal["engine-nftables", "engine-iptables", "nftables", "iptables"]


class Order(msgspec.Struct, frozen=True):
    """What to do.

    Attributes:
        netns: The name of the namespace.
        subject: An engine of a mode, inside the namespace; or the command in that mode.
        first: The manifest that is applied before; "" for none.
        second: The manifest that is applied while the fault happens, and again.
    """

    netns: str
    subject: Subject
    first: str
    second: str


class Said(msgspec.Struct, frozen=True):
    """What the child has told: all empty is a success.

    Attributes:
        ready: Its process id, once it has prepared.
        failure: The words of an error that was reported as one.
        bug: The traceback of one that was not.
        left: What it still had open after all was closed, "" for nothing.
        ended: How the child ended: its exit status, or the signal as a negative number.
    """

    ready: int = 0
    failure: str = ""
    bug: str = ""
    left: str = ""
    ended: int | None = None


def main() -> None:
    """Take orders until stdin ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    for name in _LAZY:
        importlib.import_module(name)
    while (line := _next_line()) is not None:
        try:
            order = msgspec.json.decode(line, type=Order)
        except msgspec.DecodeError:
            continue  # meant for a child that has been killed, or what is left of it
        child = os.fork()
        if child == 0:
            _child(order)
        _, status = os.waitpid(child, 0)
        _wait_for_orphans()
        _say(Said(ended=os.waitstatus_to_exitcode(status)))


def _wait_for_orphans() -> None:
    """What a killed child had started runs to its end, and belongs to us by now."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def _child(order: Order) -> None:
    """One order; does not return."""
    try:
        (_engine if order.subject.startswith("engine") else _command)(order)
    except BaseException:  # noqa: BLE001 (told to who asked)
        _say(Said(bug=traceback.format_exc()))
        os._exit(1)
    os._exit(0)


def _engine(order: Order) -> None:
    _enter(Path("/run/netns", order.netns))
    second = _read(order.second)
    before = _open_things()
    mode: Mode = "iptables" if order.subject == "engine-iptables" else "nftables"
    engine = open_engine(mode, Namespace(), NODE)
    if not order.first:

        def cold() -> str:
            engine.__enter__()
            return _sync(engine, second)

        def again() -> str:
            engine.__exit__(None, None, None)
            return cold()

        _act(lambda: _caught(cold), lambda: _caught(again))
    else:
        engine.__enter__()
        first = _read(order.first)
        engine.sync(first)
        _act(
            lambda: _caught(lambda: _step(engine, first, second)),
            # Nothing new: what was owed is written without being told again.
            lambda: _caught(lambda: _owed(engine)),
        )
    engine.__exit__(None, None, None)
    _say(Said(left=_left_since(before)))


def _sync(engine: Engine, snapshot: Snapshot) -> str:
    return str(engine.sync(snapshot).refused or "")


def _owed(engine: Engine) -> str:
    """What is owed is written with the next call; what was refused is tried by the next look."""
    applied = engine.change({}, {})
    return str((engine.verify() if applied.refused else applied).refused or "")


def _step(engine: Engine, old: Snapshot, new: Snapshot) -> str:
    """What differs between two snapshots, as one change."""
    return str(engine.change(*difference(old, new)).refused or "")


def _command(order: Order) -> None:
    def apply(manifest: str) -> Said:
        options = ["--mode", order.subject, "--node", "node-1", "--cluster-cidr", "10.244.0.0/16"]
        ran = run_netplane("apply", "-f", manifest, "--netns", order.netns, *options)
        if ran.status == 0:
            return Said()
        if ran.status == 1:
            return Said(failure=ran.stderr or "nothing on stderr")
        return Said(bug=str(ran))

    if order.first:
        said = apply(order.first)
        assert said == Said(), said
    before = _open_things()
    _act(lambda: apply(order.second), lambda: apply(order.second))
    _say(Said(left=_left_since(before)))


def _act(first: Callable[[], Said], again: Callable[[], Said]) -> None:
    _say(Said(ready=os.getpid()))
    _next_line()
    _say(first())
    _next_line()
    _say(again())


def _caught(action: Callable[[], str]) -> Said:
    try:
        return Said(failure=action())
    except NetplaneError as exc:
        return Said(failure=f"{type(exc).__name__}: {exc}")
    except BaseException:  # noqa: BLE001 (a bug, told to who asked)
        return Said(bug=traceback.format_exc())


def _read(manifest: str) -> Snapshot:
    return build_snapshot(parse(Path(manifest).read_bytes(), origin="test"))


def _open_things() -> list[str]:
    """The open descriptors and the threads of this process."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found.append(f"{descriptor.name} -> {descriptor.readlink()}")
        except FileNotFoundError:
            continue  # the listing's own
    return [*found, *("a thread" for _ in Path("/proc/self/task").iterdir())]


def _left_since(before: list[str]) -> str:
    """What is open that was not; the kernel takes a moment to be rid of an ended thread.

    pyroute2's sockets ask the kernel something while they are made; where that fails, what they
    had opened is left to the collector, which commands do without and the agent has running.
    """
    gc.collect()
    deadline = time.monotonic() + _GONE_SECONDS
    while True:
        left = Counter(_open_things()) - Counter(before)
        if not left or time.monotonic() > deadline:
            return ", ".join(left.elements())
        time.sleep(0.001)


def _enter(path: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as opened:
        if libc.setns(opened.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter {path}")


def _next_line() -> bytes | None:
    """A line from stdin, read byte by byte: what follows is for another process; None at its end.

    It may be empty: all that a child has left which was killed while it read.
    """
    line = bytearray()
    byte = bytearray(1)
    while os.readv(0, [byte]):
        if byte == b"\n":
            return bytes(line)
        line += byte
    return None


def _say(said: Said) -> None:
    os.writev(1, [msgspec.json.encode(said), b"\n"])


if __name__ == "__main__":
    # What is printed by accident must not be taken for an answer.
    sys.stdout = sys.stderr
    main()
