"""Netlink framing of nftables requests and replies: messages, attributes, batches, errors.

Everything here is bytes in memory; the socket is ``netplane.apply.nfnetlink.socket``. Lengths and
types are in host byte order, the numbers inside nftables' attributes in network order
(linux/netlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h).
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from netplane.core.model.address import Family
from netplane.core.nftables.layout import TABLE, SetLayout
from netplane.errors import WireError


class MessageType(enum.IntEnum):
    """What a message asks or answers; nftables' own types carry their subsystem's number."""

    NLMSG_ERROR = 2
    NLMSG_DONE = 3
    NFNL_MSG_BATCH_BEGIN = 0x10
    NFNL_MSG_BATCH_END = 0x11
    NFT_MSG_NEWTABLE = 0x0A00
    NFT_MSG_GETTABLE = 0x0A01
    NFT_MSG_NEWCHAIN = 0x0A03
    NFT_MSG_GETCHAIN = 0x0A04
    NFT_MSG_DELCHAIN = 0x0A05
    NFT_MSG_NEWRULE = 0x0A06
    NFT_MSG_GETRULE = 0x0A07
    NFT_MSG_DELRULE = 0x0A08
    NFT_MSG_NEWSET = 0x0A09
    NFT_MSG_GETSET = 0x0A0A
    NFT_MSG_NEWSETELEM = 0x0A0C
    NFT_MSG_GETSETELEM = 0x0A0D
    NFT_MSG_DELSETELEM = 0x0A0E
    NFT_MSG_NEWGEN = 0x0A0F
    NFT_MSG_GETGEN = 0x0A10


class MessageFlag(enum.IntFlag):
    """``nlmsg_flags``; the numbers overlap, since their meaning depends on the message."""

    NLM_F_REQUEST = 0x1
    NLM_F_ACK = 0x4
    NLM_F_DUMP_INTR = 0x10
    NLM_F_CAPPED = 0x100
    NLM_F_ACK_TLVS = 0x200
    NLM_F_DUMP = 0x300
    NLM_F_CREATE = 0x400
    NLM_F_APPEND = 0x800


class ErrorAttribute(enum.IntEnum):
    """What an extended acknowledgement carries."""

    NLMSGERR_ATTR_MSG = 1
    NLMSGERR_ATTR_OFFS = 2


#: NFPROTO_IPV4 and NFPROTO_IPV6 (linux/netfilter.h).
PROTOCOL_FAMILY: Final = {Family.IPV4: 2, Family.IPV6: 10}

#: ``nlmsghdr`` and ``nfgenmsg``, which every nftables message starts with.
HEADER_SIZE: Final = 20
NLA_F_NESTED: Final = 0x8000

_NLMSG = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
_NFGEN = struct.Struct(">BBH")  # family, version, resource id
NFGEN_SIZE: Final = _NFGEN.size
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_ERRNO = struct.Struct("=i")
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES, the resource of a batch
_BATCH_GENID = 1  # NFNL_BATCH_GENID
_SEQUENCE_MASK = 0xFFFFFFFF


class Message(NamedTuple):
    """A request, without its length and sequence number: those belong to a batch.

    ``attributes`` is everything after ``nfgenmsg``. A message about elements names their set in
    ``layout`` and says how many they are; one about a chain or its rules names the ``chain``.
    """

    kind: MessageType
    flags: int
    family: Family
    attributes: bytes
    layout: SetLayout | None = None
    elements: int = 0
    chain: str = ""


class Reply(NamedTuple):
    """A message of the kernel's; ``body`` is what follows ``nlmsghdr``.

    ``port`` is that of the socket whose request it is about.
    """

    kind: int
    flags: int
    sequence: int
    body: bytes
    port: int = 0


class Answer(NamedTuple):
    """NLMSG_ERROR or the end of a dump: how the request with this sequence number went.

    ``errno`` is positive, 0 for success. ``words`` is the kernel's own explanation, often empty;
    ``offset`` points into the request at the attribute complained of, 0 where unknown.
    """

    sequence: int
    errno: int
    words: str = ""
    offset: int = 0


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    length = 4 + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + bytes(-length % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute made of attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def number(kind: int, value: int) -> bytes:
    """An attribute of one 32-bit number, in network order."""
    return attribute(kind, struct.pack(">I", value))


def text(kind: int, value: str) -> bytes:
    """An attribute of one string, NUL-terminated."""
    return attribute(kind, value.encode() + b"\0")


#: The attribute that names our table is the first of every message (NFTA_*_TABLE is 1).
TABLE_ATTRIBUTE: Final = text(1, TABLE)


def attribute_header(kind: int, payload_size: int) -> bytes:
    """The header of an attribute whose payload is packed elsewhere; no padding."""
    return _ATTRIBUTE.pack(4 + payload_size, kind)


def frame(kind: int, flags: int, family: int, attributes: bytes, sequence: int) -> bytes:
    """One whole message; the sender's port id stays 0, the kernel fills it in."""
    # Only a batch's own messages belong to a resource; nftables' carry it in their type.
    resource = _SUBSYSTEM if kind <= MessageType.NFNL_MSG_BATCH_END else 0
    return (
        _NLMSG.pack(HEADER_SIZE + len(attributes), kind, flags, sequence & _SEQUENCE_MASK, 0)
        + _NFGEN.pack(family, 0, resource)
        + attributes
    )


