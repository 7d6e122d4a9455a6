"""What the kernel holds, as text without counters: two reads are equal when the state is."""

from __future__ import annotations

import json
import re
from typing import Any

from netplane.apply.netns import Namespace
from netplane.apply.tools import find
from netplane.core.nftables.layout import TABLE
from netplane.core.nftables.program import RECORD_CHAIN
from tests.support.netns import run_tool

# What stands between two states that mean the same: packet counters, times, what expires.
_VOLATILE = (
    (re.compile(r"^#.*\n", re.MULTILINE), ""),
    (re.compile(r"\[\d+:\d+\]"), "[0:0]"),
    (re.compile(r"counter packets \d+ bytes \d+"), "counter"),
    (re.compile(r" expires [0-9a-z]+"), ""),
)


def ruleset(namespace: Namespace) -> str:
    """All rules of the namespace: nftables (with what iptables-nft keeps there) and legacy."""
    commands = [["nft", "list", "ruleset"]]
    commands += [
        [name] for name in ("iptables-legacy-save", "ip6tables-legacy-save") if find(name)
    ]
    return "\n".join(steady(run_tool(argv, inside=namespace)) for argv in commands)


def steady(listing: str) -> str:
    """A listing without what changes by itself."""
    for pattern, replacement in _VOLATILE:
        listing = pattern.sub(replacement, listing)
    return listing


def meaning(namespace: Namespace) -> dict[str, object]:
    """What the rules of both modes mean, in a form that is equal when they mean the same.

    Not compared: the order of chains and of a set's elements, which slot of a frontend an endpoint
    has (an endpoint keeps its slot when others come and go), counters and handles, which clients
    are remembered for their affinity, and what netplane notes for itself about its last write.
    """
    found: dict[str, object] = {}
    for program in ("iptables-save", "ip6tables-save"):
        found[program] = _tables(run_tool([program], inside=namespace))
    for family in ("ip", "ip6"):
        if f"table {family} {TABLE}" in run_tool(["nft", "list", "tables"], inside=namespace):
            argv = ["nft", "-j", "list", "table", family, TABLE]
            found[family] = _program(json.loads(run_tool(argv, inside=namespace)))
    return found


def _tables(save: str) -> dict[str, dict[str, list[str]]]:
    """What ``iptables-save`` prints: per table and chain its rules; empty built-ins left out."""
    tables: dict[str, dict[str, list[str]]] = {}
    name = ""
    for line in steady(save).splitlines():
        if line.startswith("*"):
            name = line[1:]
        elif line.startswith(":") and line.split()[1] == "-":
            tables.setdefault(name, {})[line[1:].split()[0]] = []
        elif line.startswith("-A"):
            _, chain, rule = line.split(" ", 2)
            tables.setdefault(name, {}).setdefault(chain, []).append(rule)
    return tables


def _program(listing: dict[str, Any]) -> dict[str, list[str]]:
    """What ``nft -j list table`` prints: per object its lines, rules in order, elements sorted."""
    found: dict[str, list[str]] = {}
    for item in listing["nftables"]:
        ((kind, body),) = item.items()
        if RECORD_CHAIN in {body.get("chain"), body.get("name")}:
            continue
        if kind == "rule":
            body = {"expr": body["expr"], "comment": body.get("comment")}
            found[f"chain {item['rule']['chain']}"].append(_text(body))
        elif kind in {"chain", "set", "map"}:
            elements = body.pop("elem", [])
            if "timeout" in body.get("flags", ()):
                elements = []
            slotted = body["name"].endswith("endpoints") and kind == "map"
            found[f"{kind} {body['name']}"] = [_text(body), *_elements(elements, slotted=slotted)]
    return found


def _elements(elements: list[Any], *, slotted: bool) -> list[str]:
    """Elements as sorted text; those with slots as one line for each frontend."""
    if not slotted:
        return sorted(_text(element) for element in elements)
    endpoints: dict[str, list[str]] = {}
    slots: dict[str, list[int]] = {}
    for key, value in elements:
        *frontend, slot = key.get("elem", {"val": key})["val"]["concat"]
        endpoints.setdefault(_text(frontend), []).append(_text(value))
        slots.setdefault(_text(frontend), []).append(slot)
    return sorted(
        f"{frontend}: slots {sorted(slots[frontend])}: {sorted(values)}"
        for frontend, values in endpoints.items()
    )


def _text(value: object) -> str:
    return json.dumps(_without_volatile(value), sort_keys=True)


def _without_volatile(value: object) -> object:
    if isinstance(value, dict):
        return {
            name: _without_volatile(part)
            for name, part in value.items()
            if name not in {"handle", "counter", "expires"}
        }
    return [_without_volatile(part) for part in value] if isinstance(value, list) else value
