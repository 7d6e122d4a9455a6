"""A change that takes nft, cut into what is written one after the other, by netlink and by nft.

A packet that is on its way while one transaction does it all could be led by what it has seen
before to what is gone, or not there yet for it (``wire_transactions``). Rules are safe: a packet
keeps to those of the generation it began with, in every chain. So the program may change in one
transaction; but elements that go by what the program or other elements have said go after it.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from netplane.core.nftables.diff import Delta, ElementDelta
from netplane.core.nftables.layout import SETS
from netplane.core.nftables.listing import read_listing
from netplane.core.nftables.program import Pick
from netplane.core.nftables.wire_transactions import parted


class Stages(NamedTuple):
    """The parts of a delta, in the order they are written.

    Attributes:
        picks: By netlink: pick chains.
        come: By nft: chains and sets of clients, and a table that is new.
        turn: By nft: the program, and what has to change with it.
        lead: By netlink: elements, and chains that go.
        gone: By nft: sets of clients that nothing uses any more.
    """

    picks: Delta
    come: Delta
    turn: Delta
    lead: Delta
    gone: Delta

    @classmethod
    def of(cls, delta: Delta) -> Stages:
        """Cut a delta."""
        nothing = Delta(family=delta.family)
        if delta.create:
            come, lead = _made_by_nft(delta)
            return cls(nothing, come, nothing, lead, nothing)
        if delta.delete_table:
            return cls(nothing, nothing, delta, nothing, nothing)
        picks, rest = _picks_apart(delta)
        if _at_once(rest):
            return cls(picks, nothing, rest, nothing, nothing)
        return cls(picks, *_staged(rest))


def _picks_apart(delta: Delta) -> tuple[Delta, Delta]:
    """The pick chains that an existing table gets, and the rest.

    nft 1.0.6 cannot add a rule that uses a map declared with ``typeof ... th dport`` once the
    kernel has the map: it reads the type back as a payload that needs a protocol, and says
    "conflicting protocols specified: ip vs. th". With ``tcp dport`` it would silently make a rule
    for TCP alone. So these chains go through netlink, and where the rest needs nft they go
    first: until a verdict leads to them no packet sees them.
    """
    picks = {name: rules for name, rules in delta.chains.items() if Pick.parse(name)}
    first = Delta(
        family=delta.family,
        flush_chains=tuple(name for name in delta.flush_chains if name in picks),
        chains=picks,
    )
    rest = msgspec.structs.replace(
        delta,
        flush_chains=tuple(name for name in delta.flush_chains if name not in picks),
        chains={name: rules for name, rules in delta.chains.items() if name not in picks},
    )
    return first, rest


def _made_by_nft(delta: Delta) -> tuple[Delta, Delta]:
    """The part of a new table that only nft can translate, and the rest, which follows it.

    Without elements the program serves nobody and refuses nobody.
    """
    picks = {name: rules for name, rules in delta.chains.items() if Pick.parse(name)}
    by_nft = msgspec.structs.replace(
        delta,
        chains={name: rules for name, rules in delta.chains.items() if name not in picks},
        elements={},
    )
    return by_nft, Delta(family=delta.family, chains=picks, elements=delta.elements)


def _at_once(delta: Delta) -> bool:
    """Whether a change cannot be cut, because somebody else has been at the table.

    A set that is declared in another way is made anew under its name; one that holds what we
    cannot read is emptied and filled.
    """
    made_anew = set(delta.add_affinity_sets).intersection(delta.delete_affinity_sets)
    emptied = any(change.flush for change in delta.elements.values())
    return bool(made_anew or (delta.program and emptied))


def _staged(delta: Delta) -> tuple[Delta, Delta, Delta, Delta]:
    """What comes, what turns with the program, what leads there or not any more, what goes.

    Without a program, chains are written anew with those that come. With one they turn with it,
    for they may set the same mark, and so do elements that come or are replaced: which addresses
    accept NodePorts is said by the program and its set together.
    """
    kept = {*delta.chains, *read_listing(delta.program).chains}
    anew = tuple(name for name in delta.flush_chains if name in kept)
    ended = tuple(name for name in delta.flush_chains if name not in kept)
    turn = Delta(family=delta.family)
    chains, flushed, leaving = delta.chains, anew, delta.elements
    if delta.program:
        arriving, leaving = _elements_apart(delta)
        turn = Delta(
            family=delta.family,
            program=delta.program,
            flush_chains=anew,
            chains={name: rules for name, rules in chains.items() if name in anew},
            elements=arriving,
        )
        chains = {name: rules for name, rules in chains.items() if name not in anew}
        flushed = ()
    come = Delta(
        family=delta.family,
        flush_chains=flushed,
        add_affinity_sets=delta.add_affinity_sets,
        chains=chains,
    )
    lead = Delta(
        family=delta.family,
        flush_chains=ended,
        delete_chains=delta.delete_chains,
        elements=leaving,
    )
    gone = Delta(family=delta.family, delete_affinity_sets=delta.delete_affinity_sets)
    return come, turn, lead, gone


def _elements_apart(delta: Delta) -> tuple[dict[str, ElementDelta], dict[str, ElementDelta]]:
    """Elements that come or are replaced, and those that go."""
    arriving: dict[str, ElementDelta] = {}
    leaving: dict[str, ElementDelta] = {}
    for layout in SETS:
        if layout.name in delta.elements:
            come, go = parted(layout, delta.elements[layout.name])
            if come:
                arriving[layout.name] = come
            if go:
                leaving[layout.name] = go
    return arriving, leaving
