"""The modes there are, and what those not in use have left in a namespace.

Iptables mode is two: iptables-nft and iptables-legacy are separate rulesets in the kernel. The
host's own variant is the one written to; the other may still hold rules from before a switch.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from netplane.apply.dataplane import Dataplane
from netplane.apply.foreign import legacy_tables
from netplane.apply.iptables_tools import Variant, detect_variant
from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink import NfnetlinkSocket
from netplane.apply.tools import find
from netplane.config import Mode
from netplane.core.model.address import Family
from netplane.core.nftables.layout import TABLE

_LEGACY_LISTINGS = ("ip_tables_names", "ip6_tables_names")


class Leftover(msgspec.Struct, frozen=True):
    """Rules of ours in a mode, or a variant of iptables, that is not the one in use."""

    name: str
    dataplane: Dataplane

    def remove(self) -> tuple[str, ...]:
        """Remove them; returns what was removed, in words. Raises ApplyError."""
        return tuple(f"{self.name}: {line}" for line in self.dataplane.cleanup())


def open_mode(mode: Mode, namespace: Namespace) -> Dataplane:
    """The dataplane of a mode; iptables mode writes with the variant the host uses."""
    return _iptables(namespace) if mode == "iptables" else _nftables(namespace)


def open_all(namespace: Namespace, mode: Mode | None = None) -> tuple[tuple[str, Dataplane], ...]:
    """Every mode and variant that can hold rules here, each with its name.

    Args:
        namespace: Where.
        mode: Only this mode, which then must work here.

    Raises:
        ToolError: The mode asked for has no program here.
    """
    found: list[tuple[str, Dataplane]] = []
    if mode != "nftables":
        variants = tuple(_variants(namespace))
        found += [
            (_name(variant), _iptables(namespace, variant))
            for variant in variants or ((detect_variant(namespace),) if mode else ())
        ]
    if mode == "nftables" or (mode is None and find("nft") is not None):
        found.append(("nftables", _nftables(namespace)))
    return tuple(found)


def leftovers(mode: Mode, namespace: Namespace) -> tuple[Leftover, ...]:
    """What of ours is in the kernel besides the mode in use."""
    host = detect_variant(namespace) if mode == "iptables" else None
    found = []
    for variant in _variants(namespace):
        dataplane = _iptables(namespace, variant)
        if variant is not host and dataplane.status().installed:
            found.append(Leftover(_name(variant), dataplane))
    if mode != "nftables":
        with NfnetlinkSocket(namespace) as link:
            if any(link.has_table(family, TABLE) for family in Family):
                found.append(Leftover("nftables", _nftables(namespace)))
    return tuple(found)


def _name(variant: Variant) -> str:
    return f"iptables ({variant.value})"


def _iptables(namespace: Namespace, variant: Variant | None = None) -> Dataplane:
    from netplane.apply.iptables import IptablesDataplane

    return IptablesDataplane(namespace, variant=variant)


def _nftables(namespace: Namespace) -> Dataplane:
    from netplane.apply.nftables import NftablesDataplane

    return NftablesDataplane(namespace)


def _variants(namespace: Namespace) -> Iterator[Variant]:
    """The variants of iptables whose tables can hold rules here.

    Legacy tables are asked for only where they exist: asking creates them.
    """
    host = detect_variant(namespace) if find("iptables") is not None else None
    if host is Variant.NFT or find("iptables-nft-save") is not None:
        yield Variant.NFT
    has_legacy = any(legacy_tables(namespace, listing) for listing in _LEGACY_LISTINGS)
    if has_legacy and (host is Variant.LEGACY or find("iptables-legacy-save") is not None):
        yield Variant.LEGACY
