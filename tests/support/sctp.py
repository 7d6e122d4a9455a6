"""One SCTP packet, the INIT that opens an association (RFC 9260 section 3.3.2).

The kernel need not speak SCTP: connection tracking and NAT follow an INIT that a raw socket sends,
and its initiate tag tells at the other end which one arrived.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

_COMMON = struct.Struct("!HHI")  # source port, destination port, verification tag
_CHUNK = struct.Struct("!BBH")  # type, flags, length
_INIT = struct.Struct("!IIHHI")  # tag, receiver window, streams out, streams in, first TSN
_TYPE_INIT = 1
_POLYNOMIAL = 0x82F63B78  # CRC-32C, reflected (RFC 9260 appendix A)


class Init(NamedTuple):
    """What identifies an INIT; both ports in host order."""

    source_port: int
    port: int
    tag: int


def encode_init(init: Init) -> bytes:
    """The whole packet, from the common header on, with its checksum."""
    head = _COMMON.pack(init.source_port, init.port, 0)
    chunk = _CHUNK.pack(_TYPE_INIT, 0, _CHUNK.size + _INIT.size)
    chunk += _INIT.pack(init.tag, 0x10000, 1, 1, init.tag)
    return head + struct.pack("<I", crc32c(head + bytes(4) + chunk)) + chunk


def decode_init(packet: bytes) -> Init | None:
    """The INIT in a packet, or None where it holds something else or a wrong checksum."""
    body = _COMMON.size + 4
    if len(packet) < body + _CHUNK.size + _INIT.size or packet[body] != _TYPE_INIT:
        return None
    source_port, port, _ = _COMMON.unpack_from(packet)
    (sent,) = struct.unpack_from("<I", packet, _COMMON.size)
    if crc32c(packet[: _COMMON.size] + bytes(4) + packet[body:]) != sent:
        return None
    return Init(source_port, port, _INIT.unpack_from(packet, body + _CHUNK.size)[0])


def crc32c(octets: bytes) -> int:
    """The CRC-32C of some octets."""
    crc = 0xFFFFFFFF
    for octet in octets:
        crc = (crc >> 8) ^ _TABLE[(crc ^ octet) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _table_entry(index: int) -> int:
    for _ in range(8):
        index = (index >> 1) ^ (_POLYNOMIAL if index & 1 else 0)
    return index


_TABLE = tuple(_table_entry(index) for index in range(256))
