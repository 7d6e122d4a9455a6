"""A Node as it travels into a Node to be used, with the problems of the parts left out."""

from __future__ import annotations

from netplane.core.model import wire
from netplane.core.model.address import canonical_address, canonical_network
from netplane.core.model.checks import check_subdomain
from netplane.core.model.names import is_label_value
from netplane.core.model.problem import Problem
from netplane.core.model.reasons import Reason, Refusals
from netplane.core.model.service import Node

ZONE_LABEL = "topology.kubernetes.io/zone"


def node_from(node: wire.Node) -> tuple[Node | None, tuple[Problem, ...]]:
    """The Node; a bad address, pod CIDR or zone is left out, a bad name refuses it."""
    meta = node.metadata or wire.ObjectMeta()
    name = meta.name or ""
    refusals = Refusals("Node", "", name)
    check_subdomain("metadata.name", name, refusals)
    if refusals.problems:
        return None, tuple(refusals.problems)
    zone = (meta.labels or {}).get(ZONE_LABEL) or ""
    if zone and not is_label_value(zone):
        refusals.add(f"metadata.labels[{ZONE_LABEL}]", zone, Reason.NOT_A_LABEL_VALUE)
        zone = ""
    whole = Node(
        name=name,
        zone=zone,
        addresses=_addresses(node.status or wire.NodeStatus(), refusals),
        pod_cidrs=_pod_cidrs(node.spec or wire.NodeSpec(), refusals),
    )
    return whole, tuple(refusals.problems)


def _addresses(status: wire.NodeStatus, refusals: Refusals) -> tuple[str, ...]:
    addresses: dict[str, None] = {}
    for index, entry in enumerate(status.addresses or ()):
        if entry.type not in {"InternalIP", "ExternalIP"}:
            continue
        address = canonical_address(entry.address or "")
        if address is None:
            field = f"status.addresses[{index}].address"
            refusals.add(field, entry.address, Reason.NOT_AN_ADDRESS)
        else:
            addresses[address] = None
    return tuple(addresses)


def _pod_cidrs(spec: wire.NodeSpec, refusals: Refusals) -> tuple[str, ...]:
    texts = [spec.pod_cidr] if spec.pod_cidr and not spec.pod_cidrs else spec.pod_cidrs or []
    networks: dict[str, None] = {}
    for index, text in enumerate(texts):
        network = canonical_network(text)
        if network is None:
            field = f"spec.podCIDRs[{index}]" if spec.pod_cidrs else "spec.podCIDR"
            refusals.add(field, text, Reason.NOT_A_NETWORK)
        else:
            networks[network] = None
    return tuple(networks)
