"""One agent per namespace: an abstract socket, whose names belong to the network namespace.

It needs no file, cannot be left behind, and tells who holds it (unix(7), SO_PEERCRED).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from netplane.apply.netns import Namespace
from netplane.errors import BusyError

_NAME = b"\0netplane-agent"
_CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid


@contextlib.contextmanager
def sole_agent(namespace: Namespace) -> Iterator[socket.socket]:
    """Be the namespace's agent while the context lasts; the socket listens (``telling.teller``).

    Raises:
        BusyError: Another process is; the message names it.
    """
    held = namespace.call(_hold)
    try:
        yield held
    finally:
        held.close()


def reach_agent(namespace: Namespace, *, timeout: float) -> socket.socket | None:
    """A connection to the namespace's agent, which the caller closes; None where there is none."""

    def reach() -> socket.socket | None:
        asking = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            asking.settimeout(timeout)
            asking.connect(_NAME)
        except OSError:
            asking.close()
            return None
        return asking

    return namespace.call(reach)


def is_trusted(user: int) -> bool:
    """Whether who answers as this user may be an agent; the name is anybody's to take."""
    return user in {0, os.geteuid()}


def keeper_of(namespace: Namespace) -> str:
    """The agent that keeps a namespace, in words; "" where none does."""
    peer = namespace.call(_peer)
    return "" if peer is None or not is_trusted(peer[1]) else _named(peer[0])


def other_side(connection: socket.socket) -> tuple[int, int]:
    """The process and the user at the other end of a connection, as the kernel knows them."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return pid, uid


def _hold() -> socket.socket:
    held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        held.bind(_NAME)
        held.listen(8)
    except OSError as exc:
        held.close()
        if exc.errno == errno.EADDRINUSE:
            raise BusyError(_why_not()) from exc
        raise
    return held


def _why_not() -> str:
    """Who is behind the name, as far as it can be told."""
    peer = _peer()
    if peer is None:
        return "another agent kept this namespace, and has just ended: start again"
    pid, user = peer
    if not is_trusted(user):
        return squatted(pid, user)
    return f"another agent keeps this namespace: {_named(pid)}; end it first"


def squatted(pid: int, user: int) -> str:
    """That somebody has the agent's name who cannot be one, in words."""
    return f"{_named(pid)} of user {user} has taken the name of this namespace's agent; end it"


def _peer() -> tuple[int, int] | None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as asking:
        try:
            asking.settimeout(1.0)
            asking.connect(_NAME)
            return other_side(asking)
        except OSError:
            return None


def _named(pid: int) -> str:
    try:
        name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        name = "in another PID namespace" if pid == 0 else "a process that has just ended"
    return f"pid {pid} ({ascii(name)[1:-1]})"
