"""What differs between the ruleset we want and the table the kernel has.

Two tables are equal when their rules are, and each frontend has the same *set* of backends in
slots 0..N-1. Slots are assigned against what is observed (``place``): a backend keeps its slot,
and where one leaves, the last moves into its place. So a change costs two or three element
operations whatever the size, and a change of N one verdict more.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from netplane.core.model.address import Family
from netplane.core.nftables.layout import SETS, Key, Ruleset, SetLayout, Value, Values, Verdict
from netplane.core.nftables.listing import read_listing
from netplane.core.nftables.observed import HOLE, Observed
from netplane.core.nftables.program import Pick
from netplane.core.plan.port import Backend

Entry: TypeAlias = tuple[Key, Value]
WHOLE: Final = -1  # in the place of a slot, where elements have none


class ElementDelta(msgspec.Struct, frozen=True, kw_only=True):
    """What changes in one set: deletions come first, so that a value is replaced by both.

    Attributes:
        flush: Empty the set first: it holds what we cannot read.
        delete: Whole entries, with the value they have in the kernel.
        delete_slots: Single slots of a SLOTS map.
        add: Whole entries; of a SLOTS map those that had no slot before.
        add_slots: Single slots of a SLOTS map.
        moved: By key and new slot, the slot an endpoint has had: its counter goes with it. The
            slots are -1 for an element whose verdict is replaced.
    """

    flush: bool = False
    delete: list[Entry] = msgspec.field(default_factory=list)
    delete_slots: list[tuple[Key, int]] = msgspec.field(default_factory=list)
    add: list[Entry] = msgspec.field(default_factory=list)
    add_slots: list[tuple[Key, int, Backend]] = msgspec.field(default_factory=list)
    moved: dict[tuple[Key, int], int] = msgspec.field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.flush or self.delete or self.delete_slots or self.add or self.add_slots)


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """What turns the observed table of a family into the desired one.

    How it is cut into transactions is the matter of ``wire_transactions`` and of who writes it.

    Attributes:
        create: There is no table yet.
        delete_table: The table cannot be changed in place: delete it first, make it anew.
        program: The program to load, "" where it is in place.
        flush_chains: Chains in the kernel to empty, because they are written anew or go.
        delete_chains: Chains that go, after the elements that lead to them.
        delete_affinity_sets: Sets of remembered clients that go, after the chains.
        add_affinity_sets: Those that come.
        chains: Chains to write, each its rules.
        elements: Per set of SETS that changes, in that order.
    """

    family: Family
    create: bool = False
    delete_table: bool = False
    program: str = ""
    flush_chains: tuple[str, ...] = ()
    delete_chains: tuple[str, ...] = ()
    delete_affinity_sets: tuple[str, ...] = ()
    add_affinity_sets: tuple[str, ...] = ()
    chains: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    elements: dict[str, ElementDelta] = msgspec.field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(
            self.delete_table
            or self.program
            or self.flush_chains
            or self.delete_chains
            or self.delete_affinity_sets
            or self.add_affinity_sets
            or self.chains
            or self.elements
        )


def diff(desired: Ruleset, observed: Observed) -> Delta:
    """What makes the kernel's table the desired one; false when it already is."""
    if not observed.exists:
        return _anew(desired, exists=False)
    program = read_listing(desired.program)
    if observed.others or not _same_layout(program.lines, program.sets, program.chains, observed):
        return _anew(desired, exists=True)
    wanted = {**program.chains, **desired.chains}
    edited = any(observed.chains.get(name) != lines for name, lines in program.chains.items())
    stale = tuple(name for name in observed.chains if name not in wanted)
    ours = {name for name, as_ours in observed.affinity_sets.items() if as_ours}
    gone = observed.affinity_sets.keys() - (ours & desired.affinity_sets)
    chains = {
        name: lines
        for name, lines in desired.chains.items()
        if observed.chains.get(name) != lines or _uses(lines, gone)
    }
    if edited and any(Pick.parse(name) and name in observed.chains for name in chains):
        # Only netlink can write a pick chain beside its map, and only nft the program (see
        # `stages`): such a change of both would be two transactions that traffic can see.
        return _anew(desired, exists=True)
    rewritten = [*(program.chains if edited else ()), *chains]
    return Delta(
        family=desired.family,
        program=desired.program if edited else "",
        flush_chains=(*(name for name in rewritten if name in observed.chains), *stale),
        delete_chains=stale,
        delete_affinity_sets=tuple(sorted(gone)),
        add_affinity_sets=tuple(sorted(desired.affinity_sets - ours)),
        chains=chains,
        elements=_elements(desired, observed),
    )


def place(wanted: tuple[Backend, ...], present: tuple[Backend, ...]) -> tuple[Backend, ...]:
    """Assign slots 0..N-1 to the wanted backends, N their number, moving as few as possible.

    Args:
        wanted: Backends in the order they take slots from nothing.
        present: Backends by slot as the kernel has them; HOLE where a slot has none.
    """
    if wanted == present:
        return present
    size = len(wanted)
    missing = dict.fromkeys(wanted)
    slots: list[Backend | None] = [None] * size
    for slot, backend in enumerate(present[:size]):
        if backend in missing:
            slots[slot] = backend
            del missing[backend]
    # From the last slot down: the one beyond the end moves into the gap.
    moving = [b for b in reversed(present[size:]) if b in missing]
    newcomers = iter(dict.fromkeys((*moving, *missing)))
    return tuple(next(newcomers) if backend is None else backend for backend in slots)


