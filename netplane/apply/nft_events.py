"""Who changed nftables: the kernel's notices of committed transactions, in one namespace.

The kernel multicasts what each transaction did, and at its end one NFT_MSG_NEWGEN with the new
generation id, the process and its program (nf_tables_api.c, nf_tables_gen_notify). Only those last
notices are read here: they say that there is something to look at, and whether it was us. What
changed is for a comparison to find out.
"""

from __future__ import annotations

import errno
import os
import socket
from types import TracebackType
from typing import Final, NamedTuple, Self

from netplane.apply.netns import Namespace
from netplane.core.nftables.wire import MessageType, attributes, read_number, read_text, replies
from netplane.errors import ApplyError, PrivilegeError, WireError

_NETLINK_NETFILTER: Final = 12
_SOL_NETLINK: Final = 270
_NETLINK_ADD_MEMBERSHIP: Final = 1
_NFNLGRP_NFTABLES: Final = 7
_SO_RCVBUFFORCE: Final = 33
_BUFFER: Final = 8 << 20
_DATAGRAM: Final = 1 << 16
_NFGEN_SIZE: Final = 4
_NFTA_GEN_ID, _NFTA_GEN_PROC_PID, _NFTA_GEN_PROC_NAME = 1, 2, 3


class Commit(NamedTuple):
    """A committed transaction: the generation it made, and who committed it."""

    generation: int
    pid: int
    program: str

    @property
    def ours(self) -> bool:
        """Whether this very process committed it."""
        return self.pid == os.getpid()


class Notices(NamedTuple):
    """What was waiting: commits in their order, and whether some were lost to a full buffer."""

    commits: tuple[Commit, ...]
    lost: bool


class NftEvents:
    """The notices of one namespace; a context manager with a non-blocking ``fileno`` to wait on.

    Raises:
        PrivilegeError: CAP_NET_ADMIN is missing.
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
        assert self._socket is not None, "use NftEvents as a context manager"
        return self._socket.fileno()

    def read(self) -> Notices:
        """Everything that is waiting; returns at once."""
        assert self._socket is not None, "use NftEvents as a context manager"
        commits: list[Commit] = []
        lost = False
        while True:
            try:
                datagram, (port, _) = self._socket.recvfrom(_DATAGRAM)
            except BlockingIOError:
                return Notices(tuple(commits), lost)
            except OSError as exc:
                if exc.errno != errno.ENOBUFS:
                    raise ApplyError(f"cannot read nftables' notices: {exc.strerror}") from exc
                lost = True
                continue
            if port == 0:
                commits += commits_in(datagram)


def commits_in(datagram: bytes) -> list[Commit]:
    """The commits one datagram tells of; a damaged datagram tells of none."""
    try:
        return [
            _commit(reply.body)
            for reply in replies(datagram)
            if reply.kind == MessageType.NFT_MSG_NEWGEN
        ]
    except WireError:
        return []


def _commit(body: bytes) -> Commit:
    generation, pid, program = 0, 0, ""
    for kind, start, end in attributes(body, _NFGEN_SIZE, len(body)):
        if kind == _NFTA_GEN_ID:
            generation = read_number(body, start, end)
        elif kind == _NFTA_GEN_PROC_PID:
            pid = read_number(body, start, end)
        elif kind == _NFTA_GEN_PROC_NAME:
            program = read_text(body, start, end)
    return Commit(generation, pid, program)


def _open() -> socket.socket:
    opened = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
    )
    try:
        opened.settimeout(0)
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        opened.bind((0, 0))
        opened.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NFNLGRP_NFTABLES)
    except OSError as exc:
        opened.close()
        message = f"cannot listen to nftables' notices: {exc.strerror}"
        raise (PrivilegeError if exc.errno == errno.EPERM else ApplyError)(message) from exc
    return opened
