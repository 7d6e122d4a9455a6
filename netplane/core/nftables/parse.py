"""The text of ``nft list table`` to what it says: declarations, rules, typed elements, counters.

One listing carries all of it, from one moment; JSON has neither comments of tables nor rules in
nft's own form. Elements are read by one regular expression per set, from end to end: what it does
not take makes the set unreadable, never wrong.
"""

from __future__ import annotations

import functools
import re

from netplane.core.model.address import Family, host_network
from netplane.core.nftables.layout import (
    SETS,
    Elements,
    Key,
    Keys,
    SetLayout,
    Value,
    Values,
    Verdict,
)
from netplane.core.nftables.listing import read_listing
from netplane.core.nftables.observed import HOLE, Counters, Observed
from netplane.core.nftables.program import RECORD_CHAIN
from netplane.core.plan.port import Backend

AFFINITY_PREFIX = "affinity-"

_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132, "6": 6, "17": 17, "132": 132}
_ADDRESS = r"([0-9a-f.:]+)"
_PROTOCOL = r"(tcp|udp|sctp|6|17|132)"  # numbers where there is no /etc/protocols
_PORT = r"([0-9]+)"
_NETWORK = r"([0-9a-f.:]+(?:/[0-9]+)?)"
_KEYS = {
    Keys.FRONTEND: rf"{_ADDRESS} \. {_PROTOCOL} \. {_PORT}",
    Keys.PORT: rf"{_PROTOCOL} \. {_PORT}",
    Keys.ADDRESS: _ADDRESS,
    Keys.FLOW: rf"{_ADDRESS} \. {_ADDRESS} \. {_PROTOCOL} \. {_PORT}",
    Keys.SOURCE: rf"{_ADDRESS} \. {_PROTOCOL} \. {_PORT} \. {_NETWORK}",
}
_EXTRAS = r'(?: counter packets ([0-9]+) bytes [0-9]+)?(?: comment "([^"]*)")?'
_VALUES = {
    Values.NONE: "",
    Values.VERDICT: r" : ([a-z]+(?: [^ ,]+)?)",
    Values.SLOTS: rf" : {_ADDRESS} \. {_PORT}",
}
_LABEL = re.compile(r"[A-Za-z0-9._/:-]*")
#: How many fields of a key its pattern takes.
_FIELDS = {keys: re.compile(pattern).groups for keys, pattern in _KEYS.items()}
_HIGHEST_SLOT = 65535  # the map's key is declared as `numgen random mod 65536`


def parse_table(text: str, family: Family) -> Observed:
    """What the listing of our table says."""
    listing = read_listing(text)
    elements: Elements = {}
    counters: Counters = {}
    unreadable = set()
    for layout in SETS:
        entries: dict[Key, Value] = {}
        packets: dict[Key, tuple[int, ...]] = {}
        if not _read(layout, listing.bodies.get(layout.name, ""), entries, packets):
            unreadable.add(layout.name)
        elements[layout.name], counters[layout.name] = entries, packets
    affinity = {n: d for n, d in listing.sets.items() if n.startswith(AFFINITY_PREFIX)}
    return Observed(
        family=family,
        exists=True,
        lines=listing.lines,
        sets={n: d for n, d in listing.sets.items() if n not in affinity},
        chains={n: rules for n, rules in listing.chains.items() if n != RECORD_CHAIN},
        affinity_sets={name: _as_ours(lines, family) for name, lines in affinity.items()},
        others=listing.others,
        elements=elements,
        unreadable=frozenset(unreadable),
        counters=counters,
    )


def _read(
    layout: SetLayout, body: str, entries: dict[Key, Value], packets: dict[Key, tuple[int, ...]]
) -> bool:
    """Read the elements of one set; False where some are none of ours in form."""
    fields = _FIELDS[layout.keys]
    slots: dict[Key, dict[int, tuple[Backend, int]]] = {}
    position = 0
    for match in _pattern(layout.keys, layout.values).finditer(body):
        if match.start() != position:
            return False
        position = match.end()
        groups = match.groups()
        key = _key(layout.keys, groups)
        if layout.values is Values.SLOTS:
            slot, count, _, address, port = groups[fields:]
            backend = Backend(address, int(port))
            slots.setdefault(key, {})[int(slot)] = (backend, int(count or 0))
        else:
            count, comment, *verdict = groups[fields:]
            entries[key] = _verdict(verdict[0], comment or "") if verdict else None
            packets[key] = (int(count or 0),)
    for key, by_slot in slots.items():
        if not _take_slots(key, by_slot, entries, packets):
            return False
    return position == len(body)


def _take_slots(
    key: Key,
    by_slot: dict[int, tuple[Backend, int]],
    entries: dict[Key, Value],
    packets: dict[Key, tuple[int, ...]],
) -> bool:
    """Put one frontend's slots in their order; False where a slot is out of range."""
    size = max(by_slot) + 1
    if size > _HIGHEST_SLOT + 1:
        return False
    ordered = [by_slot.get(slot, (HOLE, 0)) for slot in range(size)]
    entries[key] = tuple(backend for backend, _ in ordered)
    packets[key] = tuple(count for _, count in ordered)
    return True


@functools.cache
def _pattern(keys: Keys, values: Values) -> re.Pattern[str]:
    slot = r" \. ([0-9]+)" if values is Values.SLOTS else ""
    return re.compile(rf"{_KEYS[keys]}{slot}{_EXTRAS}{_VALUES[values]}(?:,\s+|$)")


def _key(keys: Keys, groups: tuple[str, ...]) -> Key:
    """A key from what its pattern took."""
    match keys:
        case Keys.FRONTEND:
            return (groups[0], _PROTOCOLS[groups[1]], int(groups[2]))
        case Keys.PORT:
            return (_PROTOCOLS[groups[0]], int(groups[1]))
        case Keys.ADDRESS:
            return (groups[0],)
        case Keys.FLOW:
            return (groups[0], groups[1], _PROTOCOLS[groups[2]], int(groups[3]))
        case Keys.SOURCE:
            network = groups[3] if "/" in groups[3] else host_network(groups[3])
            return (groups[0], _PROTOCOLS[groups[1]], int(groups[2]), network)


def _verdict(text: str, comment: str) -> Verdict:
    """A verdict; a comment that is no label of ours (an element added by hand) is left out."""
    return Verdict(text.removeprefix("goto "), comment if _LABEL.fullmatch(comment) else "")


def _as_ours(declaration: tuple[str, ...], family: Family) -> bool:
    """Whether an affinity set is declared as ours are.

    It may have a timeout, which earlier versions gave it: that of the rules comes before it, and
    the clients in it are remembered.
    """
    lines = [line for line in declaration if not line.startswith("timeout ")]
    return lines == ["set", *affinity_declaration(family)]


def affinity_declaration(family: Family) -> tuple[str, ...]:
    """The lines of an affinity set's declaration; each client's time is given by the rules.

    The size is what nft gives a dynamic set without one: a limit on remembered clients, not
    memory that is taken. Beyond it a client is balanced anew.
    """
    address = "ipv4_addr" if family is Family.IPV4 else "ipv6_addr"
    return (f"type {address}", "size 65535", "flags dynamic,timeout")
