"""Whether legacy iptables rules have changed, which no notice tells.

The kernel tells per table how many entries it has, how many bytes, and where the built-in chains
begin (struct ipt_getinfo, linux/netfilter_ipv4/ip_tables.h): a question of microseconds, and a
rule that comes, goes or moves between chains moves these figures. A rule replaced by one of the
same size moves none of them; that shows in the entries themselves (struct ipt_get_entries), whose
reading costs some 0.1 ms for each Service, so large tables are left to their figures.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import mmap
import os
import socket
import struct
from functools import partial
from typing import Final, NamedTuple

from netplane.apply.foreign import legacy_tables
from netplane.apply.netns import Namespace
from netplane.core.iptables.layout import TABLES
from netplane.errors import ApplyError, PrivilegeError

_INFO: Final = struct.Struct("=32sI5I5III")  # ..., entries, bytes of them
_SO_GET_INFO: Final = 64  # IPT_SO_GET_INFO, IP6T_SO_GET_INFO
_SO_GET_ENTRIES: Final = 65  # IPT_SO_GET_ENTRIES, IP6T_SO_GET_ENTRIES
_ASKED: Final = struct.Struct("@32sI0Q")  # struct ipt_get_entries before its entries
_U16: Final = struct.Struct("=H")
_COUNTERS: Final = bytes(16)  # struct xt_counters: packets, bytes
#: Bytes of entries, of all tables together, that are read; some 600 Services of 3 endpoints.
_MOST_BYTES: Final = 4 << 20


class _Kind(NamedTuple):
    """A family's tables, and where its entries have what is used of them.

    Attributes:
        listing: The file in /proc/net with the tables that exist.
        family, level: Of the socket to ask with.
        next_offset: Of the u16 with an entry's size (struct ipt_entry, ip6t_entry).
        counters: Of its counters.
    """

    listing: str
    family: socket.AddressFamily
    level: int
    next_offset: int
    counters: int


_KINDS: Final = (
    _Kind("ip_tables_names", socket.AF_INET, socket.IPPROTO_IP, 90, 96),
    _Kind("ip6_tables_names", socket.AF_INET6, socket.IPPROTO_IPV6, 142, 152),
)


class Fingerprint(NamedTuple):
    """What the kernel tells of our legacy tables that exist.

    Attributes:
        figures: Of each table, as bytes.
        contents: A digest of each table's entries, counters left out; None where not read.
    """

    figures: tuple[bytes, ...] = ()
    contents: tuple[bytes, ...] | None = None

    @property
    def entries(self) -> int:
        """How many there are in all: rules, two for each chain, and one at a table's end."""
        return sum(int(_INFO.unpack(info)[-2]) for info in self.figures)

    def may_be(self, other: Fingerprint) -> bool:
        """Whether nothing tells this one from another, taken earlier or later."""
        unread = self.contents is None or other.contents is None
        return self.figures == other.figures and (unread or self.contents == other.contents)


def legacy_fingerprint(namespace: Namespace, *, deep: bool) -> Fingerprint:
    """What tells the legacy tables of a namespace from what they were.

    Args:
        namespace: Which.
        deep: Read what is in them, too, unless that is more than 4 MiB.

    Raises:
        PrivilegeError: CAP_NET_ADMIN is missing.
        ApplyError: The kernel does not tell.
    """
    figures: list[tuple[_Kind, str, bytes]] = []
    for kind in _KINDS:
        names = [table for table in legacy_tables(namespace, kind.listing) if table in TABLES]
        # A table that does not exist would be made by asking for it.
        if names:
            found = namespace.call(partial(_figures, kind, names))
            figures += [(kind, *each) for each in zip(names, found, strict=True)]
    contents = None
    if deep and sum(_size(info) for _, _, info in figures) <= _MOST_BYTES:
        contents = _contents(namespace, figures)
    return Fingerprint(tuple(info for _, _, info in figures), contents)


def _contents(
    namespace: Namespace, figures: list[tuple[_Kind, str, bytes]]
) -> tuple[bytes, ...] | None:
    """A digest of each table; None where one was being replaced meanwhile."""
    read = [
        namespace.call(partial(_digest, kind, table, _size(info))) for kind, table, info in figures
    ]
    found = tuple(digest for digest in read if digest is not None)
    return found if len(found) == len(read) else None


def _size(info: bytes) -> int:
    return int(_INFO.unpack(info)[-1])


def _figures(kind: _Kind, tables: list[str]) -> list[bytes]:
    try:
        with _socket(kind) as asking:
            return [_info(asking, kind, table) for table in tables]
    except OSError as exc:
        raise _failed(exc) from exc


def _info(asking: socket.socket, kind: _Kind, table: str) -> bytes:
    buffer = ctypes.create_string_buffer(table.encode(), _INFO.size)
    _ask(asking, kind, _SO_GET_INFO, buffer)
    return buffer.raw


def _digest(kind: _Kind, table: str, size: int) -> bytes | None:
    """A digest of a table's entries without their counters; None where its size has changed."""
    with mmap.mmap(-1, _ASKED.size + size) as answer:
        _ASKED.pack_into(answer, 0, table.encode(), size)
        buffer = (ctypes.c_char * len(answer)).from_buffer(answer)
        try:
            with _socket(kind) as asking:
                _ask(asking, kind, _SO_GET_ENTRIES, buffer)
        except OSError as exc:
            # EAGAIN: the table has another size by now (net/ipv4/netfilter/ip_tables.c).
            if exc.errno == errno.EAGAIN:
                return None
            raise _failed(exc) from exc
        finally:
            del buffer  # or what is mapped could not be unmapped
        _clear_counters(answer, kind)
        return hashlib.blake2b(answer, digest_size=16).digest()


def _clear_counters(answer: mmap.mmap, kind: _Kind) -> None:
    at = _ASKED.size
    while at < len(answer):
        start = at + kind.counters
        answer[start : start + len(_COUNTERS)] = _COUNTERS
        at += int(_U16.unpack_from(answer, at + kind.next_offset)[0]) or len(answer)


def _socket(kind: _Kind) -> socket.socket:
    return socket.socket(kind.family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)


def _ask(
    asking: socket.socket, kind: _Kind, option: int, buffer: ctypes.Array[ctypes.c_char]
) -> None:
    """getsockopt(2) with an argument, which Python's own does not pass."""
    libc = ctypes.CDLL(None, use_errno=True)
    size = ctypes.c_uint(len(buffer))
    if libc.getsockopt(asking.fileno(), kind.level, option, buffer, ctypes.byref(size)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _failed(exc: OSError) -> ApplyError:
    kind = PrivilegeError if exc.errno == errno.EPERM else ApplyError
    return kind(f"cannot ask for legacy iptables tables: {exc.strerror}")
