"""Which addresses may be the destination of a Service or an endpoint.

The API server refuses unspecified, loopback and link-local addresses as endpoints and as
externalIPs (ValidateNonSpecialIP); a packet rewritten to one of them would stay on the node, or
leave it for a neighbour, so every multicast address is refused with them.
"""

from __future__ import annotations

import functools
import ipaddress

from netplane.core.model.address import canonical_address
from netplane.core.model.reasons import Reason

_V4_SPECIAL = {
    "0": ("0.0.0.0", Reason.UNSPECIFIED),  # noqa: S104 (compared, not bound)
    "127": ("127.", Reason.LOOPBACK),
    "169": ("169.254.", Reason.LINK_LOCAL),
    **{str(first): (f"{first}.", Reason.MULTICAST) for first in range(224, 240)},
}
"""By the first octet: what the address then begins with, and what that means."""
_V6_SPECIAL = {"::": Reason.UNSPECIFIED, "::1": Reason.LOOPBACK}
OCTETS = frozenset(map(str, range(256)))
"""In decimal; with ``is_ordinary_network`` an address is known without a call for itself."""
_FULL_GROUP = 4
"""Hex digits of a 16-bit group without leading zeros dropped: ``fe8::`` is 0fe8::, not fe80::."""


def endpoint_address(text: str) -> str | Reason:
    """The canonical form of an address traffic may be sent on to, or why it is none."""
    network, _, last = text.rpartition(".")
    if last in OCTETS and is_ordinary_network(network):
        return text
    return _endpoint_address(text)


def cluster_address(text: str) -> str | Reason:
    """The canonical form of a clusterIP, or why it is none.

    Link-local is legal here: some clusters keep their service range in 169.254.0.0/16.
    """
    network, _, last = text.rpartition(".")
    if last in OCTETS and is_ordinary_network(network):
        return text
    return _cluster_address(text)


@functools.lru_cache(maxsize=1 << 14)
def is_ordinary_network(text: str) -> bool:
    """Whether the text is the first three octets of addresses that are all canonical and good.

    Addresses are many and each comes once or twice, their networks are few: to know an address by
    its network takes 0.2 us; to check it octet by octet, and remember that, took 3 us.
    """
    first = f"{text}.0"
    return not text.startswith("0.") and _endpoint_address(first) == first


@functools.lru_cache(maxsize=1 << 14)
def _endpoint_address(text: str) -> str | Reason:
    address = canonical_address(text)
    if address is None:
        return _not_an_address(text)
    return _special(address) or address


@functools.lru_cache(maxsize=1 << 14)
def _cluster_address(text: str) -> str | Reason:
    address = canonical_address(text)
    if address is None:
        return _not_an_address(text)
    reason = _special(address)
    return address if reason is None or reason is Reason.LINK_LOCAL else reason


def _not_an_address(text: str) -> Reason:
    try:
        mapped = ipaddress.IPv6Address(text).ipv4_mapped
    except ValueError:
        return Reason.NOT_AN_ADDRESS
    return Reason.NOT_AN_ADDRESS if mapped is None else Reason.MAPPED


def _special(address: str) -> Reason | None:
    """The special range a canonical address is in, if any."""
    if ":" not in address:
        prefix = _V4_SPECIAL.get(address.partition(".")[0])
        return prefix[1] if prefix and address.startswith(prefix[0]) else None
    if address in _V6_SPECIAL:
        return _V6_SPECIAL[address]
    first = address.partition(":")[0]
    if len(first) == _FULL_GROUP:
        if first.startswith("ff"):
            return Reason.MULTICAST
        if first.startswith(("fe8", "fe9", "fea", "feb")):
            return Reason.LINK_LOCAL
    return None
