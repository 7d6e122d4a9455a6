"""Network namespaces that cannot outlive the bench, however it ends.

The bench moves into a mount namespace of its own with a fresh ``/run/netns``. Names made there are
seen by the bench and its children alone, and the kernel drops them, and the network namespaces
with them, when the last of these processes is gone: after Ctrl-C or a SIGKILL just as at the end.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CLONE_NEWNS = 0x00020000  # linux/sched.h
_MS_REC = 0x4000  # linux/mount.h
_MS_PRIVATE = 1 << 18
_RUN_NETNS = Path("/run/netns")
_numbers = itertools.count()

#: The machine counts as quiet when so much of its time was idle for so many windows in a row.
_QUIET_SHARE = 0.85
_QUIET_WINDOWS = 3
_WINDOW_SECONDS = 0.04
_SETTLE_SECONDS = 4.0


def hide_names() -> None:
    """Give this process and its children a private, empty ``/run/netns``; needs root."""
    libc = ctypes.CDLL(None, use_errno=True)
    _RUN_NETNS.mkdir(parents=True, exist_ok=True)
    _check(libc.unshare(_CLONE_NEWNS))
    _check(libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None))
    _check(libc.mount(b"np-bench", bytes(_RUN_NETNS), b"tmpfs", ctypes.c_ulong(0), None))


@contextmanager
def fresh_netns(purpose: str) -> Iterator[str]:
    """A new network namespace with ``lo`` up, by name."""
    name = f"np-bench-{os.getpid()}-{purpose}-{next(_numbers)}"
    ip("netns", "add", name)
    try:
        ip("-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        ip("netns", "delete", name)


def ip(*arguments: str, batch: str = "") -> None:
    """Run ip(8); ``batch`` is what its ``-batch -`` reads."""
    argv = ["ip", *arguments, *(["-batch", "-"] if batch else [])]
    subprocess.run(argv, input=batch.encode(), check=True, timeout=60)


def settle() -> None:
    """Wait until the machine is quiet, up to a deadline: others may be at work on it for long.

    The kernel takes a big ruleset apart in the background after its namespace is gone, and who is
    measured meanwhile would pay for it.
    """
    deadline = time.monotonic() + _SETTLE_SECONDS
    quiet = 0
    before = _cpu_times()
    while quiet < _QUIET_WINDOWS and time.monotonic() < deadline:
        time.sleep(_WINDOW_SECONDS)
        now = _cpu_times()
        spent = [new - old for new, old in zip(now, before, strict=True)]
        idle = spent[3] + spent[4]  # idle, iowait: proc(5)
        quiet = quiet + 1 if idle >= _QUIET_SHARE * sum(spent) else 0
        before = now


def _cpu_times() -> list[int]:
    with Path("/proc/stat").open() as file:
        return [int(field) for field in file.readline().split()[1:9]]


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
