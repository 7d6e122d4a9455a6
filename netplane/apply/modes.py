"""The modes there are, and what those not in use have left in a namespace.

Iptables mode is two: iptables-nft and iptables-legacy are separate rulesets in the kernel. The
host's own variant is the one written to; the other may still hold rules from before a switch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec

from netplane.apply.dataplane import Dataplane
from netplane.apply.foreign import legacy_tables
from netplane.apply.iptables.legacy_fingerprint import Fingerprint, legacy_fingerprint
from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink.socket import NfnetlinkSocket
from netplane.apply.tools import find
from netplane.config import Mode
from netplane.core.iptables.layout import FIXED_CHAINS, KUBE_FIREWALL, KUBE_SERVICES, TABLES
from netplane.core.model.address import Family
from netplane.core.nftables.layout import TABLE

if TYPE_CHECKING:
    from netplane.apply.engine import Engine
    from netplane.apply.iptables.programs import Variant
    from netplane.apply.nfnetlink.commit import Vouch
    from netplane.core.plan.node import NodeView

# The values of iptables.programs.Variant, which nftables mode has no need to import.
_NFT = "nft"
_LEGACY = "legacy"
_LEGACY_LISTINGS = ("ip_tables_names", "ip6_tables_names")


class Leftover(msgspec.Struct, frozen=True):
    """Rules of ours in a mode, or a variant of iptables, that is not the one in use."""

    name: str
    dataplane: Dataplane

    def remove(self) -> tuple[str, ...]:
        """Remove them; returns what was removed, in words. Raises ApplyError."""
        return tuple(f"removed from {self.name}: {line}" for line in self.dataplane.cleanup())


def open_mode(mode: Mode, namespace: Namespace) -> Dataplane:
    """The dataplane of a mode; iptables mode writes with the variant the host uses."""
    return _iptables(namespace) if mode == "iptables" else _nftables(namespace)


def open_engine(
    mode: Mode, namespace: Namespace, node: NodeView, *, vouch: Vouch | None = None
) -> Engine:
    """The engine of a mode; iptables mode writes with the variant the host uses.

    Args:
        mode: ``iptables`` or ``nftables``.
        namespace: Where, entered.
        node: What the plan is for, made for that mode.
        vouch: Who may know that foreign commits did no harm (``Witness.vouch``).
    """
    if mode == "iptables":
        from netplane.apply.iptables.engine import IptablesEngine

        return IptablesEngine(namespace, node, vouch=vouch)
    from netplane.apply.nftables.engine import NftablesEngine

    return NftablesEngine(namespace, node, vouch=vouch)


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
        rulesets = [_NFT, *([_LEGACY] if _has_legacy_tables(namespace) else [])]
        variants = list(_variants(namespace, rulesets))
        if mode and not variants:
            variants.append(_hosts_own(namespace))
        found += [(_name(variant), _iptables(namespace, variant)) for variant in variants]
    if mode == "nftables" or (mode is None and find("nft") is not None):
        found.append(("nftables", _nftables(namespace)))
    return tuple(found)


def open_inhabited(namespace: Namespace) -> tuple[tuple[str, Dataplane], ...]:
    """Those of ``open_all`` that hold anything which may be ours."""
    rulesets = [_NFT] if _has_chains(namespace) else []
    rulesets += [_LEGACY] if _has_legacy_tables(namespace) else []
    found = [
        (_name(variant), _iptables(namespace, variant))
        for variant in _variants(namespace, rulesets)
    ]
    if _has_table(namespace):
        found.append(("nftables", _nftables(namespace)))
    return tuple(found)


def leftovers(mode: Mode, in_use: Dataplane, namespace: Namespace) -> tuple[Leftover, ...]:
    """What of ours is in the kernel besides the dataplane in use, which is of this mode."""
    mine = mode if mode == "nftables" else _name(_variant_of(in_use))
    return tuple(
        Leftover(name, dataplane)
        for name, dataplane in open_inhabited(namespace)
        if name != mine and (name == "nftables" or dataplane.status().installed)
    )


class OtherModes:
    """Finds what is left of the modes not in use, again and again, for next to nothing.

    What is in nf_tables is asked for by name. Of legacy tables the kernel's figures are compared,
    and only where they have moved is iptables-legacy asked what they hold.

    Args:
        mode: The one in use; in iptables mode with the variant that the host uses now.
        namespace: Where, entered.
    """

    def __init__(self, mode: Mode, namespace: Namespace) -> None:
        self._mode = mode
        self._namespace = namespace
        self._in_use = open_mode(mode, namespace)
        self._seen = Fingerprint()

    def find(self, *, thorough: bool) -> tuple[Leftover, ...]:
        """What is there to remove.

        Args:
            thorough: Whatever may be ours; else only what somebody has put there since, known by
                KUBE-SERVICES: an old kubelet makes some chains of ours again and again.
        """
        legacy = self._legacy()
        if not thorough and legacy == self._seen and not self._signs():
            return ()
        self._seen = legacy
        return leftovers(self._mode, self._in_use, self._namespace)

    def _signs(self) -> bool:
        """Whether a table or a chain of another mode is in nf_tables."""
        if self._mode == "iptables" and _has_table(self._namespace):
            return True
        if self._mode == "iptables" and _variant_of(self._in_use).value == _NFT:
            return False
        with NfnetlinkSocket(self._namespace) as link:
            return any(
                link.has_chain(family, table, KUBE_SERVICES)
                for family in Family
                for table in TABLES
                if link.has_table(family, table)
            )

    def _legacy(self) -> Fingerprint:
        """What the kernel tells of legacy tables, where they are not those in use."""
        if self._mode == "iptables" and _variant_of(self._in_use).value == _LEGACY:
            return Fingerprint()
        return legacy_fingerprint(self._namespace, deep=False)


def _name(variant: Variant) -> str:
    return f"iptables ({variant.value})"


def _iptables(namespace: Namespace, variant: Variant | None = None) -> Dataplane:
    from netplane.apply.iptables.mode import IptablesDataplane

    return IptablesDataplane(namespace, variant=variant)


def _variant_of(dataplane: Dataplane) -> Variant:
    from netplane.apply.iptables.mode import IptablesDataplane

    assert isinstance(dataplane, IptablesDataplane), dataplane
    return dataplane.variant


def _nftables(namespace: Namespace) -> Dataplane:
    from netplane.apply.nftables.mode import NftablesDataplane

    return NftablesDataplane(namespace)


def _variants(namespace: Namespace, rulesets: Iterable[str]) -> Iterator[Variant]:
    """Those of these variants of iptables that can be run here."""
    for ruleset in rulesets:
        from netplane.apply.iptables.programs import Variant

        variant = Variant(ruleset)
        has_programs = find(f"iptables-{ruleset}-save") is not None
        # A host with one variant alone may have it under the plain name alone.
        plain = not has_programs and find("iptables") is not None
        if has_programs or (plain and _hosts_own(namespace) is variant):
            yield variant


def _hosts_own(namespace: Namespace) -> Variant:
    from netplane.apply.iptables.programs import detect_variant

    return detect_variant(namespace)


def _has_legacy_tables(namespace: Namespace) -> bool:
    """Whether there are legacy tables; where there are none, asking iptables would make them."""
    return any(legacy_tables(namespace, listing) for listing in _LEGACY_LISTINGS)


def _has_table(namespace: Namespace) -> bool:
    """Whether a table of nftables mode is there."""
    with NfnetlinkSocket(namespace) as link:
        return any(link.has_table(family, TABLE) for family in Family)


def _has_chains(namespace: Namespace) -> bool:
    """Whether iptables-nft holds chains of ours: they are chains of nft tables, asked for by name.

    The fixed ones tell: however a cleanup was cut short, some of them go last. The kubelet's
    KUBE-FIREWALL is no sign.
    """
    with NfnetlinkSocket(namespace) as link:
        return any(
            link.has_chain(family, table, chain)
            for family in Family
            for table, chains in FIXED_CHAINS.items()
            if link.has_table(family, table)
            for chain in chains
            if chain != KUBE_FIREWALL
        )
