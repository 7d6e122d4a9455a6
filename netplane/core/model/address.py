"""Addresses and networks as canonical text, the one form the rest of the code compares.

An address is a ``str`` in canonical form (RFC 5952 for IPv6), a network ``address/length`` with
the host bits cleared. Text is what rules, maps and messages carry, and strings hash and compare
fast; the family of an address is visible in it (a colon).
"""

from __future__ import annotations

import enum
import functools
import ipaddress
import re

_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_CANONICAL_V4 = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}")
"""What nearly every address is; ten times faster to see than to take apart."""


class Family(enum.IntEnum):
    """An IP family, numbered as its IP version."""

    IPV4 = 4
    IPV6 = 6

    @property
    def other(self) -> Family:
        """The family that this one is not."""
        return Family.IPV6 if self is Family.IPV4 else Family.IPV4


def family_of(address: str) -> Family:
    """The family of a canonical address or network."""
    return Family.IPV6 if ":" in address else Family.IPV4


def of_family(addresses: tuple[str, ...], family: Family) -> tuple[str, ...]:
    """The addresses or networks of one family, in their order."""
    return tuple(a for a in addresses if (":" in a) == (family is Family.IPV6))


@functools.lru_cache(maxsize=1 << 17)
def canonical_address(text: str) -> str | None:
    """The canonical form of an address, or None where the text is not one.

    IPv4 octets may carry leading zeros and are read as decimal, as objects stored before
    Kubernetes 1.22 have them. IPv4-mapped IPv6 and IPv6 zones are not addresses here.
    """
    if _CANONICAL_V4.fullmatch(text):
        return text
    if ":" in text:
        return _canonical_v6(text)
    octets = text.split(".")
    if len(octets) != 4:  # noqa: PLR2004 (four octets)
        return None
    numbers = []
    for octet in octets:
        if not (octet.isascii() and octet.isdigit() and len(octet) <= 3 and int(octet) <= 255):  # noqa: PLR2004
            return None
        numbers.append(str(int(octet)))
    return ".".join(numbers)


def _canonical_v6(text: str) -> str | None:
    try:
        v6 = ipaddress.IPv6Address(text)
    except ValueError:
        return None
    return None if v6.ipv4_mapped is not None or v6.scope_id is not None else str(v6)


@functools.lru_cache(maxsize=1 << 14)
def canonical_network(text: str) -> str | None:
    """The canonical form of a CIDR, host bits cleared, or None; surrounding blanks are legal."""
    head, slash, tail = text.strip().partition("/")
    address = canonical_address(head)
    if address is None or not slash or not (tail.isascii() and tail.isdigit() and len(tail) <= 3):  # noqa: PLR2004
        return None
    try:
        return str(ipaddress.ip_network(f"{address}/{int(tail)}", strict=False))
    except ValueError:
        return None


@functools.lru_cache(maxsize=1 << 14)
def contains(network: str, address: str) -> bool:
    """Whether a canonical network holds a canonical address (False across families)."""
    if (":" in network) != (":" in address):
        return False
    return ipaddress.ip_address(address) in ipaddress.ip_network(network)


def host_network(address: str) -> str:
    """The network that holds just this address: ``/32`` or ``/128``."""
    return f"{address}/128" if ":" in address else f"{address}/32"


def join_host_port(address: str, port: int) -> str:
    """``10.0.0.1:80`` or ``[fd00::1]:80``, as Go's net.JoinHostPort writes it."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
