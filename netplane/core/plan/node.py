"""The node a plan is for: its name, its addresses, and the configuration that shapes its rules."""

from __future__ import annotations

import enum

import msgspec

from netplane.core.model.address import Family


class DetectorKind(enum.Enum):
    """How traffic from this node's own pods is told from the rest (reference section 1.7)."""

    NONE = "none"
    CLUSTER_CIDR = "cidr"
    BRIDGE_INTERFACE = "bridge"
    INTERFACE_PREFIX = "prefix"


class LocalDetector(msgspec.Struct, frozen=True):
    """A local-traffic detector; ``value`` is a canonical network or a (checked) interface name."""

    kind: DetectorKind = DetectorKind.NONE
    value: str = ""


class FamilyView(msgspec.Struct, frozen=True, kw_only=True):
    """What the node is in one IP family.

    Attributes:
        node_ip: The primary address, "" where the node has none of this family.
        node_port_addresses: The node's own addresses that accept NodePort traffic, sorted;
            None means every local address.
        localhost_node_ports: NodePorts also answer on 127.0.0.0/8 (iptables mode, IPv4 only).
        service_cidrs: Canonical networks ClusterIPs are allocated from; () where unknown.
        masquerade_all: Every connection to a ClusterIP is masqueraded.
        masquerade_mark: The packet mark (one bit) that asks for masquerade.
        drop_invalid: Packets conntrack calls INVALID are dropped when forwarded (iptables mode);
            False where conntrack is told to be liberal about TCP windows.
    """

    family: Family
    node_ip: str = ""
    detector: LocalDetector = LocalDetector()
    node_port_addresses: tuple[str, ...] | None = None
    localhost_node_ports: bool = False
    service_cidrs: tuple[str, ...] = ()
    masquerade_all: bool = False
    masquerade_mark: int = 0x4000
    drop_invalid: bool = True


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """The node a plan is for; ``zone`` is "" where the node has no zone label."""

    name: str
    zone: str = ""
    families: tuple[FamilyView, ...]
