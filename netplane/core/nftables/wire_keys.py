"""Keys and values of elements as the kernel keeps them: concatenated fields of four-byte words.

An address is 4 or 16 bytes, a protocol one byte padded to four, a port two bytes in network order
padded to four, a slot a 32-bit number in host order (it comes from a register, not from a packet).
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Final, TypeAlias

from netplane.core.model.address import Family
from netplane.core.nftables.layout import Key, Keys
from netplane.core.plan.port import Backend
from netplane.errors import WireError

#: Bytes of an address.
ADDRESS_SIZE: Final = {Family.IPV4: 4, Family.IPV6: 16}

#: Where a slot stands in the key of a SLOTS map: after the frontend's key, four bytes.
SLOT: Final = struct.Struct("=I")

_CACHED = 1 << 16
_IPV4 = struct.Struct("4B")


class _Heads(dict[str, bytes]):
    """The first three octets of an IPv4 address to bytes."""

    def __missing__(self, text: str) -> bytes:
        if len(self) >= _CACHED:
            self.clear()
        a, b, c = text.split(".")
        head = self[text] = OCTETS[a] + OCTETS[b] + OCTETS[c]
        return head


#: ``HEADS["10.0.0"] + OCTETS["1"]`` is ``pack_address("10.0.0.1")``, without a call.
HEADS: Final = _Heads()
OCTETS: Final = {str(octet): bytes([octet]) for octet in range(256)}


def pack_address(address: str) -> bytes:
    """The bytes of a canonical address; for those seen once, the backends'."""
    # The first three octets repeat, since many addresses of a cluster share a /24.
    head, dot, tail = address.rpartition(".")
    if dot:
        return HEADS[head] + OCTETS[tail]
    return ipaddress.IPv6Address(address).packed


class _Packed(dict[str | int, bytes]):
    """Canonical address to bytes. Keyed like a Key's fields, so that a lookup needs no check."""

    def __missing__(self, address: str | int) -> bytes:
        if len(self) >= _CACHED:
            self.clear()
        packed = self[address] = pack_address(str(address))
        return packed


#: ``PACKED[address]``: the same, remembered: for frontends, which stand in several sets.
PACKED: Final = _Packed()


@lru_cache(maxsize=_CACHED)
def unpack_address(packed: bytes) -> str:
    """The canonical text of an address of 4 or 16 bytes."""
    if len(packed) == _IPV4.size:
        return "%d.%d.%d.%d" % _IPV4.unpack(packed)  # noqa: UP031 (half the time of an f-string)
    return str(ipaddress.IPv6Address(packed))


@lru_cache(maxsize=1 << 14)
def pack_network(network: str) -> tuple[bytes, bytes]:
    """The first and the last address of a canonical network."""
    parsed = ipaddress.ip_network(network)
    return parsed.network_address.packed, parsed.broadcast_address.packed


@lru_cache(maxsize=1 << 14)
def unpack_range(first: bytes, last: bytes) -> str:
    """The network between two addresses, or ``first-last`` where that is not one network."""
    low, high = int.from_bytes(first, "big"), int.from_bytes(last, "big")
    size = high - low + 1
    if size < 1 or size & (size - 1) or low % size:
        return f"{unpack_address(first)}-{unpack_address(last)}"
    return f"{unpack_address(first)}/{8 * len(first) - size.bit_length() + 1}"


def backend_struct(family: Family) -> struct.Struct:
    """``pack(address's bytes, port)`` gives the value of a SLOTS map's element."""
    return struct.Struct(f">{ADDRESS_SIZE[family]}sH2x")


PackKey: TypeAlias = Callable[[Key], bytes]


def key_packer(keys: Keys, family: Family) -> PackKey:
    """A function from a key to its bytes; for SOURCE, those with the first address."""
    size = ADDRESS_SIZE[family]
    packed = PACKED
    match keys:
        case Keys.FRONTEND:
            frontend = struct.Struct(f">{size}sB3xH2x").pack
            return lambda key: frontend(packed[key[0]], key[1], key[2])
        case Keys.PORT:
            port = struct.Struct(">B3xH2x").pack
            return lambda key: port(key[0], key[1])
        case Keys.ADDRESS:
            return lambda key: packed[key[0]]
        case Keys.FLOW:
            flow = struct.Struct(f">{size}s{size}sB3xH2x").pack
            return lambda key: flow(packed[key[0]], packed[key[1]], key[2], key[3])
        case Keys.SOURCE:
            return _source_packer(size, 0)


