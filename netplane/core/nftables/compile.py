"""Plan to ruleset: which elements one service port is, and the table they make together.

``elements_of`` is the whole meaning of a service port in this mode; everything else here follows
from the elements. Per traffic case (reference sections 1.5, 2.5 and 3.4):

    ClusterIP                     services -> pick-N over endpoints
    external, policy Cluster      services -> masquerade-pick-N over endpoints
    external, policy Local        services -> external-local, which chooses by the client:
                                  cluster-choice -> pick-N over endpoints (pods, this node), or
                                  local-choice -> local-pick-N over local-endpoints (the rest)
    NodePort                      the same with the maps and chains called nodeport-*
    nobody answers                no-endpoints -> refuse or drop
    ClientIP affinity             sticky chains in the place of pick chains, for every frontend
"""

from __future__ import annotations

import functools
import ipaddress
from typing import NamedTuple

import jinja2

from netplane.core.nftables.layout import SETS, Elements, Key, Ruleset, Value, Values, Verdict
from netplane.core.nftables.names import affinity_name, sticky_name
from netplane.core.nftables.program import render_chains, render_program, with_room
from netplane.core.plan.node import FamilyView
from netplane.core.plan.plan import FamilyPlan
from netplane.core.plan.port import Backend, PortPlan

Element = tuple[str, Key, Value]

REFUSE = "refuse"
DROP = "drop"
COMMENT_BYTES = (
    127  # NFT_USERDATA of an element's comment, without the NUL (nft 1.0.6 refuses 128)
)


class _Maps(NamedTuple):
    """The maps of one kind of outside frontend, and the chains their verdicts lead to."""

    verdicts: str
    endpoints: str
    local_endpoints: str
    cluster_choice: str
    local_choice: str
    no_endpoints: str
    chains: str
    external_local: str


_ADDRESSED = _Maps(
    "services",
    "endpoints",
    "local-endpoints",
    "cluster-choice",
    "local-choice",
    "no-endpoints",
    "",
    "external-local",
)
_NODEPORT = _Maps(
    "nodeports",
    "nodeport-endpoints",
    "nodeport-local-endpoints",
    "nodeport-cluster-choice",
    "nodeport-local-choice",
    "no-endpoint-nodeports",
    "nodeport-",
    "nodeport-external-local",
)


def elements_of(port: PortPlan, view: FamilyView) -> list[Element]:
    """The elements of one service port, as (set name, key, value), data before verdicts.

    Several ports may ask for the same ``cluster-ips`` or ``hairpin`` element; any other element
    belongs to one port alone. Values of SLOTS maps are in sorted order, as from nothing.

    Args:
        port: What its traffic should do.
        view: The node in this family.
    """
    assert port.family is view.family
    return shared_elements(port) + own_elements(port)


def shared_elements(port: PortPlan) -> list[Element]:
    """The elements of a port that other ports may ask for, too; their value is None."""
    protocol = int(port.protocol)
    elements: list[Element] = [
        ("hairpin", (address, address, protocol, number), None) for address, number in port.here
    ]
    if port.cluster_ip:
        elements.append(("cluster-ips", (port.cluster_ip,), None))
    return elements


def own_elements(port: PortPlan) -> list[Element]:
    """The elements that belong to this port alone, data before verdicts."""
    protocol = int(port.protocol)
    label = _comment(port.label)
    elements: list[Element] = []
    if port.cluster_ip:
        _inside(elements, port, (port.cluster_ip, protocol, port.port), label)
    if port.load_balancer_ips and port.source_ranges:
        _source_ranges(elements, port, protocol)
    # An address may be listed both as an external IP and as a load balancer's.
    for address in dict.fromkeys(port.external_ips + port.load_balancer_ips):
        _outside(elements, port, (address, protocol, port.port), _ADDRESSED, label)
    if port.node_port:
        _outside(elements, port, (protocol, port.node_port), _NODEPORT, label)
    return elements


def compile_family(plan: FamilyPlan, environment: jinja2.Environment) -> Ruleset:
    """The ruleset of one family: a function of the plan and the templates alone."""
    view = plan.view
    elements: Elements = {layout.name: {} for layout in SETS}
    for address in view.node_port_addresses or ():
        elements["nodeport-ips"][(address,)] = None
    for port in plan.ports:
        for name, key, value in elements_of(port, view):
            elements[name][key] = value
    sticky = [port for port in plan.ports if port.affinity_seconds]
    return Ruleset(
        family=plan.family,
        program=render_program(view, environment),
        chains=render_chains(view, with_room(targets(elements)), sticky, environment),
        affinity_sets=frozenset(name for port in sticky for name in affinity_sets(port)),
        elements=elements,
    )