def placed(desired: Ruleset, observed: Observed, delta: Delta) -> Ruleset:
    """The desired ruleset with the slots it has in the kernel once the delta is committed."""
    if delta.create or delta.delete_table:
        return desired
    elements = dict(desired.elements)
    for layout in SETS:
        present, wanted = observed.elements[layout.name], desired.elements[layout.name]
        if layout.values is Values.SLOTS and present is not wanted:
            elements[layout.name] = {
                key: place(backends_of(value), backends_of(present.get(key, ())))
                for key, value in wanted.items()
            }
    return msgspec.structs.replace(desired, elements=elements)


def is_elementary(delta: Delta) -> bool:
    """Whether only elements and chains change: what netlink messages of ours may say."""
    return not (
        delta.create
        or delta.delete_table
        or delta.program
        or delta.add_affinity_sets
        or delta.delete_affinity_sets
    )


def postponed(delta: Delta) -> tuple[Delta, Delta]:
    """A change without deleting chains, and that as a change of its own.

    Chains that go are empty after the first, and nothing leads to them.
    """
    now = msgspec.structs.replace(delta, delete_chains=())
    return now, Delta(family=delta.family, delete_chains=delta.delete_chains)


def _anew(desired: Ruleset, *, exists: bool) -> Delta:
    """The whole table."""
    elements = {
        name: ElementDelta(add=list(entries.items()))
        for name, entries in desired.elements.items()
        if entries
    }
    return Delta(
        family=desired.family,
        create=not exists,
        delete_table=exists,
        program=desired.program,
        add_affinity_sets=tuple(sorted(desired.affinity_sets)),
        chains=desired.chains,
        elements=elements,
    )


def _same_layout(
    lines: tuple[str, ...],
    sets: dict[str, tuple[str, ...]],
    chains: dict[str, tuple[str, ...]],
    observed: Observed,
) -> bool:
    """Whether the kernel's table can be changed in place.

    Declarations of sets and the hooks of base chains cannot (nf_tables_api.c: an update of a
    chain's type or hook, or of a set's key, is refused).
    """
    return (
        lines == observed.lines
        and sets == observed.sets
        and all(
            _hook(observed.chains[name]) == _hook(rules)
            for name, rules in chains.items()
            if name in observed.chains
        )
    )


def _hook(rules: tuple[str, ...]) -> str:
    """The line that makes a base chain, "" of a regular one."""
    return rules[0] if rules and rules[0].startswith("type ") else ""


def _uses(rules: tuple[str, ...], sets: set[str]) -> bool:
    """Whether rules name one of the sets, as ``@set``."""
    return bool(sets) and any(
        word.startswith("@") and word[1:] in sets for rule in rules for word in rule.split(" ")
    )


def _elements(desired: Ruleset, observed: Observed) -> dict[str, ElementDelta]:
    deltas = {}
    for layout in SETS:
        if layout.name in observed.unreadable:
            entries = list(desired.elements[layout.name].items())
            deltas[layout.name] = ElementDelta(flush=True, add=entries)
        elif desired.elements[layout.name] != observed.elements[layout.name]:
            delta = _set_delta(layout, desired, observed)
            if delta:
                deltas[layout.name] = delta
    return deltas


def _set_delta(layout: SetLayout, desired: Ruleset, observed: Observed) -> ElementDelta:
    """The operations of one set whose entries differ."""
    delta = ElementDelta()
    wanted, present = desired.elements[layout.name], observed.elements[layout.name]
    slots = layout.values is Values.SLOTS
    for key, old in present.items():
        if key not in wanted:
            if slots and HOLE in backends_of(old):
                move_slots(delta, key, backends_of(old), ())
            else:
                delta.delete.append((key, old))
    for key, new in wanted.items():
        if key not in present:
            delta.add.append((key, new))
        elif new != (old := present[key]):
            if slots:
                move_slots(delta, key, backends_of(old), place(backends_of(new), backends_of(old)))
            else:
                replace(delta, layout, key, old, new)
    return delta


def replace(delta: ElementDelta, layout: SetLayout, key: Key, old: Value, new: Value) -> None:
    """Give an element another value."""
    delta.delete.append((key, old))
    delta.add.append((key, new))
    if layout.counter:
        delta.moved[key, WHOLE] = WHOLE


def move_slots(
    delta: ElementDelta, key: Key, old: tuple[Backend, ...], new: tuple[Backend, ...]
) -> None:
    """Turn one frontend's slots into others; HOLE where there is or shall be none."""
    for slot in range(max(len(old), len(new))):
        before = old[slot] if slot < len(old) else HOLE
        after = new[slot] if slot < len(new) else HOLE
        if before != after:
            if before is not HOLE:
                delta.delete_slots.append((key, slot))
            if after is not HOLE:
                delta.add_slots.append((key, slot, after))
                if after in old:
                    delta.moved[key, slot] = old.index(after)


def backends_of(value: Value) -> tuple[Backend, ...]:
    """The value of a SLOTS map."""
    assert value is not None, "a SLOTS map holds backends"
    assert not isinstance(value, Verdict), "a SLOTS map holds backends"
    return value
