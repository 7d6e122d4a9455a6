"""Who changed what in nftables: the kernel's notices of committed transactions, in one namespace.

The kernel multicasts what each transaction did, and at its end one NFT_MSG_NEWGEN with the new
generation id, the process and its program (nf_tables_api.c, nf_tables_gen_notify). Of what was
done only the places are read, table and chain: they say whether there is something to look at.
What changed there is for a comparison to find out.
"""

from __future__ import annotations

import socket
from typing import Final, NamedTuple

from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink.notice_socket import NoticeSocket
from netplane.apply.nfnetlink.own_hands import is_ours
from netplane.core.nftables.wire import (
    NFGEN_SIZE,
    MessageType,
    attributes,
    read_number,
    read_text,
    replies,
)
from netplane.errors import WireError

_NETLINK_NETFILTER: Final = 12
_SOL_NETLINK: Final = 270
_NETLINK_ADD_MEMBERSHIP: Final = 1
_NFNLGRP_NFTABLES: Final = 7
_SO_RCVBUFFORCE: Final = 33
_BUFFER: Final = 8 << 20
_NFTA_GEN_ID, _NFTA_GEN_PROC_PID, _NFTA_GEN_PROC_NAME = 1, 2, 3
_NFT_MESSAGES: Final = range(MessageType.NFT_MSG_NEWTABLE, MessageType.NFT_MSG_NEWTABLE + 0x100)
_NFTA_TABLE: Final = 1  # of every message about something in a table (NFTA_*_TABLE)
#: Where the messages about chains and rules name their chain: NFTA_CHAIN_NAME, NFTA_RULE_CHAIN.
_CHAIN_ATTRIBUTE: Final[dict[int, int]] = {
    MessageType.NFT_MSG_NEWCHAIN: 3,
    MessageType.NFT_MSG_DELCHAIN: 3,
    MessageType.NFT_MSG_NEWRULE: 2,
    MessageType.NFT_MSG_DELRULE: 2,
}


class Place(NamedTuple):
    """What a transaction touched: a table, or one chain of it ("" for anything else in it)."""

    table: str
    chain: str = ""


class Commit(NamedTuple):
    """A committed transaction: the generation it made, who committed it, where, and how.

    Attributes:
        pid: The thread, by its number in the first pid namespace.
        port: Its netlink socket's.
    """

    generation: int
    pid: int
    program: str
    places: frozenset[Place] = frozenset()
    port: int = 0

    @property
    def ours(self) -> bool:
        """Whether this very process, or a tool that it runs, committed it."""
        return is_ours(self.pid, self.port)


class Notices(NamedTuple):
    """What was waiting.

    Attributes:
        commits: In their order.
        lost: Notices were lost to a full buffer: before, among or after these, and maybe a part
            of what one of them did, or of what the next one will have done.
    """

    commits: tuple[Commit, ...]
    lost: bool


class NftEvents(NoticeSocket):
    """The notices of one namespace; see ``NoticeSocket``."""

    def __init__(self, namespace: Namespace) -> None:
        super().__init__(namespace, "nftables' transactions", _NETLINK_NETFILTER, _join)
        self._reader = CommitReader()
        self._lost = False  # and what had come before that may still be waiting

    def notices(self) -> Notices:
        """Everything that is waiting; returns at once."""
        commits: list[Commit] = []
        for datagram in self.read():
            if datagram is None:
                self._lost = True
            else:
                commits += self._reader.feed(datagram)
        notices = Notices(tuple(commits), self._lost)
        if self._emptied:
            self._lost = False
        return notices


class CommitReader:
    """Puts commits together out of datagrams, of which a transaction may take many."""

    def __init__(self) -> None:
        self._places: set[Place] = set()

    def feed(self, datagram: bytes) -> list[Commit]:
        """The commits that this datagram ends; a damaged datagram ends none."""
        commits = []
        try:
            for reply in replies(datagram):
                if reply.kind == MessageType.NFT_MSG_NEWGEN:
                    commit = _commit(reply.body, frozenset(self._places))
                    commits.append(commit._replace(port=reply.port))
                    self._places.clear()
                elif reply.kind in _NFT_MESSAGES:
                    self._places.add(_place(reply.kind, reply.body))
        except WireError:
            return []
        return commits


def _place(kind: int, body: bytes) -> Place:
    table, chain = "", ""
    naming_chain = _CHAIN_ATTRIBUTE.get(kind)
    for number, start, end in attributes(body, NFGEN_SIZE, len(body)):
        if number == _NFTA_TABLE:
            table = read_text(body, start, end)
            if naming_chain is None:
                break
        elif number == naming_chain:
            chain = read_text(body, start, end)
            break
    return Place(table, chain)


def _commit(body: bytes, places: frozenset[Place]) -> Commit:
    generation, pid, program = 0, 0, ""
    for kind, start, end in attributes(body, NFGEN_SIZE, len(body)):
        if kind == _NFTA_GEN_ID:
            generation = read_number(body, start, end)
        elif kind == _NFTA_GEN_PROC_PID:
            pid = read_number(body, start, end)
        elif kind == _NFTA_GEN_PROC_NAME:
            program = read_text(body, start, end)
    return Commit(generation, pid, program, places)


def _join(opened: socket.socket) -> None:
    opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    opened.bind((0, 0))
    opened.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NFNLGRP_NFTABLES)
