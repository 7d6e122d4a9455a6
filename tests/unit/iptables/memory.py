"""What iptables-restore does to chains, in memory, and where a packet goes through them."""

from __future__ import annotations

import functools
from typing import NamedTuple

from netplane.core.iptables.layout import FILTER, NAT, chain_of
from netplane.core.iptables.rule import Rule, read_rule
from netplane.core.model.address import contains

_BUILT_IN = {
    FILTER: ("INPUT", "FORWARD", "OUTPUT"),
    NAT: ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
}


class MemoryTables:
    """The tables of one family; ``restore`` takes one input, of each table all or nothing."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, list[str]]] = {
            table: {chain: [] for chain in chains} for table, chains in _BUILT_IN.items()
        }

    def restore(self, text: str) -> None:
        """Load ``iptables-restore --noflush`` input; AssertionError where the kernel refuses."""
        table = ""
        chains: dict[str, list[str]] = {}
        for line in text.splitlines():
            if line.startswith("*"):
                table = line[1:]
                chains = {name: list(rules) for name, rules in self.tables[table].items()}
            elif line == "COMMIT":
                _assert_consistent(chains)
                self.tables[table] = chains
            else:
                _execute(chains, line)

    def save(self) -> str:
        """What iptables-save prints."""
        lines = []
        for table, chains in self.tables.items():
            built_in = _BUILT_IN[table]
            users = sorted(chains.keys() - set(built_in))
            lines.append(f"*{table}")
            lines += [f":{chain} ACCEPT [0:0]" for chain in built_in]
            lines += [f":{chain} - [0:0]" for chain in users]
            lines += [rule for chain in (*built_in, *users) for rule in chains[chain]]
            lines.append("COMMIT")
        return "\n".join([*lines, ""])


def _execute(chains: dict[str, list[str]], line: str) -> None:
    verb, _, rest = line.partition(" ")
    rule = f"-A {rest}"
    if verb.startswith(":"):
        chains[verb[1:]] = []
    elif verb == "-A":
        chains[chain_of(line)].append(rule)
    elif verb == "-I":
        chain, place, *_ = rest.split(" ", 2)
        if place.isdigit():
            chains[chain].insert(int(place) - 1, rule.replace(f" {place}", "", 1))
        else:
            chains[chain].insert(0, rule)
    elif verb == "-D":
        chains[chain_of(line)].remove(rule)
    else:
        assert verb == "-X", line
        assert not chains.pop(rest), f"{rest} is not empty"


def _assert_consistent(chains: dict[str, list[str]]) -> None:
    for rules in chains.values():
        for rule in rules:
            target = rule.rpartition(" -j ")[2]
            assert " " in target or not target.startswith("KUBE-") or target in chains, rule


class Packet(NamedTuple):
    """The first packet of a connection, coming from outside this node."""

    source: str
    destination: str
    port: int


def answers(kernel: MemoryTables, packet: Packet) -> frozenset[str]:
    """What may become of a packet: endpoints ("10.0.0.1:80 snat" if masqueraded), or a refusal.

    Only the matches our rules have are known, and every throw of the dice is followed.
    """
    nat = kernel.tables[NAT]
    found = _translations(nat, "PREROUTING", packet)
    if found:
        return found
    chains = kernel.tables[FILTER]
    for line in chains["FORWARD"]:
        for refusal in chains.get(_read(line).target, ()):
            rule = _read(refusal)
            if rule.target in {"DROP", "REJECT"} and _matches(rule, packet):
                return frozenset({rule.target})
    return frozenset()


def _translations(nat: dict[str, list[str]], chain: str, packet: Packet) -> frozenset[str]:
    found: set[str] = set()
    mark = ""
    for line in nat[chain]:
        rule = _read(line)
        if not _matches(rule, packet):
            continue
        if rule.target == "DNAT":
            return frozenset({*found, f"{rule.options['--to-destination']}{mark}"})
        if rule.target == "KUBE-MARK-MASQ":
            mark = " snat"
        elif rule.target.startswith("KUBE-"):
            below = {_marked(text, mark) for text in _translations(nat, rule.target, packet)}
            found |= below
            if below and not {"--probability", "--rcheck"} & rule.options.keys():
                return frozenset(found)
    return frozenset(found)


def _marked(text: str, mark: str) -> str:
    return text if text.endswith(" snat") else f"{text}{mark}"


def _matches(rule: Rule, packet: Packet) -> bool:
    options = rule.options
    known = {
        "-m",
        "--comment",
        "-p",
        "-j",
        "--to-destination",
        "--mode",
        "--probability",
        "-s",
        "! -s",
        "-d",
        "! -d",
        "--dport",
        "--dst-type",
        "--src-type",
        "--set",
        "--rcheck",
        "--seconds",
        "--reap",
        "--name",
        "--mask",
        "--rsource",
        "--reject-with",
        "--ctstate",
        "--mark",
        "--set-xmark",
        "--random-fully",
        "! --mark",
    }
    assert options.keys() <= known, rule
    if "--ctstate" in options and options["--ctstate"] != "NEW":
        return False
    return (
        ("-s" not in options or contains(options["-s"], packet.source))
        and ("! -s" not in options or not contains(options["! -s"], packet.source))
        and ("-d" not in options or contains(options["-d"], packet.destination))
        and ("--dport" not in options or options["--dport"] == str(packet.port))
        and ("--dst-type" not in options or packet.destination == NODE)
        and "--src-type" not in options
    )


NODE = "192.168.0.1"  # the one address of the node packets come to


@functools.cache
def _read(line: str) -> Rule:
    return read_rule(line)
