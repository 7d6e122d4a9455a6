"""What the kernel holds, as text without counters: two reads are equal when the state is."""

from __future__ import annotations

import re

from netplane.apply.netns import Namespace
from tests.support.netns import run_tool

# What stands between two states that mean the same: packet counters, times, what expires.
_VOLATILE = (
    (re.compile(r"^#.*\n", re.MULTILINE), ""),
    (re.compile(r"\[\d+:\d+\]"), "[0:0]"),
    (re.compile(r"counter packets \d+ bytes \d+"), "counter"),
    (re.compile(r" expires [0-9a-z]+"), ""),
)


def ruleset(namespace: Namespace, *, legacy: bool = True) -> str:
    """All rules of the namespace: nftables (with what iptables-nft keeps there) and legacy."""
    commands = [["nft", "list", "ruleset"]]
    if legacy:
        commands += [["iptables-legacy-save"], ["ip6tables-legacy-save"]]
    return "\n".join(steady(run_tool(argv, inside=namespace)) for argv in commands)


def steady(listing: str) -> str:
    """A listing without what changes by itself."""
    for pattern, replacement in _VOLATILE:
        listing = pattern.sub(replacement, listing)
    return listing