def targets(elements: Elements) -> set[str]:
    """The chains these elements' verdicts lead to, "drop" and the program's among them."""
    verdicts = [s.name for s in SETS if s.values is Values.VERDICT]
    return {
        v.chain for name in verdicts for v in elements[name].values() if isinstance(v, Verdict)
    }


def affinity_sets(port: PortPlan) -> list[str]:
    """The set of remembered clients of each endpoint of a port."""
    return [affinity_name(port, b) for b in port.reachable] if port.affinity_seconds else []


def _inside(elements: list[Element], port: PortPlan, key: Key, label: str) -> None:
    """The ClusterIP."""
    if not port.has_internal:
        elements.append(("no-endpoints", key, _nobody(port, label)))
        return
    backends = port.internal_backends
    if port.affinity_seconds:
        chain = sticky_name(port, "local-" if port.internal_local else "")
    else:
        elements.append(("endpoints", key, backends))
        chain = f"pick-{len(backends)}"
    elements.append(("services", key, Verdict(chain, label)))


def _outside(elements: list[Element], port: PortPlan, key: Key, maps: _Maps, label: str) -> None:
    """An external or load balancer address, or a NodePort."""
    if port.has_endpoints:
        if port.external_local:
            choice = _choice(elements, port, key, maps.endpoints, maps.chains, "", port.cluster)
            elements.append((maps.cluster_choice, key, Verdict(choice)))
            if port.local:
                local = maps.local_endpoints
                choice = _choice(elements, port, key, local, maps.chains, "local-", port.local)
                elements.append((maps.local_choice, key, Verdict(choice)))
            chain = maps.external_local
        else:
            chain = _choice(
                elements, port, key, maps.endpoints, maps.chains, "masquerade-", port.cluster
            )
        elements.append((maps.verdicts, key, Verdict(chain, label)))
    if not port.has_external:
        elements.append((maps.no_endpoints, key, _nobody(port, label)))


def _choice(  # noqa: PLR0913, PLR0917 (the loop of the hot path, flattened)
    elements: list[Element],
    port: PortPlan,
    key: Key,
    slots: str,
    prefix: str,
    kind: str,
    backends: tuple[Backend, ...],
) -> str:
    """Add what one choice among backends needs; returns the chain that makes it."""
    if port.affinity_seconds:
        return sticky_name(port, kind)  # knows its endpoints itself, whatever the frontend
    elements.append((slots, key, backends))
    return f"{prefix}{kind}pick-{len(backends)}"


def _nobody(port: PortPlan, label: str) -> Verdict:
    """Refuse where no endpoint exists, drop where only other nodes have one (policy Local)."""
    return Verdict(DROP if port.has_endpoints else REFUSE, label)


def _source_ranges(elements: list[Element], port: PortPlan, protocol: int) -> None:
    """Restrict the load balancer addresses to the ranges, even without endpoints."""
    vips = port.load_balancer_ips if port.vips_may_enter else ()
    ranges = allowed_ranges(port.source_ranges + vips)
    for vip in port.load_balancer_ips if ranges else ():
        elements.extend(
            ("allowed-sources", (vip, protocol, port.port, network), None) for network in ranges
        )
        elements.append(("restricted", (vip, protocol, port.port), None))


@functools.lru_cache(maxsize=1 << 12)
def allowed_ranges(networks: tuple[str, ...]) -> tuple[str, ...]:
    """Networks without overlaps, () where they amount to everybody.

    The kernel's concatenated interval sets refuse a range nested in another (EEXIST).
    """
    parsed = [ipaddress.ip_network(n) for n in networks]
    v4 = [n for n in parsed if isinstance(n, ipaddress.IPv4Network)]
    v6 = [n for n in parsed if isinstance(n, ipaddress.IPv6Network)]
    collapsed = [
        *map(str, ipaddress.collapse_addresses(v4)),
        *map(str, ipaddress.collapse_addresses(v6)),
    ]
    return () if any(n.endswith("/0") for n in collapsed) else tuple(collapsed)


def _comment(label: str) -> str:
    """A service port's label as an element's comment; labels are ASCII, one byte a character."""
    return label if len(label) <= COMMENT_BYTES else label[:COMMENT_BYTES]
