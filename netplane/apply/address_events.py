"""That an address came to, or left, an interface of one namespace (rtnetlink(7), RTMGRP_*_IFADDR).

A notice says only that there is something to read; ``addresses`` reads it.
"""

from __future__ import annotations

import errno
import socket
from types import TracebackType
from typing import Final, Self

from netplane.apply.netns import Namespace
from netplane.errors import ApplyError, PrivilegeError

_RTMGRP_IPV4_IFADDR: Final = 0x10
_RTMGRP_IPV6_IFADDR: Final = 0x100
_DATAGRAM: Final = 1 << 16


class AddressEvents:
    """The notices of one namespace; a context manager with a non-blocking ``fileno`` to wait on.

    Raises:
        ApplyError: The kernel has no such notices.
    """

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        self._socket = self._namespace.call(_open)
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
        assert self._socket is not None, "use AddressEvents as a context manager"
        return self._socket.fileno()

    def moved(self) -> bool:
        """Whether addresses may have come or gone since the last call; returns at once."""
        assert self._socket is not None, "use AddressEvents as a context manager"
        moved = False
        while True:
            try:
                self._socket.recv(_DATAGRAM)
            except BlockingIOError:
                return moved
            except OSError as exc:
                if exc.errno != errno.ENOBUFS:  # some were lost, which says as much
                    raise ApplyError(f"cannot read notices of addresses: {exc.strerror}") from exc
            moved = True


def _open() -> socket.socket:
    opened = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
    )
    try:
        opened.settimeout(0)
        opened.bind((0, _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))
    except OSError as exc:
        opened.close()
        message = f"cannot listen to notices of addresses: {exc.strerror}"
        raise (PrivilegeError if exc.errno == errno.EPERM else ApplyError)(message) from exc
    return opened
