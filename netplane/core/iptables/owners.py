"""Each Service's rules as the kernel has them: what stays in place where new ones are refused."""

from __future__ import annotations

from collections.abc import Iterable

from netplane.core.iptables.compile import PortRules
from netplane.core.iptables.layout import FILTER, FIXED_CHAINS, NAT, TABLES, Chains
from netplane.core.iptables.names import PREFIXES
from netplane.core.iptables.parse import Observed
from netplane.core.iptables.rule import read_rule
from netplane.core.model.service import ServiceName


def by_service(observed: Observed) -> dict[ServiceName, PortRules]:
    """The rules in shared chains that name a Service, and the chains those lead to."""
    found: dict[ServiceName, dict[str, list[str]]] = {}
    for table in TABLES:
        chains = observed.table(table).chains
        for chain in FIXED_CHAINS[table]:
            for line in chains.get(chain, ()):
                namespace, _, port = read_rule(line).label.partition("/")
                if port:
                    name = ServiceName(namespace, port.partition(":")[0])
                    found.setdefault(name, {t: [] for t in TABLES})[table].append(line)
    return {
        name: PortRules(
            own=_reached(rules[NAT], observed.nat.chains),
            nat=tuple(rules[NAT]),
            filter=tuple(rules[FILTER]),
        )
        for name, rules in found.items()
    }


def same(held: PortRules | None, ports: Iterable[PortRules]) -> bool:
    """Whether a Service's rules are those of its ports, each chain for itself."""
    own: Chains = {}
    nat: list[str] = []
    refusals: list[str] = []
    for port in ports:
        own |= port.own
        nat += port.nat
        refusals += port.filter
    if held is None:
        return not (own or nat or refusals)
    return (held.own, sorted(held.nat), sorted(held.filter)) == (
        own,
        sorted(nat),
        sorted(refusals),
    )


def _reached(rules: Iterable[str], chains: Chains) -> Chains:
    """The per-service chains rules lead to, directly or not."""
    found: Chains = {}
    ahead = list(rules)
    while ahead:
        target = read_rule(ahead.pop()).target
        if target.startswith(PREFIXES) and target in chains and target not in found:
            found[target] = chains[target]
            ahead += chains[target]
    return found
