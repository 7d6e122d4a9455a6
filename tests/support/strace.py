"""Faults at single system calls, by strace: it is attached to a process that waits to be told.

strace counts the calls of each name for each process and thread by itself, from the moment it is
attached. An injected error takes the place of the call, which the kernel then never sees; an
injected SIGKILL comes before the call is made.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from netplane.apply.tools import find

_SECONDS = 20
_POLL = 0.002
# "12345 sendto(" with -f, "sendto(" without; a call that others interrupt is printed in two parts.
_CALL = re.compile(r"^(?:(\d+) +)?([a-z][a-z0-9_]*)\(", re.MULTILINE)
_INJECTED = re.compile(r"\(INJECTED\)|\+\+\+ killed by SIGKILL")


class Call(NamedTuple):
    """A system call of a run: the ``number``-th of that name, counted from 1, in its thread."""

    name: str
    number: int

    def __str__(self) -> str:
        return f"{self.name}#{self.number}"


class Fault(NamedTuple):
    """What happens at one call: an error in its place, or SIGKILL before it.

    Attributes:
        call: Which.
        error: The errno's name; "" for SIGKILL.
        tree: Also in the programs that the process starts, at the same call of each.
    """

    call: Call
    error: str = ""
    tree: bool = False

    def __str__(self) -> str:
        where = ", programs too" if self.tree else ""
        return f"{self.error or 'SIGKILL'} at {self.call}{where}"

    def options(self) -> list[str]:
        """strace's."""
        what = f"error={self.error}" if self.error else "signal=KILL"
        inject = f"inject={self.call.name}:{what}:when={self.call.number}"
        follow = ["-f"] if self.tree else []
        return [*follow, "-e", f"trace={self.call.name}", "-e", inject]


class Trace:
    """What an strace has written; whole when its block has ended."""

    def __init__(self) -> None:
        self.text = ""

    def calls(self) -> list[list[Call]]:
        """The calls of each thread, in their order; the first is the one that began."""
        seen: dict[str, list[Call]] = {}
        counts: Counter[tuple[str, str]] = Counter()
        for thread, name in _CALL.findall(self.text):
            counts[thread, name] += 1
            seen.setdefault(thread, []).append(Call(name, counts[thread, name]))
        return list(seen.values())

    def fired(self) -> bool:
        """Whether the fault has happened."""
        return _INJECTED.search(self.text) is not None


@contextmanager
def recorded(pid: int, *, tree: bool = False) -> Iterator[Trace]:
    """Record every call of a process until the end of the block."""
    with _attached(pid, ["-f"] if tree else []) as trace:
        yield trace


@contextmanager
def injected(pid: int, fault: Fault) -> Iterator[Trace]:
    """Let a fault happen to a process until the end of the block."""
    with _attached(pid, fault.options()) as trace:
        yield trace


@contextmanager
def _attached(pid: int, options: Sequence[str]) -> Iterator[Trace]:
    program = find("strace")
    assert program is not None, "strace is not installed; script/setup installs it"
    trace = Trace()
    with tempfile.TemporaryDirectory() as folder:
        said, written = Path(folder, "stderr"), Path(folder, "trace")
        argv = [program, *options, "-s", "0", "-e", "signal=KILL", "-o", str(written)]
        with said.open("wb") as stderr:
            process = subprocess.Popen([*argv, "-p", str(pid)], stderr=stderr)
        try:
            deadline = time.monotonic() + _SECONDS
            while b" attached" not in said.read_bytes():
                assert process.poll() is None, said.read_text()
                assert time.monotonic() < deadline, "strace does not attach"
                time.sleep(_POLL)
            yield trace
        finally:
            # It lets go of what it traces, and ends.
            process.terminate()
            process.wait(_SECONDS)
            trace.text = written.read_text(errors="replace")
