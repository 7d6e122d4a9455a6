"""UDP entries of the conntrack table, read through a socket of our own.

pyroute2 decodes every attribute of every entry into dictionaries, 0.34 ms each: 17 s for the
50,000 flows of a busy node, where a sync asks for six fields of each. This reads those six.

The kernel filters by protocol since Linux 5.8; an older one sends everything, and what is not UDP
is passed over here. Attributes as in linux/netfilter/nfnetlink_conntrack.h: numbers in network
order, but those of CTA_FILTER.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from netplane.core.model.address import Family
from netplane.core.nftables.wire import (
    NFGEN_SIZE,
    PROTOCOL_FAMILY,
    MessageFlag,
    MessageType,
    Reply,
    answer,
    attribute,
    attributes,
    frame,
    nested,
    replies,
)
from netplane.errors import ApplyError, BusyError, PrivilegeError, WireError

_AF = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
_NETLINK_NETFILTER: Final = 12  # linux/netlink.h; the socket module has no name for it
_IPCTNL_MSG_CT_NEW: Final = 0x0100  # of the subsystem NFNL_SUBSYS_CTNETLINK
_IPCTNL_MSG_CT_GET: Final = 0x0101
_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY, _CTA_STATUS, _CTA_ID, _CTA_ZONE, _CTA_FILTER = (
    1,
    2,
    3,
    12,
    18,
    25,
)
_CTA_TUPLE_IP, _CTA_TUPLE_PROTO = 1, 2
_CTA_PROTO_NUM, _CTA_PROTO_SRC_PORT, _CTA_PROTO_DST_PORT = 1, 2, 3
_CTA_FILTER_ORIG_FLAGS: Final = 1
_SEEN_REPLY: Final = 1 << 1  # IPS_SEEN_REPLY in nf_conntrack_common.h
_FILTER_PROTO_NUM = 1 << 3  # CTA_FILTER_F_CTA_PROTO_NUM in nf_internals.h
_DATAGRAM = 1 << 18  # the kernel fills what it is offered, up to 32 KiB
_TIMEOUT = 60.0
_INTERRUPTED = int(MessageFlag.NLM_F_DUMP_INTR)  # a flag's own & takes longer than all else
_SEQUENCE = 1
#: Errors that another attempt may not meet.
PASSING = frozenset({errno.EINTR, errno.EBUSY, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN})


class Flow(NamedTuple):
    """A UDP conntrack entry, as far as anything is decided by it.

    Attributes:
        source, source_port: Who sent the first packet.
        destination, port: Where it was sent, before translation.
        answers, answer_port: The source of replies: the endpoint, or the destination itself.
        identity: The kernel's id of the entry, so that a successor is never deleted instead.
        zone: The conntrack zone, 0 by default.
        answered: Whether a reply has come. Until then every packet is judged as a new flow's.
    """

    source: str
    source_port: int
    destination: str
    port: int
    answers: str
    answer_port: int
    identity: int = 0
    zone: int = 0
    answered: bool = True

    @property
    def translated(self) -> bool:
        """Whether the destination was rewritten."""
        return (self.answers, self.answer_port) != (self.destination, self.port)


def read_flows(family: Family) -> list[Flow]:
    """The UDP flows of one family in the calling thread's namespace.

    Raises:
        PrivilegeError: CAP_NET_ADMIN is missing.
        BusyError: The kernel could not tell now, or the table moved meanwhile.
        WireError: It answers something unexpected.
    """
    flags = MessageFlag.NLM_F_REQUEST | MessageFlag.NLM_F_DUMP
    request = frame(_IPCTNL_MSG_CT_GET, flags, PROTOCOL_FAMILY[family], _udp_only(), _SEQUENCE)
    found = []
    try:
        with socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
        ) as opened:
            opened.settimeout(_TIMEOUT)
            opened.bind((0, 0))
            opened.connect((0, 0))  # to the kernel; nobody else can send to us
            opened.send(request)
            for reply in _dumped(opened):
                flow = decode_flow(reply.body, family)
                if flow is not None:
                    found.append(flow)
    except OSError as exc:
        raise _failure(exc.errno or errno.EAGAIN) from exc  # a timeout has no number
    return found


def decode_flow(body: bytes, family: Family) -> Flow | None:
    """An entry as the kernel sends it, ``nfgenmsg`` first; None where it is not UDP of the family.

    Raises:
        WireError: It is not made of attributes.
    """
    usual = _USUAL[family]
    if len(body) >= usual.end and usual.heads.unpack_from(body) == usual.expected:
        source, to, _, port, to_port, back, _, _, back_port, _ = usual.values.unpack_from(body)
        original = _Tuple(source, to, socket.IPPROTO_UDP, port, to_port)
        reply = _Tuple(back, b"", socket.IPPROTO_UDP, back_port)
        start = usual.end
    else:
        tuples = {
            kind: _read_tuple(body, first, last)
            for kind, first, last in attributes(body, NFGEN_SIZE, len(body))
            if kind in {_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY}
        }
        original = tuples.get(_CTA_TUPLE_ORIG, _Tuple())
        reply = tuples.get(_CTA_TUPLE_REPLY, _Tuple())
        start = NFGEN_SIZE
        ours = body[:1] == bytes([PROTOCOL_FAMILY[family]])
        if not ours or original.protocol != socket.IPPROTO_UDP:
            return None
    zone = 0
    answered = True  # unless the kernel says otherwise
    for kind, first, last in attributes(body, start, len(body)):
        if kind == _CTA_STATUS:
            answered = bool(int.from_bytes(body[first:last], "big") & _SEEN_REPLY)
        elif kind == _CTA_ZONE:
            zone = int.from_bytes(body[first:last], "big")
        elif kind == _CTA_ID:
            identity = int.from_bytes(body[first:last], "big")
            break  # the others come before
    else:
        identity = 0
    return Flow(
        _text(original.source),
        original.source_port,
        _text(original.destination),
        original.port,
        _text(reply.source),
        reply.source_port,
        identity,
        zone,
        answered,
    )


class _Tuple(NamedTuple):
    """One direction of an entry; addresses packed."""

    source: bytes = b""
    destination: bytes = b""
    protocol: int = 0
    source_port: int = 0
    port: int = 0


def _read_tuple(body: bytes, start: int, end: int) -> _Tuple:
    addresses: dict[int, bytes] = {}
    numbers: dict[int, int] = {}
    for kind, first, last in attributes(body, start, end):
        if kind == _CTA_TUPLE_IP:
            # CTA_IP_V4_SRC is 1, _DST 2, CTA_IP_V6_SRC 3, _DST 4: odd is the source.
            for which, at, stop in attributes(body, first, last):
                addresses[which & 1] = body[at:stop]
        elif kind == _CTA_TUPLE_PROTO:
            for which, at, stop in attributes(body, first, last):
                numbers[which] = int.from_bytes(body[at:stop], "big")
    return _Tuple(
        addresses.get(1, b""),
        addresses.get(0, b""),
        numbers.get(_CTA_PROTO_NUM, 0),
        numbers.get(_CTA_PROTO_SRC_PORT, 0),
        numbers.get(_CTA_PROTO_DST_PORT, 0),
    )


# A tuple: itself, its addresses, source, destination, its protocol, number, ports.
_HEADS = "III{size}xI{size}xIIBxxxI4xI4x"
_VALUES = "12x{size}s4x{size}s8xBxxx4xHxx4xHxx"


class _Usual(NamedTuple):
    """Where everything is in an entry of the usual form: both tuples first, nothing else in them.

    Attributes:
        heads: Reads the family and all attributes' headers.
        expected: What they are.
        values: Reads, of each tuple, the addresses, the protocol and the ports.
        end: Where further attributes begin.
    """

    heads: struct.Struct
    expected: tuple[int, ...]
    values: struct.Struct
    end: int


def _usual(family: Family) -> _Usual:
    size, source, destination = (4, 1, 2) if family is Family.IPV4 else (16, 3, 4)
    address = bytes(size)
    inside = nested(
        _CTA_TUPLE_IP, attribute(source, address), attribute(destination, address)
    ) + nested(
        _CTA_TUPLE_PROTO,
        attribute(_CTA_PROTO_NUM, bytes([socket.IPPROTO_UDP])),
        attribute(_CTA_PROTO_SRC_PORT, bytes(2)),
        attribute(_CTA_PROTO_DST_PORT, bytes(2)),
    )
    sample = bytes([PROTOCOL_FAMILY[family], 0, 0, 0])
    sample += nested(_CTA_TUPLE_ORIG, inside) + nested(_CTA_TUPLE_REPLY, inside)
    # The protocol's number is taken as part of the headers: it must be UDP's.
    heads = struct.Struct("=Bxxx" + _HEADS.format(size=size) * 2)
    values = struct.Struct(">4x" + _VALUES.format(size=size) * 2)
    return _Usual(heads, heads.unpack_from(sample), values, len(sample))


_USUAL = {family: _usual(family) for family in Family}
_BY_SIZE = {4: socket.AF_INET, 16: socket.AF_INET6}


@functools.lru_cache(1 << 16)
def _text(packed: bytes) -> str:
    """A packed address in canonical text."""
    try:
        return socket.inet_ntop(_BY_SIZE[len(packed)], packed)
    except KeyError as exc:
        raise WireError(f"an address of {len(packed)} bytes", 0) from exc


def _udp_only() -> bytes:
    """The filter of a dump."""
    protocol = attribute(_CTA_PROTO_NUM, bytes([socket.IPPROTO_UDP]))
    flags = attribute(_CTA_FILTER_ORIG_FLAGS, struct.pack("=I", _FILTER_PROTO_NUM))
    return nested(_CTA_TUPLE_ORIG, nested(_CTA_TUPLE_PROTO, protocol)) + nested(_CTA_FILTER, flags)


def _dumped(opened: socket.socket) -> Iterator[Reply]:
    """The entries of a dump, to its end."""
    while True:
        for reply in replies(opened.recv(_DATAGRAM)):
            if reply.flags & _INTERRUPTED:
                raise _failure(errno.EINTR)
            if reply.kind in {MessageType.NLMSG_ERROR, MessageType.NLMSG_DONE}:
                said = answer(reply)
                if said.errno:
                    raise _failure(said.errno)
                return
            if reply.kind == _IPCTNL_MSG_CT_NEW:
                yield reply


def _failure(number: int) -> ApplyError:
    message = f"cannot read conntrack entries: {os.strerror(number)}"
    if number == errno.EPERM:
        return PrivilegeError(f"{message}; run as root")
    return BusyError(message) if number in PASSING else ApplyError(message)