def batch(
    messages: Sequence[Message], sequence: int, generation: int | None = None
) -> list[bytes]:
    """A transaction: what to send, in pieces to be joined or given to one ``sendmsg``.

    Only the last message asks for an acknowledgement: its answer ends the kernel's answers, and
    a refused message is answered unasked. BATCH_BEGIN has the number ``sequence``, the message
    ``messages[i]`` the number ``sequence + 1 + i``.

    Args:
        messages: At least one.
        sequence: Of BATCH_BEGIN.
        generation: The kernel refuses with ERESTART if the ruleset has moved on from this
            generation (NFNL_BATCH_GENID, Linux 4.11); None commits whatever it is.
    """
    lock = b"" if generation is None else number(_BATCH_GENID, generation)
    request = int(MessageFlag.NLM_F_REQUEST)
    begin, end = MessageType.NFNL_MSG_BATCH_BEGIN, MessageType.NFNL_MSG_BATCH_END
    pieces = [frame(begin, request, 0, lock, sequence)]
    last = len(messages) - 1
    for i, message in enumerate(messages):
        flags = request | message.flags | (MessageFlag.NLM_F_ACK if i == last else 0)
        family = PROTOCOL_FAMILY[message.family]
        pieces.append(frame(message.kind, flags, family, message.attributes, sequence + 1 + i))
    pieces.append(frame(end, request, 0, b"", sequence + 1 + len(messages)))
    return pieces


def replies(buffer: bytes) -> Iterator[Reply]:
    """The messages in one datagram of the kernel's.

    Raises:
        WireError: A length is shorter than a header or longer than the datagram.
    """
    position, end = 0, len(buffer)
    while position < end:
        if end - position < _NLMSG.size:
            raise WireError("half a message header", position)
        length, kind, flags, sequence, port = _NLMSG.unpack_from(buffer, position)
        if length < _NLMSG.size or position + length > end:
            raise WireError(f"a message of {length} bytes in {end - position}", position)
        body = buffer[position + _NLMSG.size : position + length]
        yield Reply(kind, flags, sequence, body, port)
        position += (length + 3) & ~3


def attributes(buffer: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The attributes between two offsets: (type without flags, payload's start, payload's end).

    Raises:
        WireError: A length is shorter than a header or longer than what is left.
    """
    while start < end:
        if end - start < _ATTRIBUTE.size:
            raise WireError("half an attribute header", start)
        length, kind = _ATTRIBUTE.unpack_from(buffer, start)
        if length < _ATTRIBUTE.size or start + length > end:
            raise WireError(f"an attribute of {length} bytes in {end - start}", start)
        yield kind & _TYPE_MASK, start + _ATTRIBUTE.size, start + length
        start += (length + 3) & ~3


def read_number(buffer: bytes, start: int, end: int) -> int:
    """The payload of an attribute made by ``number``."""
    if end - start != 4:  # noqa: PLR2004 (a u32)
        raise WireError(f"a 32-bit number of {end - start} bytes", start)
    return int.from_bytes(buffer[start:end], "big")


def read_text(buffer: bytes, start: int, end: int) -> str:
    """The payload of an attribute made by ``text``; what is not UTF-8 is replaced."""
    return buffer[start:end].partition(b"\0")[0].decode(errors="replace")


def answer(reply: Reply) -> Answer:
    """Read NLMSG_ERROR, or the status that ends a dump.

    Raises:
        WireError: It is too short, or its extended attributes are broken.
    """
    body = reply.body
    if len(body) < _ERRNO.size:
        raise WireError("an acknowledgement without an error number", len(body))
    errno = -int(_ERRNO.unpack_from(body)[0])
    if reply.kind == MessageType.NLMSG_DONE:
        return Answer(reply.sequence, errno)
    if len(body) < _ERRNO.size + _NLMSG.size:
        raise WireError("an acknowledgement that quotes no request", len(body))
    start = _ERRNO.size + _NLMSG.size
    if not reply.flags & MessageFlag.NLM_F_CAPPED and errno:
        # Without NETLINK_CAP_ACK the kernel quotes the whole request first.
        start = _ERRNO.size + max(_NLMSG.size, _NLMSG.unpack_from(body, _ERRNO.size)[0])
    words, offset = "", 0
    if reply.flags & MessageFlag.NLM_F_ACK_TLVS:
        for kind, first, last in attributes(body, (start + 3) & ~3, len(body)):
            if kind == ErrorAttribute.NLMSGERR_ATTR_MSG:
                words = read_text(body, first, last)
            elif kind == ErrorAttribute.NLMSGERR_ATTR_OFFS and last - first == 4:  # noqa: PLR2004
                offset = int.from_bytes(body[first:last], _HOST_ORDER)
    return Answer(reply.sequence, errno, words, offset)


_HOST_ORDER: Final = "little" if struct.pack("=H", 1) == b"\1\0" else "big"
