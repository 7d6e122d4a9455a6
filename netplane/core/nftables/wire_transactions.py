"""A table's change as a series of transactions of bounded size, each a safe state to stay in.

A packet looks into several sets one after the other, and each look sees them as they are then
(nft_genmask_cur): a commit may fall between two. So even a small change may be no single one:

- what a packet is led to by what it has seen before goes in the next transaction, when nothing
  leads there any more;
- what is asked before the way to an endpoint is looked up comes in the transaction before: else a
  packet that is not restricted yet, or not marked for masquerade, would find that way;
- chains come before the first verdict that leads to them, since a packet keeps to the rules of
  the generation it began with (nft_do_chain), in which a chain that comes is empty.

The kernel lets nobody else change nftables while it takes a transaction, so a large change is cut
further. The cut keeps three promises:

- data before the verdict that makes it reachable, and the reverse on removal: first everything
  that is added or replaced, in the order of SETS, then everything that goes, in reverse order;
- an element and the one that replaces it travel in one transaction, source ranges of a frontend
  that are replaced by others, too (the kernel refuses ranges that overlap);
- chains come before all elements and go after them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Final, TypeVar

import msgspec

from netplane.core.model.address import Family
from netplane.core.nftables.diff import ElementDelta
from netplane.core.nftables.layout import SETS, Key, SetLayout, Value
from netplane.core.nftables.observed import Counts
from netplane.core.nftables.wire import Message
from netplane.core.nftables.wire_elements import (
    add_elements,
    add_slots,
    delete_elements,
    delete_slots,
    flush_set,
)
from netplane.core.plan.port import Backend

_T = TypeVar("_T")

#: Elements in one transaction: the kernel takes 2 to 6 microseconds for each, and meanwhile nobody
#: else can commit. Smaller ones cost no more in all, and listings do not wait (bench/wire.py).
DEFAULT_LIMIT: Final = 5_000

_REPLACED_TOGETHER = 256
_NO_COUNTS: Final[Mapping[str, Counts]] = {}
_NO_COUNT: Final[Counts] = {}
_FRONTEND_FIELDS = 3


def transactions(  # noqa: PLR0913 (each is a fact of its own about one change)
    family: Family,
    elements: dict[str, ElementDelta],
    *,
    before: Sequence[Message] = (),
    after: Sequence[Message] = (),
    counts: Mapping[str, Counts] = _NO_COUNTS,
    limit: int = DEFAULT_LIMIT,
) -> Iterator[list[Message]]:
    """The messages of each transaction, in the order they are to be committed.

    Args:
        family: Of the table.
        elements: By set name, what changes.
        before: Messages that make chains; in the first transaction, with what is asked first.
        after: Messages that empty and delete chains; in the last one.
        counts: By set name, what elements that are added have counted in another place.
        limit: Elements per transaction. A change that empties a set first is one transaction
            nevertheless.
    """
    layouts = [layout for layout in SETS if layout.name in elements]
    if any(delta.flush for delta in elements.values()):
        yield [
            *before,
            *chain.from_iterable(
                _at_once(family, layout, elements[layout.name], counts.get(layout.name, {}))
                for layout in layouts
            ),
            *after,
        ]
        return
    ahead, elements = _asked_first(elements)
    if before or ahead:
        firsts = [layout for layout in layouts if layout.name in ahead]
        units = _units(family, [(layout, ahead[layout.name], _NO_COUNT) for layout in firsts])
        yield from _packed(chain([[*before]], units), (), limit)
    layouts = [layout for layout in layouts if layout.name in elements]
    if sum(map(_operations, elements.values())) <= limit:
        first: list[Message] = []
        second: list[Message] = []
        for layout in layouts:
            delta = elements[layout.name]
            if layout.led_to and (delta.delete or delta.delete_slots):
                delta, later = parted(layout, delta)
                second += _at_once(family, layout, later, {})
            first += _at_once(family, layout, delta, counts.get(layout.name, {}))
        second += after
        yield from filter(None, (first, second))
        return
    deltas = [(layout, elements[layout.name], counts.get(layout.name, {})) for layout in layouts]
    yield from _packed(_units(family, deltas), after, limit)


def _asked_first(
    elements: dict[str, ElementDelta],
) -> tuple[dict[str, ElementDelta], dict[str, ElementDelta]]:
    """What comes a transaction before the ways to endpoints that come, and the rest."""
    ahead: dict[str, ElementDelta] = {}
    ways = elements.get("services")
    if ways is None or not ways.add:
        return ahead, elements
    rest = dict(elements)
    for layout in SETS:
        delta = elements.get(layout.name)
        if not layout.asked_first or delta is None or not delta.add:
            continue
        replaced = _replaced(layout, delta)
        kept = [row for row in delta.add if _owner(layout, row[0]) in replaced]
        first = [row for row in delta.add if _owner(layout, row[0]) not in replaced]
        if first:
            ahead[layout.name] = ElementDelta(add=first)
            rest[layout.name] = msgspec.structs.replace(delta, add=kept)
    return ahead, {name: delta for name, delta in rest.items() if delta}


def parted(layout: SetLayout, delta: ElementDelta) -> tuple[ElementDelta, ElementDelta]:
    """What comes to a set or is replaced, and what goes from it."""
    replaced = _replaced(layout, delta)
    taken = {(key, slot) for key, slot, _ in delta.add_slots}
    later = ElementDelta(
        delete=[row for row in delta.delete if _owner(layout, row[0]) not in replaced],
        delete_slots=[row for row in delta.delete_slots if row not in taken],
    )
    now = msgspec.structs.replace(
        delta,
        delete=[row for row in delta.delete if _owner(layout, row[0]) in replaced],
        delete_slots=[row for row in delta.delete_slots if row in taken],
    )
    return now, later


def _operations(delta: ElementDelta) -> int:
    """How many elements at least; a whole entry of a SLOTS map is several."""
    entries = (*delta.delete, *delta.add)
    slots = sum(len(value) for _, value in entries if type(value) is tuple)
    return len(entries) + slots + len(delta.delete_slots) + len(delta.add_slots)


def _at_once(
    family: Family, layout: SetLayout, delta: ElementDelta, counts: Counts
) -> Iterator[Message]:
    """Everything of one set: the deletions first, so that a value is replaced by both."""
    if delta.flush:
        yield flush_set(layout, family)
    # Most changes are of one kind, and to ask for no elements costs as much as for one.
    if delta.delete:
        yield from delete_elements(layout, family, delta.delete)
    if delta.delete_slots:
        yield from delete_slots(layout, family, delta.delete_slots)
    if delta.add:
        yield from add_elements(layout, family, delta.add, counts)
    if delta.add_slots:
        yield from add_slots(layout, family, delta.add_slots, counts)


def _units(
    family: Family, deltas: Sequence[tuple[SetLayout, ElementDelta, Counts]]
) -> Iterator[list[Message]]:
    """Messages that belong together, in order."""
    going: list[tuple[SetLayout, list[tuple[Key, Value]], list[tuple[Key, int]]]] = []
    for layout, delta, counts in deltas:
        replaced = _replaced(layout, delta)
        arriving, leaving = delta.add, delta.delete
        if replaced:
            yield from _replacements(family, layout, delta, replaced, counts)
            arriving = [row for row in arriving if _owner(layout, row[0]) not in replaced]
            leaving = [row for row in leaving if _owner(layout, row[0]) not in replaced]
        yield from ([m] for m in add_elements(layout, family, arriving))
        new = {(key, slot) for key, slot, _ in delta.add_slots}
        taken = set(delta.delete_slots)
        swapped = [row for row in delta.add_slots if row[:2] in taken]
        yield from _swaps(family, layout, swapped, counts)
        fresh = (row for row in delta.add_slots if row[:2] not in taken)
        yield from ([m] for m in add_slots(layout, family, fresh, counts))
        going.append((layout, leaving, [row for row in delta.delete_slots if row not in new]))
    for layout, entries, slots in reversed(going):
        yield from ([m] for m in delete_elements(layout, family, entries))
        yield from ([m] for m in delete_slots(layout, family, slots))


def _owner(layout: SetLayout, key: Key) -> Key:
    """What is replaced as one: an element, but of source ranges all those of a frontend."""
    return key[:_FRONTEND_FIELDS] if layout.interval else key


def _replaced(layout: SetLayout, delta: ElementDelta) -> dict[Key, None]:
    """Owners with both something deleted and something added, in order."""
    if not delta.delete:
        return {}
    deleted = {_owner(layout, key) for key, _ in delta.delete}
    owners = (_owner(layout, key) for key, _ in delta.add)
    return dict.fromkeys(owner for owner in owners if owner in deleted)


def _replacements(
    family: Family,
    layout: SetLayout,
    delta: ElementDelta,
    owners: dict[Key, None],
    counts: Counts,
) -> Iterator[list[Message]]:
    """Units that delete and add the entries of some owners each."""
    old, new = _by_owner(layout, delta.delete, owners), _by_owner(layout, delta.add, owners)
    for chunk in _chunks(owners, _REPLACED_TOGETHER):
        gone = [row for owner in chunk for row in old[owner]]
        come = [row for owner in chunk for row in new[owner]]
        added = add_elements(layout, family, come, counts)
        yield [*delete_elements(layout, family, gone), *added]


def _by_owner(
    layout: SetLayout, entries: Iterable[tuple[Key, Value]], owners: dict[Key, None]
) -> dict[Key, list[tuple[Key, Value]]]:
    found: dict[Key, list[tuple[Key, Value]]] = {}
    for key, value in entries:
        owner = _owner(layout, key)
        if owner in owners:
            found.setdefault(owner, []).append((key, value))
    return found


def _swaps(
    family: Family, layout: SetLayout, slots: list[tuple[Key, int, Backend]], counts: Counts
) -> Iterator[list[Message]]:
    """Units that give some slots another backend each."""
    for chunk in _chunks(slots, _REPLACED_TOGETHER):
        old = delete_slots(layout, family, ((key, slot) for key, slot, _ in chunk))
        yield [*old, *add_slots(layout, family, chunk, counts)]


def _chunks(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _packed(
    units: Iterator[list[Message]], after: Sequence[Message], limit: int
) -> Iterator[list[Message]]:
    """Fill transactions with whole units."""
    waiting: list[Message] = []
    count = 0
    for unit in units:
        size = sum(message.elements for message in unit)
        if count and count + size > limit:
            yield waiting
            waiting, count = [], 0
        waiting += unit
        count += size
    waiting += after
    if waiting:
        yield waiting
