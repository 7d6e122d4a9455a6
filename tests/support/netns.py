"""Network namespaces that cannot outlive the test run, however it ends.

A test process first moves into a mount namespace of its own with a fresh ``/run/netns``. The names
that ``ip netns add`` makes there are seen by this process and its children alone, and the kernel
drops them, and the network namespaces with them, when the last of those processes is gone: after a
SIGKILL just as after a normal end.
"""

from __future__ import annotations

import ctypes
import functools
import os
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from netplane.apply.netns import Namespace
from netplane.apply.tools import find

_CLONE_NEWNS = 0x00020000  # linux/sched.h
_MS_REC = 0x4000  # linux/mount.h
_MS_PRIVATE = 1 << 18
_RUN_NETNS = Path("/run/netns")
_TOOL_SECONDS = 30


def why_not() -> str:
    """Why no namespace can be made here, "" where one can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    try:
        _hide_names()
    except OSError as exc:
        return f"this process cannot have a mount namespace of its own: {exc.strerror}"
    return ""


def require() -> None:
    """Skip the calling test, with the reason, where no namespace can be made."""
    reason = why_not()
    if reason:
        pytest.skip(reason)


@contextmanager
def new_netns() -> Iterator[Namespace]:
    """A fresh network namespace with ``lo`` up, entered (``.call``), named ``np-<pid>-<random>``.

    Skips the calling test, with the reason, where we may not make one.
    """
    require()
    name = f"np-{os.getpid()}-{secrets.token_hex(4)}"
    ip("netns", "add", name)
    try:
        ip("-n", name, "link", "set", "lo", "up")
        with Namespace(name) as namespace:
            yield namespace
    finally:
        ip("netns", "delete", name)


def ip(*arguments: str, batch: Sequence[str] = ()) -> str:
    """Run ip(8) and return what it printed; ``batch`` lines go to its ``-batch -``.

    Raises:
        AssertionError: It failed; the message is its own.
    """
    argv = ["ip", *arguments, *(["-batch", "-"] if batch else [])]
    return run_tool(argv, stdin="".join(f"{line}\n" for line in batch))


def run_tool(argv: Sequence[str], *, stdin: str = "", inside: Namespace | None = None) -> str:
    """Run a program that must succeed, in our namespace or inside another; returns its stdout.

    Raises:
        AssertionError: It failed; the message has what it wrote to stderr.
    """

    program = find(argv[0])
    assert program is not None, f"{argv[0]} is not installed"

    def call() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, *argv[1:]],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=_TOOL_SECONDS,
        )

    done = inside.call(call) if inside is not None else call()
    assert done.returncode == 0, f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.strip()}"
    return done.stdout


@functools.cache
def _hide_names() -> None:
    """Give this process (this thread and all it starts later) a private, empty ``/run/netns``."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    _mount(libc, b"none", b"/", None, _MS_REC | _MS_PRIVATE)
    _RUN_NETNS.mkdir(parents=True, exist_ok=True)
    _mount(libc, b"netplane-tests", bytes(_RUN_NETNS), b"tmpfs", 0)


def _mount(
    libc: ctypes.CDLL, source: bytes, target: bytes, kind: bytes | None, flags: int
) -> None:
    if libc.mount(source, target, kind, ctypes.c_ulong(flags), None) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
