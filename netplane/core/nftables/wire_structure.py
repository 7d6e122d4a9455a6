"""What a table is besides its elements, as the kernel tells it: declarations, chains and rules.

nft's text of it costs a process that reads every element first. The kernel's own bytes do not say
what a rule means, but they say whether it is still the one that was installed: netplane leaves a
*record* in the table (``core.nftables.record``) with a digest of these bytes. Pick chains come and
go with the Services; they stand outside of the digest and are compared with the messages that make
them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from netplane.core.model.address import Family
from netplane.core.nftables.program import RECORD_CHAIN, Pick
from netplane.core.nftables.record import Record, digest, read_record
from netplane.core.nftables.wire import (
    NFGEN_SIZE,
    TABLE_ATTRIBUTE,
    attribute,
    attributes,
    read_number,
    read_text,
)
from netplane.core.nftables.wire_rules import (
    NFTA_CHAIN_NAME,
    NFTA_EXPR_DATA,
    NFTA_EXPR_NAME,
    NFTA_RULE_CHAIN,
    NFTA_RULE_EXPRESSIONS,
    NFTA_RULE_USERDATA,
    new_rule,
)
from netplane.errors import WireError

_TABLE_USE: Final = 3
_SET_NAME: Final = 2
_SET_FLAGS: Final = 3
_SET_ANONYMOUS: Final = 1  # NFT_SET_ANONYMOUS
_LOOKUP_SET: Final = 1
_LIST_ELEMENTS: Final = 3

# What of each object enters the digest. Left out is what moves by itself (how often a chain is
# used, how many elements a set has) and what is another in every installation (handles).
_OF_TABLE: Final = frozenset({2, 6})  # flags, userdata
_OF_CHAIN: Final = frozenset({3, 4, 5, 7, 9, 12})  # name, hook, policy, type, flags, userdata
_OF_RULE: Final = frozenset({2, 4, 7})  # chain, expressions, userdata
_OF_SET: Final = frozenset({2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 17, 18})  # name, ..., expressions

# What a kernel adds to the expressions of a pick chain's rule: (name, attribute) to the attribute
# it repeats, or to its bytes.
_ADDED: Final[Mapping[str, Mapping[int, int | bytes]]] = {
    "lookup": {5: bytes(4)},  # NFTA_LOOKUP_FLAGS
    # NFTA_NAT_REG_ADDR_MAX, NFTA_NAT_REG_PROTO_MAX, NFTA_NAT_FLAGS: both are mapped.
    "nat": {4: 3, 6: 5, 7: bytes((0, 0, 0, 3))},
}

Expression = tuple[str, dict[int, bytes]]


class Replies(NamedTuple):
    """The kernel's messages about one table, each from its ``nfgenmsg`` on.

    ``anonymous`` has the elements of anonymous sets by name: the messages of their dumps.
    """

    table: bytes
    chains: Sequence[bytes]
    rules: Sequence[bytes]
    sets: Sequence[bytes]
    anonymous: Mapping[str, Sequence[bytes]]


class Structure(NamedTuple):
    """A table's structure.

    Attributes:
        digest: Of everything but the pick chains and the record.
        recorded: What the record says; None where there is none.
        has_record: Whether there is a chain of that name at all.
        foreign: It holds objects of kinds we never make: a counter with a name, a flowtable.
        picks: The rules of each pick chain, as expressions; None for a rule with a comment.
    """

    digest: str
    recorded: Record | None
    has_record: bool
    foreign: bool
    picks: dict[str, list[list[Expression] | None]]


def anonymous_sets(sets: Iterable[bytes]) -> list[str]:
    """The names of the anonymous sets among NEWSET messages: their elements are part of rules."""
    found = []
    for body in sets:
        parts = _parts(body)
        flags = parts.get(_SET_FLAGS, bytes(4))
        if read_number(flags, 0, len(flags)) & _SET_ANONYMOUS:
            found.append(_name(parts.get(_SET_NAME, b"")))
    return found


def read_structure(replies: Replies) -> Structure:
    """What the kernel's messages say.

    Raises:
        WireError: They are not messages about a table.
    """
    contents = {name: _contents(bodies) for name, bodies in replies.anonymous.items()}
    lines = [_canonical(_parts(replies.table), _OF_TABLE)]
    for body in replies.sets:
        parts = _parts(body)
        if _name(parts.get(_SET_NAME, b"")) not in contents:
            lines.append(b"set" + _canonical(parts, _OF_SET))
    names = []
    for body in replies.chains:
        parts = _parts(body)
        names.append(name := _name(parts.get(NFTA_CHAIN_NAME, b"")))
        if Pick.parse(name) is None and name != RECORD_CHAIN:
            lines.append(b"chain" + _canonical(parts, _OF_CHAIN))
    picks: dict[str, list[list[Expression] | None]] = {n: [] for n in names if Pick.parse(n)}
    recorded = None
    order: Counter[str] = Counter()
    for body in replies.rules:
        parts = _parts(body)
        chain = _name(parts.get(NFTA_RULE_CHAIN, b""))
        if chain == RECORD_CHAIN:
            recorded = read_record(parts.get(NFTA_RULE_USERDATA, b""))
        elif chain in picks:
            picks[chain].append(_pick_rule(parts))
        else:
            order[chain] += 1
            place = f"rule {order[chain]:08} ".encode()
            lines.append(_rule(parts, contents, place))
    # A table counts its chains, sets, objects and flowtables; an anonymous set is its rule's.
    ours = len(names) + len(replies.sets) - len(contents)
    return Structure(
        digest=digest(sorted(lines)),
        recorded=recorded,
        has_record=RECORD_CHAIN in names,
        foreign=_number_in(replies.table, _TABLE_USE) != ours,
        picks=picks,
    )


def same_picks(
    family: Family,
    found: Mapping[str, list[list[Expression] | None]],
    chains: Mapping[str, tuple[str, ...]],
) -> bool:
    """Whether the kernel's pick chains are exactly these, rule by rule.

    Args:
        family: Of the table.
        found: As ``Structure.picks`` has them.
        chains: The chains by name, each its rules as nft lists them.
    """
    if found.keys() != chains.keys():
        return False
    return all(
        found[name] == [_expected(family, name, rule) for rule in rules]
        for name, rules in chains.items()
    )


def table_of_body(body: bytes) -> bytes:
    """The attribute that names the table of a message; every object's first one is its table."""
    return body[NFGEN_SIZE : NFGEN_SIZE + len(TABLE_ATTRIBUTE)]


