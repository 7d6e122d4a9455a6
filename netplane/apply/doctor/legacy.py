"""Counting rules in legacy iptables tables, through python-iptables, in a process of its own.

python-iptables loads the C libraries of iptables into the process, which print to stderr and may
abort; and opening a legacy table instantiates it in the namespace for good. So a child process,
started inside the namespace, opens only tables that exist already.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from netplane.apply.foreign import legacy_tables
from netplane.apply.netns import Namespace
from netplane.apply.tools import run
from netplane.errors import ToolError

_LISTINGS = {"IPv4": "ip_tables_names", "IPv6": "ip6_tables_names"}
_SECONDS = 60.0
_CHILD = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from netplane.apply.doctor.legacy import main; main(sys.argv[1:])"
)


class LegacyTable(msgspec.Struct, frozen=True, kw_only=True):
    """What a legacy table holds.

    Attributes:
        family: ``IPv4`` or ``IPv6``.
        rules: How many rules.
        kube: How many of them are in chains named ``KUBE-...``.
        dropping: Built-in chains whose policy is DROP.
    """

    family: str
    name: str
    rules: int = 0
    kube: int = 0
    dropping: tuple[str, ...] = ()


def legacy_rules(namespace: Namespace) -> tuple[LegacyTable, ...]:
    """The legacy tables that exist in a namespace, and how many rules each has.

    Raises:
        ToolError: They cannot be read.
    """
    wanted = [
        f"{family}:{table}"
        for family, listing in _LISTINGS.items()
        for table in legacy_tables(namespace, listing)
    ]
    if not wanted:
        return ()
    root = str(Path(__file__).parents[2])
    done = run(namespace, [sys.executable, "-P", "-c", _CHILD, root, *wanted], timeout=_SECONDS)
    if done.status != 0:
        last = done.stderr.strip().rpartition("\n")[2]
        raise ToolError(f"legacy iptables tables cannot be read (exit {done.status}): {last}")
    return msgspec.json.decode(done.stdout, type=tuple[LegacyTable, ...])


def _count(family: str, name: str) -> LegacyTable:
    """Read one table; runs in the child."""
    import iptc

    table = (iptc.Table if family == "IPv4" else iptc.Table6)(name, autocommit=False)
    counts = {chain.name: len(chain.rules) for chain in table.chains}
    return LegacyTable(
        family=family,
        name=name,
        rules=sum(counts.values()),
        kube=sum(count for chain, count in counts.items() if chain.startswith("KUBE-")),
        dropping=tuple(
            chain.name
            for chain in table.chains
            if table.builtin_chain(chain) and chain.get_policy().name == "DROP"
        ),
    )


def main(wanted: list[str]) -> None:
    """The child: read the tables named ``IPv4:nat``..., print them as JSON, and end."""
    found = [_count(*text.split(":", 1)) for text in wanted]
    sys.stdout.buffer.write(msgspec.json.encode(found))
    sys.stdout.buffer.flush()
    # Its destructors call into C libraries that are being unloaded; there is nothing to tidy up.
    os._exit(0)
