"""Read what ``iptables-save`` prints: our own chains, and what of others' rules concerns them.

A save holds all tables of one family. Other people's tables, chains and rules are passed over
unread, whatever they contain; of their rules only those that jump into our chains are kept.
"""

from __future__ import annotations

import msgspec

from netplane.core.iptables.layout import FILTER, KUBELET_CANARY, NAT, TABLES, Chains, owned
from netplane.core.iptables.rule import read_rule

_NO_LINE = "\n"  # what no line starts with

#: Packets and bytes of one rule.
Counters = tuple[int, int]


class ObservedTable(msgspec.Struct, frozen=True, kw_only=True):
    """What one table holds that concerns us.

    Attributes:
        chains: Ours, with their rules as printed.
        counters: Of those rules, in the same order; empty without ``iptables-save -c``.
        references: Rules of chains that are not ours which lead to a chain that is (by its name),
            in their order: our jumps, and anything somebody else put there.
        shared: The kubelet keeps its own chain here, so KUBE-FIREWALL is its chain as well.
    """

    chains: Chains = {}
    counters: dict[str, tuple[Counters, ...]] = {}
    references: tuple[str, ...] = ()
    shared: bool = False


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """What the kernel holds of ours in one family."""

    filter: ObservedTable = ObservedTable()
    nat: ObservedTable = ObservedTable()

    def table(self, name: str) -> ObservedTable:
        """The table of this name."""
        return self.filter if name == FILTER else self.nat

    def __bool__(self) -> bool:
        return bool(self.filter.chains or self.nat.chains)


class _Reading:
    """One table while it is read."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.chains: dict[str, list[str]] = {}
        self.counters: dict[str, list[Counters]] = {}
        self.references: list[str] = []
        self.shared = False

    def declare(self, line: str) -> None:
        """Read ``:CHAIN POLICY [packets:bytes]``."""
        name = line[1 : line.find(" ")]
        if name == KUBELET_CANARY:
            self.shared = True
        elif owned(self.name, name):
            self.chains[name] = []

    def add(self, line: str) -> list[str] | None:
        """Read ``[packets:bytes] -A CHAIN ...``, the counters being optional.

        Returns the rules of its chain, if that is ours.
        """
        counters = ""
        if line.startswith("["):
            counters, _, line = line.partition(" ")
        rules = self.chains.get(line[3 : line.find(" ", 3)])
        if rules is None:
            if "KUBE-" in line and owned(self.name, read_rule(line).target):
                self.references.append(line)
            return None
        rules.append(line)
        if counters:
            packets, _, size = counters[1:-1].partition(":")
            name = line[3 : line.find(" ", 3)]
            self.counters.setdefault(name, []).append((int(packets), int(size)))
        return rules

    def end(self) -> ObservedTable:
        """What has been read."""
        return ObservedTable(
            chains={name: tuple(rules) for name, rules in self.chains.items()},
            counters={name: tuple(values) for name, values in self.counters.items()},
            references=tuple(self.references),
            shared=self.shared,
        )


def parse_save(text: str) -> Observed:
    """Read the output of ``iptables-save``, with or without ``-c``.

    A table that is absent reads as empty. Lines of other tables, comments and anything unknown
    are passed over: a save may hold whatever its owner put there.
    """
    tables: dict[str, ObservedTable] = {}
    reading: _Reading | None = None
    prefix, rules = _NO_LINE, list[str]()
    # Not splitlines(): a foreign comment may hold characters that it takes for line ends.
    for line in text.split("\n"):
        # A chain's rules come in a row, and most of what there is to read are rules of ours.
        if line.startswith(prefix):
            rules.append(line)
            continue
        prefix = _NO_LINE
        start = line[:1]
        if start == "*":
            reading = _Reading(line[1:]) if line[1:] in TABLES else None
        elif reading is None:
            continue
        elif start in {"-", "["}:
            found = reading.add(line)
            if found is not None and start == "-":
                prefix, rules = line[: line.find(" ", 3) + 1], found
        elif start == ":":
            reading.declare(line)
        elif line == "COMMIT":
            tables[reading.name] = reading.end()
            reading = None
    empty = ObservedTable()
    return Observed(filter=tables.get(FILTER, empty), nat=tables.get(NAT, empty))
