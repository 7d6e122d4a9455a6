"""Which processes and sockets are ours, so that the kernel's notices of what they did are known.

A notice names the thread that committed, by its number in the first pid namespace: of a program
that we run, outside a container, that is its process id; of our own threads nobody can tell. It
also names the socket, by a port that nobody else has in the same network namespace.
"""

from __future__ import annotations

from collections import deque
from typing import Final

_STARTED: Final[deque[int]] = deque(maxlen=256)
_PORTS: Final[set[int]] = set()


def started(pid: int) -> None:
    """A process was started; the last few hundred are remembered."""
    _STARTED.append(pid)


def opened(port: int) -> None:
    """A netlink socket was opened that has this port."""
    _PORTS.add(port)


def closed(port: int) -> None:
    """It was closed, and anybody may have the port next."""
    _PORTS.discard(port)


def is_ours(pid: int, port: int) -> bool:
    """Whether what a thread did through a socket was done by us, or by a program that we run."""
    return port in _PORTS or pid in _STARTED
