"""Whether legacy iptables rules have changed: a look that costs microseconds, and misses little.

The legacy tables send no notices. The kernel tells per table how many entries it has, how many
bytes, and where the built-in chains begin (struct ipt_getinfo, linux/netfilter_ipv4/ip_tables.h);
a rule that comes, goes or moves between chains moves these numbers. An edit that leaves all of
them alone is found by the next full comparison.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from functools import partial
from typing import Final

from netplane.apply.foreign import legacy_tables
from netplane.apply.netns import Namespace
from netplane.core.iptables.layout import TABLES
from netplane.errors import ApplyError, PrivilegeError

_INFO: Final = struct.Struct("=32sI5I5III")
_SO_GET_INFO: Final = 64  # IPT_SO_GET_INFO, IP6T_SO_GET_INFO
_FAMILIES: Final = (
    ("ip_tables_names", socket.AF_INET, socket.IPPROTO_IP),
    ("ip6_tables_names", socket.AF_INET6, socket.IPPROTO_IPV6),
)


def legacy_fingerprint(namespace: Namespace) -> tuple[bytes, ...]:
    """What the kernel tells of each of our legacy tables that exists; equal while nothing moves.

    Raises:
        PrivilegeError: CAP_NET_ADMIN is missing.
        ApplyError: The kernel does not tell.
    """
    found = []
    for listing, family, level in _FAMILIES:
        tables = [table for table in legacy_tables(namespace, listing) if table in TABLES]
        # A table that does not exist would be made by asking for it.
        if tables:
            found += namespace.call(partial(_read, family, level, tables))
    return tuple(found)


def _read(family: int, level: int, tables: list[str]) -> list[bytes]:
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asking:
            return [_info(asking.fileno(), level, table) for table in tables]
    except OSError as exc:
        kind = PrivilegeError if exc.errno == errno.EPERM else ApplyError
        raise kind(f"cannot ask for legacy iptables tables: {exc.strerror}") from exc


def _info(descriptor: int, level: int, table: str) -> bytes:
    """getsockopt(2) with an argument, which Python's own does not pass."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(table.encode(), _INFO.size)
    size = ctypes.c_uint(_INFO.size)
    if libc.getsockopt(descriptor, level, _SO_GET_INFO, buffer, ctypes.byref(size)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return buffer.raw
