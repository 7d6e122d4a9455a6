"""What the kernel has in one family's table, in the words of the layout."""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

import msgspec

from netplane.core.model.address import Family
from netplane.core.nftables.layout import SETS, Elements, Key
from netplane.core.plan.port import Backend

#: Stands in a SLOTS value where the kernel has no element for a slot below its highest one.
HOLE: Final = Backend("", 0)


class Count(NamedTuple):
    """What an element's counter has counted."""

    packets: int
    octets: int


#: Counters of single elements of a set, by key and slot (-1 where there are no slots).
Counts: TypeAlias = dict[tuple[Key, int], Count]

#: Packets per element: of a VERDICT map one number, of a SLOTS map one per slot.
Counters: TypeAlias = dict[str, dict[Key, tuple[int, ...]]]


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """One family's table as the kernel has it.

    Attributes:
        exists: Whether there is a table at all; everything else is empty without.
        lines: What stands in the table itself, such as its comment.
        sets: Declarations of all sets and maps but the affinity sets, by name.
        chains: The rules of every chain by name, in nft's listed form; a base chain's hook first.
        affinity_sets: Sets of remembered clients, and whether each is declared as ours are.
        others: Objects of kinds we never make.
        elements: By set name; every set of SETS is present. A verdict that is not ``goto`` keeps
            its word: Verdict("jump pick-3").
        unreadable: Sets with elements that are none of ours in form (ranges, foreign protocols).
        counters: By set name and key; zeros for sets without counters. Empty where nobody wants
            to know them.
    """

    family: Family
    exists: bool = False
    lines: tuple[str, ...] = ()
    sets: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    chains: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    affinity_sets: dict[str, bool] = msgspec.field(default_factory=dict)
    others: tuple[str, ...] = ()
    elements: Elements = msgspec.field(default_factory=lambda: {s.name: {} for s in SETS})
    unreadable: frozenset[str] = frozenset()
    counters: Counters = msgspec.field(default_factory=lambda: {s.name: {} for s in SETS})
