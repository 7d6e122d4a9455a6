"""Configuration, Node object and local addresses to the node's view (reference 1.7, 3.5)."""

from __future__ import annotations

from collections.abc import Iterable

from netplane.config import Config
from netplane.core.model.address import (
    Family,
    canonical_address,
    canonical_network,
    contains,
    family_of,
    of_family,
)
from netplane.core.model.service import Node
from netplane.core.plan.node import DetectorKind, FamilyView, LocalDetector, NodeView

_LOOPBACK = {Family.IPV4: ("127.0.0.1",), Family.IPV6: ("::1",)}


def build_view(
    config: Config, *, mode: str, node: Node | None, local_addresses: Iterable[str] = ()
) -> NodeView:
    """What this node is, in both families.

    Args:
        config: Checked configuration.
        mode: ``iptables`` or ``nftables``; they differ in what an unset
            ``nodePortAddresses`` means, and only iptables serves NodePorts on loopback.
        node: The Node object of this node, or None where the input has none.
        local_addresses: Canonical addresses on the node's interfaces, where they can be read.
    """
    given = tuple(a for a in map(canonical_address, config.node_ips) if a)
    primary = (*given, *(node.addresses if node else ()))
    addresses = tuple(dict.fromkeys([*primary, *local_addresses]))
    return NodeView(
        name=config.node_name,
        zone=node.zone if node else "",
        families=tuple(
            _family_view(config, mode, family, node, primary, addresses) for family in Family
        ),
    )


def _family_view(  # noqa: PLR0913, PLR0917 (one call site)
    config: Config,
    mode: str,
    family: Family,
    node: Node | None,
    primary: tuple[str, ...],
    addresses: tuple[str, ...],
) -> FamilyView:
    node_ip = next(iter(of_family(primary, family)), "")
    localhost = mode == "iptables" and family is Family.IPV4 and config.localhost_node_ports
    return FamilyView(
        family=family,
        node_ip=node_ip,
        detector=_detector(config, family, node),
        node_port_addresses=_node_port_addresses(
            config.node_port_addresses or (("primary",) if mode == "nftables" else ()),
            family,
            node_ip,
            of_family(addresses, family),
            loopback=localhost,
        ),
        localhost_node_ports=localhost,
        service_cidrs=of_family(_networks(config.service_cidrs), family),
        masquerade_all=config.masquerade_all,
        masquerade_mark=1 << config.masquerade_bit,
        drop_invalid=not config.conntrack_tcp_be_liberal,
    )


def _networks(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(network for network in map(canonical_network, texts) if network)


def _detector(config: Config, family: Family, node: Node | None) -> LocalDetector:
    """The local-traffic detector; the first network of the family counts, as in kube-proxy."""
    match config.detect_local_mode:
        case "BridgeInterface":
            return LocalDetector(DetectorKind.BRIDGE_INTERFACE, config.bridge_interface)
        case "InterfaceNamePrefix":
            return LocalDetector(DetectorKind.INTERFACE_PREFIX, config.interface_prefix)
        case "NodeCIDR":
            networks = node.pod_cidrs if node else ()
        case _:
            networks = _networks(config.cluster_cidrs)
    first = next(iter(of_family(networks, family)), "")
    return LocalDetector(DetectorKind.CLUSTER_CIDR, first) if first else LocalDetector()


def _node_port_addresses(
    wanted: Iterable[str], family: Family, node_ip: str, local: tuple[str, ...], *, loopback: bool
) -> tuple[str, ...] | None:
    """The node's own addresses that accept NodePorts, or None for all of them.

    Networks of the other family do not count, and none left means all (reference 3.5). The
    loopback address stands for its network; it serves only where ``loopback`` is true.
    """
    words = tuple(wanted)
    if "primary" in words:
        return (node_ip,) if node_ip else ()
    networks = of_family(_networks(words), family)
    if not networks or any(network.endswith("/0") for network in networks):
        return None
    candidates = {*local, *_LOOPBACK[family]}
    return tuple(
        sorted(
            address
            for address in candidates
            if family_of(address) is family
            and any(contains(network, address) for network in networks)
            and (loopback or not _is_loopback(address))
        )
    )


def _is_loopback(address: str) -> bool:
    return address == "::1" or address.startswith("127.")