def chain_of(body: bytes) -> str:
    """The name in a NEWCHAIN message."""
    return _name(_parts(body).get(NFTA_CHAIN_NAME, b""))


def record_in(body: bytes) -> Record | None:
    """The record, in a NEWRULE message of the chain that has it; None in any other's."""
    parts = _parts(body)
    if table_of_body(body) != TABLE_ATTRIBUTE or _name(parts[NFTA_RULE_CHAIN]) != RECORD_CHAIN:
        return None  # the kernel was asked for this chain alone, older ones tell all
    return read_record(parts.get(NFTA_RULE_USERDATA, b""))


def _number_in(body: bytes, kind: int) -> int:
    """A 32-bit number among a message's attributes; 0 where there is none."""
    raw = _parts(body).get(kind)
    return 0 if raw is None else read_number(raw, 0, len(raw))


def _parts(body: bytes) -> dict[int, bytes]:
    """The attributes of a message."""
    if len(body) < NFGEN_SIZE:
        raise WireError("half a netfilter header", len(body))
    return {kind: body[a:b] for kind, a, b in attributes(body, NFGEN_SIZE, len(body))}


def _name(raw: bytes) -> str:
    return read_text(raw, 0, len(raw))


def _canonical(parts: dict[int, bytes], kinds: frozenset[int]) -> bytes:
    """Those attributes that matter, in order, so that no two lists look alike."""
    return b"".join(attribute(kind, parts[kind]) for kind in sorted(kinds & parts.keys()))


def _contents(bodies: Iterable[bytes]) -> bytes:
    """The elements of an anonymous set, in an order of their own."""
    found = [
        body[a:b]
        for body in bodies
        for kind, start, end in attributes(body, NFGEN_SIZE, len(body))
        if kind == _LIST_ELEMENTS
        for _, a, b in attributes(body, start, end)
    ]
    return b"".join(attribute(0, element) for element in sorted(found))


def _rule(parts: dict[int, bytes], contents: Mapping[str, bytes], place: bytes) -> bytes:
    """One rule; an anonymous set stands for its elements: its name is another each time."""
    raw = parts.get(NFTA_RULE_EXPRESSIONS, b"")
    if contents and b"\0__" in raw:
        resolved = b""
        for name, fields in _expressions(raw):
            looked = _name(fields.get(_LOOKUP_SET, b"")) if name == "lookup" else ""
            if looked in contents:
                fields[_LOOKUP_SET] = contents[looked]
            resolved += name.encode() + _canonical(fields, frozenset(fields))
        parts[NFTA_RULE_EXPRESSIONS] = resolved
    chain = parts.get(NFTA_RULE_CHAIN, b"")
    return chain + place + _canonical(parts, _OF_RULE)


def _expressions(raw: bytes) -> list[Expression]:
    """A rule's expressions: each its name and its attributes."""
    found: list[Expression] = []
    for _, start, end in attributes(raw, 0, len(raw)):
        name, fields = "", {}
        for kind, a, b in attributes(raw, start, end):
            if kind == NFTA_EXPR_NAME:
                name = read_text(raw, a, b)
            elif kind == NFTA_EXPR_DATA:
                fields = {field: raw[c:d] for field, c, d in attributes(raw, a, b)}
        found.append((name, fields))
    return found


def _pick_rule(parts: dict[int, bytes]) -> list[Expression] | None:
    if NFTA_RULE_USERDATA in parts:
        return None
    return _expressions(parts.get(NFTA_RULE_EXPRESSIONS, b""))


def _expected(family: Family, chain: str, rule: str) -> list[Expression]:
    """A rule of a pick chain as the kernel tells it, () of a form that ours never have."""
    message = new_rule(family, chain, rule)
    if message is None:
        return []
    raw = message.attributes
    parts = {kind: raw[a:b] for kind, a, b in attributes(raw, 0, len(raw))}
    expressions = _expressions(parts[NFTA_RULE_EXPRESSIONS])
    for name, fields in expressions:
        for kind, value in _ADDED.get(name, {}).items():
            fields[kind] = fields[value] if isinstance(value, int) else value
    return expressions
