"""Compile the plan of one family into chains (reference sections 1.4 to 1.6).

What is wanted is decided here; how it is written stands in ``templates/iptables/``. kube-proxy's
large-cluster mode (no comments on endpoint rules past 1,000 endpoints) is left out on purpose: one
Service more would rewrite the chains of all others.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jinja2

from netplane.core.iptables.layout import (
    FIXED_CHAINS,
    TABLES,
    Ruleset,
    chain_of,
)
from netplane.core.iptables.names import EXT, FW, SVC, SVL, endpoint_chain, service_hash
from netplane.core.model.address import Family, host_network
from netplane.core.plan.node import DetectorKind, FamilyView, LocalDetector
from netplane.core.plan.plan import FamilyPlan
from netplane.core.plan.port import Backend, PortPlan


def compile_family(plan: FamilyPlan, environment: jinja2.Environment) -> Ruleset:
    """The chains for a family's plan, a function of the plan alone.

    Args:
        plan: Ports in plan order, which is also the order of their rules.
        environment: Finds ``iptables/*.j2`` and guards what they print.

    Raises:
        AssertionError: A rule would jump to a chain that is not there, or print foreign text:
            a bug, the plan or the template is wrong.
    """
    chains: dict[str, dict[str, list[str]]] = {
        table: {chain: [] for chain in FIXED_CHAINS[table]} for table in TABLES
    }
    template = environment.get_template("iptables/service-port.j2")
    texts = _NodeTexts.of(plan.view)
    groups = []
    for port in plan.ports:
        before = len(chains["nat"])
        _distribute(template.render(_service_port(port, texts)), chains)
        groups.append((before, len(chains["nat"])))
    # Last, because the way to the NodePorts must be the last rule of KUBE-SERVICES.
    fixed = environment.get_template("iptables/fixed-chains.j2")
    _distribute(fixed.render(_fixed(plan.view)), chains)
    names = tuple(chains["nat"])
    ruleset = Ruleset(
        family=plan.family,
        tables={
            table: {name: tuple(rules) for name, rules in chains[table].items()}
            for table in TABLES
        },
        jumps=compile_jumps(environment),
        groups=tuple(names[start:end] for start, end in groups if end > start),
    )
    _assert_targets_exist(ruleset)
    return ruleset


def compile_jumps(environment: jinja2.Environment) -> dict[str, tuple[str, ...]]:
    """The rules in built-in chains that lead to ours, by table, in the order of insertion."""
    jumps: dict[str, list[str]] = {table: [] for table in TABLES}
    table = ""
    for line in environment.get_template("iptables/jumps.j2").render().splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line:
            jumps[table].append(line)
    return {table: tuple(rules) for table, rules in jumps.items()}


class _NodeTexts(NamedTuple):
    """The parts of per-service rules that are the same for all service ports.

    Attributes:
        reject: Target of the rules that refuse.
        printed: What service-port.j2 prints as it is: ``inside`` matches traffic from this node's
            pods; ``outside_source`` and ``outside_interface`` are its opposite, in two because
            iptables-save prints sources before the destination and interfaces after it.
    """

    reject: str
    printed: dict[str, object]

    @classmethod
    def of(cls, view: FamilyView) -> _NodeTexts:
        v4 = view.family is Family.IPV4
        kind, value = view.detector.kind, view.detector.value
        match = _detector_match(view.detector)
        by_source = kind is DetectorKind.CLUSTER_CIDR
        # A network that holds every address: nobody is outside, and iptables-save prints no match.
        everyone = by_source and value.endswith("/0")
        outside = f" ! {match}" if match and not view.masquerade_all else ""
        return cls(
            reject=f"REJECT --reject-with {'icmp' if v4 else 'icmp6'}-port-unreachable",
            printed={
                "all_bits": "255.255.255.255" if v4 else ":".join(["ffff"] * 8),
                "masquerade": view.masquerade_all or (bool(match) and not everyone),
                "detects": bool(match),
                "inside": f" {match}" if match and not everyone else "",
                "outside_source": outside if by_source else "",
                "outside_interface": "" if by_source else outside,
            },
        )


def _detector_match(detector: LocalDetector) -> str:
    """The match for traffic from this node's pods, "" without a detector (reference 1.7)."""
    match detector.kind:
        case DetectorKind.NONE:
            return ""
        case DetectorKind.CLUSTER_CIDR:
            return f"-s {detector.value}"
        case DetectorKind.BRIDGE_INTERFACE:
            return f"-i {detector.value}"
        case DetectorKind.INTERFACE_PREFIX:
            return f"-i {detector.value}+"


def _fixed(view: FamilyView) -> dict[str, object]:
    """What fixed-chains.j2 prints."""
    localhost = view.localhost_node_ports and view.family is Family.IPV4
    addresses = view.node_port_addresses
    if addresses is not None:
        addresses = tuple(host_network(a) for a in addresses if localhost or not _is_loopback(a))
    return {
        "family": int(view.family),
        "mark": f"{view.masquerade_mark:#x}",
        "drop_invalid": view.drop_invalid,
        "localhost": localhost,
        "node_addresses": addresses,
    }


def _is_loopback(address: str) -> bool:
    return address == "::1" or address.startswith("127.")


def _service_port(port: PortPlan, texts: _NodeTexts) -> dict[str, object]:
    """What service-port.j2 prints of a service port: its names, frontends and endpoints."""
    label, protocol = port.label, port.protocol.text
    hashed = service_hash(label, protocol)
    svc, svl = SVC + hashed, SVL + hashed
    seps = {
        backend: (str(backend), endpoint_chain(label, protocol, str(backend)))
        for backend in port.reachable
    }
    return {
        **texts.printed,
        "label": label,
        "protocol": protocol,
        "cluster_ip": host_network(port.cluster_ip) if port.cluster_ip else "",
        "port": port.port,
        "node_port": port.node_port,
        "external_ips": tuple(map(host_network, port.external_ips)),
        "load_balancer_ips": tuple(map(host_network, port.load_balancer_ips)),
        "health_check_node_port": port.health_check_node_port,
        "external_local": port.external_local,
        "affinity_seconds": port.affinity_seconds,
        "svc": svc,
        **_refusals(port, texts.reject),
        **_destinations(port, svc, svl, hashed),
        "balancers": [
            (chain, _balanced(backends, seps))
            for chain, backends in ((svc, port.cluster), (svl, port.local))
            if backends
        ],
        "endpoints": [
            (text, sep, host_network(backend.address)) for backend, (text, sep) in seps.items()
        ],
    }


def _refusals(port: PortPlan, reject: str) -> dict[str, object]:
    """Who is refused in filter and how: reject without any endpoint, drop without a local one."""
    refusal = "DROP" if port.has_endpoints else reject
    inside = port.cluster_ip and not port.has_internal
    outside = port.externally_accessible and not port.has_external
    return {
        "refusal_reason": f"has no {'local ' if port.has_endpoints else ''}endpoints",
        "internal_refusal": refusal if inside else "",
        "external_refusal": refusal if outside else "",
    }


def _destinations(port: PortPlan, svc: str, svl: str, hashed: str) -> dict[str, object]:
    """Which chain each kind of frontend leads to; "" where that kind is not served."""
    outside = port.has_endpoints and port.externally_accessible
    restricted = port.has_endpoints and port.load_balancer_ips and port.source_ranges
    internal = svl if port.internal_local else svc
    external = svl if port.external_local else svc
    return {
        "internal_chain": internal if port.cluster_ip and port.has_internal else "",
        "external_chain": external if port.has_external else "",
        "ext": EXT + hashed if outside else "",
        "fw": FW + hashed if restricted else "",
        "sources": _sources(port) if restricted else (),
    }


def _sources(port: PortPlan) -> tuple[str, ...]:
    """The source matches a load balancer's firewall lets through; "" matches everyone.

    Where a range holds this node, its own connections to a load balancer address may carry that
    very address as their source, so the addresses are let through as well.
    """
    addresses = map(host_network, port.load_balancer_ips if port.vips_may_enter else ())
    return tuple(
        # iptables-save leaves out a match on the whole address space.
        "" if network.endswith("/0") else f" -s {network}"
        for network in (*port.source_ranges, *addresses)
    )


def _balanced(
    backends: tuple[Backend, ...], seps: dict[Backend, tuple[str, str]]
) -> list[tuple[str, str, str]]:
    """Per backend its text, its chain and its throw of the dice, "" for the last one."""
    left = len(backends)
    return [(*seps[backend], _dice(left - i)) for i, backend in enumerate(backends)]


@functools.lru_cache(maxsize=4096)
def _dice(left: int) -> str:
    """The match that takes one of ``left`` endpoints with equal chance.

    kube-proxy writes ten decimals, the kernel keeps 31 bits, iptables-save prints eleven decimals
    of those (libxt_statistic.c, lround).
    """
    if left == 1:
        return ""
    kept = round(float(f"{1 / left:.10f}") * (1 << 31))
    return f" -m statistic --mode random --probability {kept / (1 << 31):.11f}"


def _distribute(text: str, chains: dict[str, dict[str, list[str]]]) -> None:
    """Add the rules of rendered text to their chains."""
    of_table: dict[str, list[str]] = {}
    for line in text.split("\n"):
        if line.startswith("-A "):
            name = chain_of(line)
            rules = of_table.get(name)
            if rules is None:
                rules = of_table[name] = []
            rules.append(line)
        elif line.startswith("*"):
            of_table = chains[line[1:]]


def _assert_targets_exist(ruleset: Ruleset) -> None:
    """Every rule's target is a chain of the same table, or built in.

    ``iptables-restore --test`` misses an absent target on iptables-nft, so it is checked here.
    """
    for table, chains in ruleset.tables.items():
        for rules in chains.values():
            for rule in rules:
                target = rule[rule.rfind(" ") + 1 :]
                if target.startswith("KUBE-") and target not in chains and " -j " in rule:
                    raise AssertionError(f"{table}: no chain {target} for the rule {rule}")
