"""Read chains back into the plan's words: whose they are, what they serve.

Everything is taken from the rules alone, so it holds for chains of an earlier run or of a
kube-proxy as well: from comments, which carry the service port's label, from the protocol, and
from the chains rules lead to.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from netplane.core.iptables.layout import (
    FILTER,
    KUBE_EXTERNAL_SERVICES,
    KUBE_NODEPORTS,
    KUBE_SERVICES,
    NAT,
    Chains,
)
from netplane.core.iptables.names import EXT, FW, SEP, SVC, SVL, service_hash
from netplane.core.iptables.rule import Rule, read_rule
from netplane.core.model.address import join_host_port

CLUSTER_IP = "ClusterIP"
NODE_PORT = "NodePort"
EXTERNAL = "External"

BALANCE = "balance"
REJECT = "reject"
DROP = "drop"

_PROTOCOLS = ("tcp", "udp", "sctp")
_SERVICE_CHAINS = (SVC, SVL, EXT, FW)


class PortKey(NamedTuple):
    """A service port as rules name it: ``default/web:http`` and ``tcp``."""

    label: str
    protocol: str


class Frontend(NamedTuple):
    """Where clients connect; ``address`` is "" for a NodePort."""

    kind: str
    address: str
    port: int

    def text(self, protocol: str) -> str:
        """``ClusterIP 172.30.0.10:80/tcp``."""
        where = join_host_port(self.address, self.port) if self.address else f":{self.port}"
        return f"{self.kind} {where}/{protocol}"


class FrontendRule(NamedTuple):
    """A rule that decides about a frontend; ``place`` is its index in its chain."""

    key: PortKey
    frontend: Frontend
    verdict: str
    target: str
    chain: str
    place: int


#: The chains with frontend rules, nat before filter: where both have one, filter's verdict holds
#: for clients outside (the policy Local without a local endpoint).
_FRONTEND_CHAINS = (
    (NAT, KUBE_SERVICES),
    (NAT, KUBE_NODEPORTS),
    (FILTER, KUBE_SERVICES),
    (FILTER, KUBE_EXTERNAL_SERVICES),
)


def frontend_rules(tables: dict[str, Chains]) -> Iterator[FrontendRule]:
    """Every rule that decides about a frontend, those of nat first."""
    for table, chain in _FRONTEND_CHAINS:
        for place, line in enumerate(tables[table].get(chain, ())):
            rule = read_rule(line)
            label = rule.label
            if not label or not rule.options.get("--dport", "").isdigit():
                continue
            key = PortKey(label, rule.options.get("-p", ""))
            frontend = _frontend(chain, rule)
            verdict = _VERDICTS.get(rule.target, BALANCE)
            yield FrontendRule(key, frontend, verdict, rule.target, chain, place)


_VERDICTS = {"REJECT": REJECT, "DROP": DROP}


def _frontend(chain: str, rule: Rule) -> Frontend:
    address = rule.options.get("-d", "").partition("/")[0]
    if not address:
        kind = NODE_PORT
    elif chain == KUBE_SERVICES and not rule.comment.endswith(
        (" external IP", " loadbalancer IP")
    ):
        kind = CLUSTER_IP
    else:
        kind = EXTERNAL
    return Frontend(kind, address, int(rule.options["--dport"]))


def frontends(tables: dict[str, Chains]) -> dict[PortKey, dict[Frontend, str]]:
    """By service port its frontends, each with its verdict for outside clients."""
    found: dict[PortKey, dict[Frontend, str]] = {}
    for rule in frontend_rules(tables):
        found.setdefault(rule.key, {})[rule.frontend] = rule.verdict
    return found


def balancers(key: PortKey) -> tuple[str, str]:
    """The chains that balance over a service port's endpoints, present or not."""
    hashed = service_hash(*key)
    return SVC + hashed, SVL + hashed


def endpoint_chains(rules: tuple[str, ...]) -> tuple[str, ...]:
    """The endpoint chains a balancing chain leads to, each once, in order."""
    targets = (rule[rule.rfind(" ") + 1 :] for rule in rules if f" -j {SEP}" in rule)
    return tuple(dict.fromkeys(targets))


def endpoint_of(chain: tuple[str, ...]) -> str:
    """The endpoint an endpoint chain translates to, ``10.0.0.1:80``; "" where it does not."""
    for rule in reversed(chain):
        _, found, endpoint = rule.rpartition(" -j DNAT --to-destination ")
        if found:
            return endpoint.partition(" ")[0]
    return ""


def endpoints(key: PortKey, nat: Chains) -> frozenset[str]:
    """The endpoints a service port's balancing chains lead to."""
    seps = (sep for chain in balancers(key) for sep in endpoint_chains(nat.get(chain, ())))
    return frozenset(text for sep in seps if (text := endpoint_of(nat.get(sep, ()))))


def owner(chain: str, rules: tuple[str, ...]) -> PortKey | None:
    """The service port a per-service chain belongs to, as far as its rules tell.

    Its comments name the label. An endpoint chain's rules name the protocol too; for the others
    the one that makes their hash is the right one.
    """
    for line in rules:
        rule = read_rule(line)
        label = rule.label
        if chain.startswith(SEP):
            if label and "-p" in rule.options:
                return PortKey(label, rule.options["-p"])
        elif label and label.isascii():
            hashed = chain.rpartition("-")[2]
            for protocol in _PROTOCOLS:
                if service_hash(label, protocol) == hashed:
                    return PortKey(label, protocol)
    return None


def affinity_seconds(key: PortKey, nat: Chains) -> int:
    """How long a service port remembers its clients, 0 for not at all."""
    for chain in balancers(key):
        for line in nat.get(chain, ()):
            if " -m recent --rcheck --seconds " in line:
                seconds = read_rule(line).options.get("--seconds", "")
                return int(seconds) if seconds.isdigit() else 0
    return 0


def source_ranges(key: PortKey, nat: Chains) -> frozenset[str]:
    """The sources a service port's load balancer firewall lets through."""
    rules = map(read_rule, nat.get(FW + service_hash(*key), ()))
    return frozenset(rule.options.get("-s", "everyone") for rule in rules if rule.target)