def key_end_packer(family: Family) -> PackKey:
    """A function from a key of shape SOURCE to its bytes with the network's last address."""
    return _source_packer(ADDRESS_SIZE[family], 1)


def _source_packer(size: int, end: int) -> PackKey:
    source = struct.Struct(f">{size}sB3xH2x{size}s").pack
    packed = PACKED
    return lambda key: source(packed[key[0]], key[1], key[2], pack_network(str(key[3]))[end])


UnpackKey: TypeAlias = Callable[[bytes], Key]


def key_unpacker(keys: Keys, family: Family) -> UnpackKey:
    """A function from the bytes of a key (without its slot) to the key; not for SOURCE.

    It raises ``struct.error`` where the size is wrong: check against ``key_size`` first.
    """
    size = ADDRESS_SIZE[family]
    match keys:
        case Keys.FRONTEND:
            frontend = struct.Struct(f">{size}sB3xH2x").unpack

            def unpack_frontend(raw: bytes) -> Key:
                address, protocol, port = frontend(raw)
                return (unpack_address(address), protocol, port)

            return unpack_frontend
        case Keys.PORT:
            return struct.Struct(">B3xH2x").unpack
        case Keys.ADDRESS:
            return lambda raw: (unpack_address(raw),)
        case Keys.FLOW:
            flow = struct.Struct(f">{size}s{size}sB3xH2x").unpack

            def unpack_flow(raw: bytes) -> Key:
                source, destination, protocol, port = flow(raw)
                return (unpack_address(source), unpack_address(destination), protocol, port)

            return unpack_flow
        case Keys.SOURCE:
            raise AssertionError("a key of shape SOURCE has an end: unpack_source")


def unpack_source(family: Family, first: bytes, last: bytes) -> Key:
    """The key of an interval of shape SOURCE from both its ends.

    Raises:
        WireError: More than its last field is a range, which is never ours.
    """
    fixed = ADDRESS_SIZE[family] + 8
    if first[:fixed] != last[:fixed]:
        raise WireError("an interval over an address, protocol or port")
    frontend = key_unpacker(Keys.FRONTEND, family)(first[:fixed])
    return (*frontend, unpack_range(first[fixed:], last[fixed:]))


def key_size(keys: Keys, family: Family) -> int:
    """The bytes of a key, without a slot."""
    size = ADDRESS_SIZE[family]
    addresses = {Keys.FRONTEND: 1, Keys.PORT: 0, Keys.ADDRESS: 1, Keys.FLOW: 2, Keys.SOURCE: 2}
    return addresses[keys] * size + (0 if keys is Keys.ADDRESS else 8)


def unpack_backend(raw: bytes) -> Backend:
    """The backend in the value of a SLOTS map's element (8 or 20 bytes)."""
    port = raw[-4] << 8 | raw[-3]
    if len(raw) == _BACKEND_IPV4:
        address = _HEAD_TEXTS[raw[:3]] + _OCTET_TEXTS[raw[3]]
    else:
        address = unpack_address(raw[:-4])
    # What Backend(address, port) does, without the call in between.
    return _new_tuple(Backend, (address, port))


_new_tuple = tuple.__new__
_BACKEND_IPV4 = 8
_OCTET_TEXTS: Final = [str(octet) for octet in range(256)]


class _HeadTexts(dict[bytes, str]):
    """The first three octets of an IPv4 address to text, with the last dot."""

    def __missing__(self, raw: bytes) -> str:
        if len(self) >= _CACHED:
            self.clear()
        a, b, c = raw
        text = self[raw] = f"{a}.{b}.{c}."
        return text


_HEAD_TEXTS = _HeadTexts()
