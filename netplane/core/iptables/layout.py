"""The layout of our iptables chains: which tables and chains are ours, and what a ruleset is.

A rule is one line of text in the form ``iptables-save`` prints, ``-A CHAIN ...``; a chain is the
tuple of its rules. Both families and both variants of iptables (nft and legacy) print the same.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from netplane.core.iptables.names import PREFIXES
from netplane.core.model.address import Family

FILTER = "filter"
NAT = "nat"
TABLES = (FILTER, NAT)

KUBE_SERVICES = "KUBE-SERVICES"
KUBE_NODEPORTS = "KUBE-NODEPORTS"
KUBE_EXTERNAL_SERVICES = "KUBE-EXTERNAL-SERVICES"
KUBE_PROXY_FIREWALL = "KUBE-PROXY-FIREWALL"
KUBE_MARK_MASQ = "KUBE-MARK-MASQ"

#: The one chain that is not ours alone: the kubelet writes the same rule into it, and old kubelets
#: one more (reference section 1.2).
KUBE_FIREWALL = "KUBE-FIREWALL"

#: The kubelet keeps this empty chain in nat, filter and mangle: the sign that KUBE-FIREWALL is
#: shared. It is never touched, as kube-proxy's own canary is not.
KUBELET_CANARY = "KUBE-KUBELET-CANARY"

#: The chains that are there whatever the Services, in the order they are declared.
FIXED_CHAINS: dict[str, tuple[str, ...]] = {
    FILTER: (
        KUBE_SERVICES,
        KUBE_EXTERNAL_SERVICES,
        "KUBE-FORWARD",
        KUBE_NODEPORTS,
        KUBE_PROXY_FIREWALL,
        KUBE_FIREWALL,
    ),
    NAT: (KUBE_SERVICES, KUBE_NODEPORTS, "KUBE-POSTROUTING", KUBE_MARK_MASQ),
}

#: The chains of nat that lead to per-service chains.
DISPATCH_CHAINS = (KUBE_SERVICES, KUBE_NODEPORTS)

Chains: TypeAlias = dict[str, tuple[str, ...]]


class Ruleset(msgspec.Struct, frozen=True, kw_only=True):
    """Everything netplane wants in the tables of one family.

    Attributes:
        tables: By table name, in TABLES' order, the chains that are ours with their rules: the
            fixed ones first, then the per-service ones in plan order.
        jumps: By table name, the rules in built-in chains that lead to ours, each to be inserted
            at the head of its chain, in this order.
        groups: Per service port the names of its chains in nat, in ``tables``' order.
    """

    family: Family
    tables: dict[str, Chains]
    jumps: dict[str, tuple[str, ...]]
    groups: tuple[tuple[str, ...], ...]


def owned(table: str, chain: str) -> bool:
    """Whether a chain is ours by its name (reference sections 1.2 and 1.11)."""
    return chain in FIXED_CHAINS[table] or (table == NAT and chain.startswith(PREFIXES))


def chain_of(line: str) -> str:
    """The chain a rule ``-A CHAIN ...`` belongs to."""
    end = line.find(" ", 3)
    return line[3:] if end < 0 else line[3:end]
