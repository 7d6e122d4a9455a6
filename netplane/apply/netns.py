"""Acting inside a named network namespace without taking the process there.

A namespace is entered by one worker thread (setns(2) acts on a thread); netlink sockets opened and
programs started by that thread belong to the namespace, and nothing else does. ``/proc/sys/net``
read or written by that thread is the namespace's, too.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path
from threading import get_ident
from types import TracebackType
from typing import Self, TypeVar

from netplane.apply.threads import Worker
from netplane.errors import ApplyError, PrivilegeError, UsageError

_T = TypeVar("_T")
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_RUN_NETNS = Path("/run/netns")  # where ip-netns(8) keeps its names


class Namespace:
    """A network namespace to act in: a name as ip-netns(8) knows it, or None for our own.

    Use as a context manager. Raises UsageError for a name that does not exist, and
    PrivilegeError where we may not enter it.
    """

    def __init__(self, name: str | None = None) -> None:
        self.name = name
        self._pool: Worker | None = None
        self._thread = 0  # the one that is inside

    def __enter__(self) -> Self:
        if self.name is not None:
            if "/" in self.name or self.name in {"", ".", ".."}:
                raise UsageError(
                    f"--netns {self.name!r}: not a namespace name; see `ip netns list`"
                )
            path = _RUN_NETNS / self.name
            if not path.exists():
                raise UsageError(f"--netns {self.name}: no such namespace; see `ip netns list`")
            self._pool = Worker(f"netns-{self.name}")
            try:
                self._pool.submit(_enter, path).result()
                self._thread = self._pool.submit(get_ident).result()
            except BaseException:
                self._pool.shutdown()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool, self._thread = None, 0  # a later thread may have its number

    def call(self, function: Callable[[], _T]) -> _T:
        """Call a function inside the namespace, in its thread; exceptions come through.

        What is called there may call again.
        """
        if self.name is None or get_ident() == self._thread:
            return function()
        assert self._pool is not None, "use Namespace as a context manager"
        return self._pool.submit(function).result()

    def __str__(self) -> str:
        return self.name or "this namespace"


class UnnamedNamespace(Namespace):
    """A fresh network namespace that only its thread knows; it ends with it, however that ends.

    Raises PrivilegeError without CAP_SYS_ADMIN.
    """

    def __enter__(self) -> Self:
        self.name = "an unnamed namespace"
        self._pool = Worker("unnamed")
        try:
            self._pool.submit(_unshare).result()
            self._thread = self._pool.submit(get_ident).result()
        except BaseException:
            self._pool.shutdown()
            raise
        return self


def _unshare() -> None:
    """Give the calling thread a network namespace of its own (unshare(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        kind = PrivilegeError if code == errno.EPERM else ApplyError
        raise kind(f"cannot make a network namespace: {os.strerror(code)}")


def _enter(path: Path) -> None:
    """Move the calling thread into the namespace (setns(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            message = f"cannot enter the namespace {path.name}: {os.strerror(code)}"
            if code == errno.EPERM:
                raise PrivilegeError(f"{message}; run as root")
            raise ApplyError(message)
    finally:
        os.close(descriptor)
