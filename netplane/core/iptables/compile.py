"""Compile the plan of one family into chains (reference sections 1.4 to 1.6).

What is wanted is decided here; how it is written stands in ``templates/iptables/``. kube-proxy's
large-cluster mode (no comments on endpoint rules past 1,000 endpoints) is left out on purpose: one
Service more would rewrite the chains of all others.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import jinja2

from netplane.core.iptables.layout import (
    FILTER,
    FIXED_CHAINS,
    NAT,
    TABLES,
    Chains,
    Ruleset,
    chain_of,
)
from netplane.core.iptables.names import EXT, FW, SVC, SVL, endpoint_chain, service_hash
from netplane.core.model.address import Family, host_network
from netplane.core.plan.node import DetectorKind, FamilyView, LocalDetector
from netplane.core.plan.plan import FamilyPlan
from netplane.core.plan.port import Backend, PortPlan

#: How many service ports are rendered at a time: enough to make the start of a template count for
#: nothing, few enough that their text takes little memory.
_BATCH = 256


class PortRules(NamedTuple):
    """The rules of one service port.

    Attributes:
        own: The chains of nat that are its alone, in the order of their first rules.
        nat: Its rules in the shared chains of nat, in order.
        filter: Its rules in the shared chains of filter, in order.
    """

    own: Chains
    nat: tuple[str, ...]
    filter: tuple[str, ...]


def compile_family(plan: FamilyPlan, environment: jinja2.Environment) -> Ruleset:
    """The chains for a family's plan, a function of the plan alone.

    Args:
        plan: Ports in plan order, which is also the order of their rules.
        environment: Finds ``iptables/*.j2`` and guards what they print.

    Raises:
        AssertionError: A rule would jump to a chain that is not there, or print foreign text:
            a bug, the plan or the template is wrong.
    """
    rules = compile_ports(plan.ports, plan.view, environment)
    return assemble(plan.family, rules, compile_fixed(plan.view, environment), environment)


def assemble(
    family: Family,
    ports: Iterable[PortRules],
    fixed: dict[str, list[str]],
    environment: jinja2.Environment,
) -> Ruleset:
    """Put a ruleset together.

    Args:
        family: Of all of it.
        ports: The rules of every service port, in plan order.
        fixed: What ``compile_fixed`` made.
        environment: Of rule templates.
    """
    shared: dict[str, dict[str, list[str]]] = {
        table: {chain: [] for chain in FIXED_CHAINS[table]} for table in TABLES
    }
    own: Chains = {}
    groups = []
    for rules in ports:
        own |= rules.own
        _add(shared[FILTER], rules.filter)
        _add(shared[NAT], rules.nat)
        if rules.own:
            groups.append(tuple(rules.own))
    # Last, because the way to the NodePorts must be the last rule of KUBE-SERVICES.
    for table in TABLES:
        _add(shared[table], fixed[table])
    tables: dict[str, Chains] = {
        table: {name: tuple(lines) for name, lines in shared[table].items()} for table in TABLES
    }
    tables[NAT] |= own
    return Ruleset(
        family=family, tables=tables, jumps=compile_jumps(environment), groups=tuple(groups)
    )


def _add(chains: dict[str, list[str]], rules: Iterable[str]) -> None:
    for rule in rules:
        chains[chain_of(rule)].append(rule)


def compile_ports(
    ports: Sequence[PortPlan], view: FamilyView, environment: jinja2.Environment
) -> Iterator[PortRules]:
    """The rules of each service port, in the order of ``ports``.

    Raises:
        AssertionError: A rule would print foreign text.
    """
    template = environment.get_template("iptables/service-port.j2")
    texts = _NodeTexts.of(view)
    for start in range(0, len(ports), _BATCH):
        batch = [_service_port(port, texts.reject) for port in ports[start : start + _BATCH]]
        text = template.render(texts.printed, ports=batch)
        yield from map(_port_rules, text.split("*filter\n")[1:])


def compile_fixed(view: FamilyView, environment: jinja2.Environment) -> dict[str, list[str]]:
    """By table, the rules of our chains that are there whatever the Services."""
    template = environment.get_template("iptables/fixed-chains.j2")
    return _by_table(template.render(_fixed(view)))


def compile_jumps(environment: jinja2.Environment) -> dict[str, tuple[str, ...]]:
    """The rules in built-in chains that lead to ours, by table, in the order of insertion."""
    rules = _by_table(environment.get_template("iptables/jumps.j2").render())
    return {table: tuple(rules[table]) for table in TABLES}


def _by_table(text: str) -> dict[str, list[str]]:
    """The rules of rendered text, by the table they stand under."""
    found: dict[str, list[str]] = {}
    for part in text.split("\n*"):
        table, *lines = part.removeprefix("*").split("\n")
        found[table] = [line for line in lines if line.startswith("-A ")]
    return found


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


class _ServicePort(NamedTuple):
    """What service-port.j2 prints of a service port.

    Attributes:
        refusal_reason: Why filter refuses somebody.
        internal_refusal: Target for clients of the ClusterIP that are refused, "" for none.
        external_refusal: The same for clients outside.
        internal_chain: Where the ClusterIP leads to, "" where it is not served.
        external_chain: Where clients outside are led to, "" where they are not served.
        svc, ext, fw: Names of chains; "" for the latter two where they are not needed.
        sources: Source matches that the firewall of the load balancer lets through.
        balancers: Chains that balance; per endpoint its text, its chain and its throw of the dice.
        endpoints: Text, chain and network of each.
    """

    label: str
    protocol: str
    cluster_ip: str
    number: int
    node_port: int
    external_ips: tuple[str, ...]
    load_balancer_ips: tuple[str, ...]
    health_check_node_port: int
    external_local: bool
    affinity_seconds: int
    refusal_reason: str
    internal_refusal: str
    external_refusal: str
    internal_chain: str
    external_chain: str
    svc: str
    ext: str
    fw: str
    sources: tuple[str, ...]
    balancers: list[tuple[str, list[tuple[str, str, str]]]]
    endpoints: list[tuple[str, str, str]]


def _service_port(port: PortPlan, reject: str) -> _ServicePort:
    """Which rules a service port needs, and what they say."""
    label, protocol = port.label, port.protocol.text
    hashed = service_hash(label, protocol)
    svc, svl = SVC + hashed, SVL + hashed
    seps = {
        backend: (text := str(backend), endpoint_chain(label, protocol, text))
        for backend in port.reachable
    }
    outside = port.externally_accessible
    restricted = port.has_endpoints and port.load_balancer_ips and port.source_ranges
    internal = bool(port.cluster_ip) and port.has_internal
    external = port.has_external
    # Without any endpoint clients are told; without a local one another node may serve them.
    refusal = "DROP" if port.has_endpoints else reject
    return _ServicePort(
        label=label,
        protocol=protocol,
        cluster_ip=host_network(port.cluster_ip) if port.cluster_ip else "",
        number=port.port,
        node_port=port.node_port,
        external_ips=tuple(map(host_network, port.external_ips)),
        load_balancer_ips=tuple(map(host_network, port.load_balancer_ips)),
        health_check_node_port=port.health_check_node_port,
        external_local=port.external_local,
        affinity_seconds=port.affinity_seconds,
        refusal_reason=f"has no {'local ' if port.has_endpoints else ''}endpoints",
        internal_refusal=refusal if port.cluster_ip and not internal else "",
        external_refusal=refusal if outside and not external else "",
        internal_chain=(svl if port.internal_local else svc) if internal else "",
        external_chain=(svl if port.external_local else svc) if external else "",
        svc=svc,
        ext=EXT + hashed if outside and port.has_endpoints else "",
        fw=FW + hashed if restricted else "",
        sources=_sources(port) if restricted else (),
        balancers=[
            (chain, _balanced(backends, seps))
            for chain, backends in ((svc, port.cluster), (svl, port.local))
            if backends
        ],
        endpoints=[
            (text, sep, host_network(backend.address)) for backend, (text, sep) in seps.items()
        ],
    )


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


def _port_rules(text: str) -> PortRules:
    """Sort out the rules of one service port.

    Raises:
        AssertionError: A rule would jump to a chain that is not there.
    """
    refusals, _, rules = text.partition("*nat\n")
    shared, *blocks = f"\n{rules}"[:-1].split("\n:")
    own: Chains = {}
    for block in blocks:
        chain, *found = block.split("\n")
        own[chain] = (*own[chain], *found) if chain in own else tuple(found)
    _assert_targets_exist(rules, own)
    return PortRules(
        own=own, nat=tuple(shared.split("\n")[1:]), filter=tuple(refusals.split("\n")[:-1])
    )


def _assert_targets_exist(rules: str, own: Chains) -> None:
    """Every chain that rules of a service port in nat lead to is its own, or always there.

    ``iptables-restore --test`` misses an absent target on iptables-nft, so it is checked here.
    """
    before, *rests = rules.split(" -j KUBE-")
    for rest in rests:
        target = "KUBE-" + rest[: rest.find("\n")]
        if target not in own and target not in FIXED_CHAINS[NAT]:
            raise AssertionError(f"no chain {target} for the rule {before.splitlines()[-1]}")
        before = rest
