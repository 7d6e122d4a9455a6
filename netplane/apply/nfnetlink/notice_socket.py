"""A netlink socket that the kernel tells of events in one namespace (netlink(7))."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, Self

from netplane.apply.netns import Namespace
from netplane.errors import ApplyError, PrivilegeError

_DATAGRAM: Final = 1 << 16
_KERNEL_PORT: Final = 0
#: Datagrams read at a time: who writes without end must not keep a reader for ever.
_MOST: Final = 1024


class NoticeSocket:
    """A context manager with a non-blocking ``fileno`` to wait on.

    Args:
        namespace: Whose events.
        what: What they are about, for messages.
        protocol: The netlink protocol, NETLINK_ROUTE...
        join: Makes the socket, once it is open, a member of the groups it is to hear.

    Raises:
        PrivilegeError: CAP_NET_ADMIN is missing.
        ApplyError: The kernel has no such notices.
    """

    def __init__(
        self,
        namespace: Namespace,
        what: str,
        protocol: int,
        join: Callable[[socket.socket], object],
    ) -> None:
        self._namespace = namespace
        self._what = what
        self._protocol = protocol
        self._join = join
        self._socket: socket.socket | None = None
        self._emptied = False

    def __enter__(self) -> Self:
        self._socket = self._namespace.call(self._open)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def fileno(self) -> int:
        """Becomes readable when there is a notice."""
        assert self._socket is not None, "use it as a context manager"
        return self._socket.fileno()

    def read(self) -> Iterator[bytes | None]:
        """The kernel's datagrams that are waiting; None where some were lost to a full buffer.

        Which ones is not said: the kernel tells of the loss first, then delivers what had room,
        and takes in nothing more until all of that has been read (netlink_overrun). ``_emptied``
        says so afterwards. Of very many the first are read; the socket stays readable then.

        Raises:
            ApplyError: They cannot be read.
        """
        assert self._socket is not None, "use it as a context manager"
        self._emptied = False
        for _ in range(_MOST):
            try:
                datagram, (port, _) = self._socket.recvfrom(_DATAGRAM)
            except BlockingIOError:
                self._emptied = True
                return
            except OSError as exc:
                if exc.errno != errno.ENOBUFS:
                    raise ApplyError(
                        f"cannot read notices of {self._what}: {exc.strerror}"
                    ) from exc
                yield None
                continue
            if port == _KERNEL_PORT:
                yield datagram

    def _open(self) -> socket.socket:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        try:
            opened = socket.socket(socket.AF_NETLINK, kind, self._protocol)
            try:
                opened.settimeout(0)
                self._join(opened)
            except BaseException:
                opened.close()
                raise
        except OSError as exc:
            denied = exc.errno == errno.EPERM
            message = f"cannot listen to notices of {self._what}: {exc.strerror}"
            raise (PrivilegeError if denied else ApplyError)(message) from exc
        return opened
