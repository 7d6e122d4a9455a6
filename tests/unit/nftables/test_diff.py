"""Slots move as little as possible, and transactions hold what differs and nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterable

import msgspec
import pytest

from netplane.core.model.address import Family
from netplane.core.nftables.compile import compile_family
from netplane.core.nftables.diff import (
    WHOLE,
    Delta,
    ElementDelta,
    diff,
    is_elementary,
    place,
    postponed,
)
from netplane.core.nftables.layout import Key, Value, Verdict
from netplane.core.nftables.listing import read_listing
from netplane.core.nftables.observed import HOLE, Observed
from netplane.core.nftables.program import ROOM
from netplane.core.nftables.text import script
from netplane.core.plan.port import Backend
from netplane.rendering import environment
from tests.support.port_plans import backends, port, random_plan
from tests.support.rulesets import as_observed, compiled

A, B, C, D, E = backends(*(f"10.0.0.{i}" for i in range(1, 6)))
MANY = backends(*(f"10.0.1.{i}" for i in range(1, ROOM + 3)))
WEB = ("172.30.0.1", 6, 80)


@pytest.mark.parametrize(
    ("wanted", "present", "placed"),
    [
        pytest.param((A, B, C), (), (A, B, C), id="from-nothing"),
        pytest.param((A, B, C), (C, A, B), (C, A, B), id="same-set-in-other-slots"),
        pytest.param((A, B, C, D), (C, A, B), (C, A, B, D), id="one-joins"),
        pytest.param((B, C, D), (A, B, C, D), (D, B, C), id="the-last-moves-into-the-gap"),
        pytest.param((A, B, C), (A, B, C, D), (A, B, C), id="the-last-leaves"),
        pytest.param((A, B, E), (A, B, C), (A, B, E), id="one-is-replaced"),
        pytest.param((C, D, E), (A, B, C, D), (D, E, C), id="two-leave-and-one-joins"),
        pytest.param((A, B), (A, HOLE, B), (A, B), id="hole"),
        pytest.param((A, B, C), (A, HOLE, B), (A, C, B), id="hole-taken-by-a-newcomer"),
        pytest.param((A, B), (A, A, B), (A, B), id="one-backend-twice"),
        pytest.param((), (A, B), (), id="to-nothing"),
    ],
)
def test_place(
    wanted: tuple[Backend, ...], present: tuple[Backend, ...], placed: tuple[Backend, ...]
) -> None:
    assert place(wanted, present) == placed


@pytest.mark.parametrize("seed", range(50))
def test_placing_moves_no_more_than_it_must(seed: int) -> None:
    rng = random.Random(seed)
    pool = backends(*(f"10.0.0.{i}" for i in range(12)))
    present = tuple(rng.sample(pool, rng.randint(0, 10)))
    wanted = tuple(sorted(rng.sample(pool, rng.randint(0, 10))))
    placed = place(wanted, present)
    assert sorted(placed) == sorted(wanted)
    kept = [s for s, b in enumerate(present[: len(wanted)]) if b in set(wanted)]
    assert all(placed[slot] == present[slot] for slot in kept)
    changed = sum(a != b for a, b in zip(placed, present, strict=False))
    assert changed == min(len(wanted), len(present)) - len(kept)


def test_nothing_to_do() -> None:
    web = compiled(port("web", cluster=(A, B)))
    delta = diff(web, as_observed(web))
    assert not delta
    assert script(delta) == ""


def test_other_slots_are_no_difference() -> None:
    web = compiled(port("web", cluster=(A, B, C)))
    observed = as_observed(compiled(port("web", cluster=(C, A, B))))
    assert not diff(web, observed)


def test_a_replaced_endpoint_is_one_slot() -> None:
    old, new = compiled(port("web", cluster=(A, B))), compiled(port("web", cluster=(A, C)))
    delta = diff(new, as_observed(old))
    assert delta == Delta(
        family=Family.IPV4,
        elements={"endpoints": ElementDelta(delete_slots=[(WEB, 1)], add_slots=[(WEB, 1, C)])},
    )
    assert is_elementary(delta)


def test_a_leaving_endpoint_changes_the_verdict() -> None:
    old, new = compiled(port("web", cluster=(A, B, C))), compiled(port("web", cluster=(B, C)))
    delta = diff(new, as_observed(old))
    assert delta.delete_chains == delta.flush_chains == ()
    assert delta.chains == {}, "pick-2 stands ready"
    assert delta.elements["endpoints"] == ElementDelta(
        delete_slots=[(WEB, 0), (WEB, 2)], add_slots=[(WEB, 0, C)], moved={(WEB, 0): 2}
    )
    assert delta.elements["services"] == ElementDelta(
        delete=[(WEB, Verdict("pick-3", "default/web:http"))],
        add=[(WEB, Verdict("pick-2", "default/web:http"))],
        moved={(WEB, WHOLE): WHOLE},
    )


def test_beyond_the_room_a_chain_comes_and_goes_with_its_count() -> None:
    old = compiled(port("web", cluster=MANY), port("other", 2, cluster=(A,)))
    new = compiled(port("web", cluster=MANY[:-1]), port("other", 2, cluster=(A,)))
    delta = diff(new, as_observed(old))
    assert delta.delete_chains == delta.flush_chains == (f"pick-{ROOM + 2}",)
    assert set(delta.chains) == {f"pick-{ROOM + 1}"}


def test_a_hole_is_repaired_without_deleting_what_is_not_there() -> None:
    web = compiled(port("web", cluster=(A, B)))
    observed = as_observed(web)
    elements = {**observed.elements, "endpoints": {WEB: (HOLE, B, HOLE, C)}}
    delta = diff(web, msgspec.structs.replace(observed, elements=elements))
    assert delta.elements == {
        "endpoints": ElementDelta(delete_slots=[(WEB, 3)], add_slots=[(WEB, 0, A)])
    }


def test_a_foreign_entry_with_a_hole_is_deleted_slot_by_slot() -> None:
    web = compiled(port("web", cluster=(A, B)))
    observed = as_observed(web)
    other = ("172.30.0.9", 6, 80)
    slots = {**observed.elements["endpoints"], other: (HOLE, C)}
    elements = {**observed.elements, "endpoints": slots}
    delta = diff(web, msgspec.structs.replace(observed, elements=elements))
    assert delta.elements == {"endpoints": ElementDelta(delete_slots=[(other, 1)])}


def test_an_edited_program_is_written_without_touching_elements() -> None:
    web = compiled(port("web", cluster=(A, B)))
    observed = as_observed(web)
    chains = {**observed.chains, "source-ranges": ("accept",)}
    delta = diff(web, msgspec.structs.replace(observed, chains=chains))
    assert delta.program == web.program
    assert set(delta.flush_chains) == set(read_listing(web.program).chains)
    assert not delta.elements
    assert not delta.delete_table


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"lines": ('comment "netplane layout 0"',)}, id="older-layout"),
        pytest.param({"others": ("counter own",)}, id="foreign-object"),
        pytest.param({"sets": {}}, id="no-sets"),
    ],
)
def test_another_layout_is_a_new_table(change: dict[str, object]) -> None:
    web = compiled(port("web", cluster=(A, B)))
    delta = diff(web, msgspec.structs.replace(as_observed(web), **change))
    assert delta.delete_table
    assert script(delta).startswith("delete table ip netplane\n")
    assert delta.elements["services"].add


def test_a_new_mark_makes_the_table_anew() -> None:
    """Neither nft nor netlink could write both of its places in one transaction."""
    outside = port("web", cluster=(A, B), node_port=30080)
    delta = diff(compiled(outside, masquerade_mark=1), as_observed(compiled(outside)))
    assert delta.delete_table


def test_an_unreadable_set_is_emptied_and_filled() -> None:
    web = compiled(port("web", cluster=(A, B)))
    observed = msgspec.structs.replace(as_observed(web), unreadable=frozenset({"services"}))
    delta = diff(web, observed)
    assert delta.elements["services"].flush
    assert [key for key, _ in delta.elements["services"].add] == [WEB]
    assert "flush map ip netplane services" in script(delta)


def test_a_changed_timeout_leaves_the_sets_of_clients_alone() -> None:
    old = compiled(port("web", cluster=(A, B), affinity_seconds=60))
    new = compiled(port("web", cluster=(A, B), affinity_seconds=90061))
    delta = diff(new, as_observed(old))
    assert not delta.delete_affinity_sets
    assert not delta.add_affinity_sets
    assert not delta.elements
    assert all(name.startswith("endpoint-") for name in delta.chains)
    assert all("timeout 1d1h1m1s" in rules[0] for rules in delta.chains.values())
    assert set(delta.flush_chains) == set(delta.chains)
    assert not delta.delete_chains


def test_a_set_of_foreign_form_is_made_anew_with_the_chains_that_use_it() -> None:
    wanted = compiled(port("web", cluster=(A,), affinity_seconds=60))
    foreign = msgspec.structs.replace(
        as_observed(wanted), affinity_sets=dict.fromkeys(wanted.affinity_sets, False)
    )
    delta = diff(wanted, foreign)
    assert set(delta.chains) == set(wanted.chains)
    assert set(delta.flush_chains) == set(wanted.chains)
    assert delta.delete_affinity_sets == tuple(wanted.affinity_sets) == delta.add_affinity_sets
    assert not is_elementary(delta)


def test_what_goes_last_can_be_postponed() -> None:
    old = compiled(port("web", cluster=(A,)))
    now, later = postponed(diff(compiled(), as_observed(old)))
    picks = {f"pick-{count}" for count in range(1, ROOM + 1)}
    assert set(now.flush_chains) == picks
    assert now.delete_chains == ()
    assert set(later.delete_chains) == picks
    assert later == Delta(family=Family.IPV4, delete_chains=later.delete_chains)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_wanted_is_what_comes_of_it(seed: int) -> None:
    rng = random.Random(seed)
    before, after = (compile_family(random_plan(rng), environment()) for _ in range(2))
    observed = as_observed(before)
    delta = diff(after, observed)
    for name, entries in _applied(observed, delta).items():
        for key, value in entries.items():
            wanted = after.elements[name][key]
            if isinstance(value, tuple) and not isinstance(value, Verdict):
                assert isinstance(wanted, tuple)
                assert sorted(value) == sorted(wanted)
            else:
                assert value == wanted
        assert entries.keys() == after.elements[name].keys()


_Table = dict[tuple[str | int, ...], object]


def _applied(observed: Observed, delta: Delta) -> dict[str, _Table]:
    """What the kernel makes of it: an element is deleted once and added where there is none."""
    kernel = {name: _flat(entries.items()) for name, entries in observed.elements.items()}
    if delta.delete_table:
        kernel = {name: {} for name in kernel}
    for name, changed in delta.elements.items():
        table = kernel[name]
        gone = [*_flat(changed.delete), *((*key, slot) for key, slot in changed.delete_slots)]
        for full in gone:
            del table[full]
        slots: _Table = {(*key, slot): backend for key, slot, backend in changed.add_slots}
        for come in (slots, _flat(changed.add)):
            assert not table.keys() & come.keys()
            table |= come
    return {name: _joined(name, table) for name, table in kernel.items()}


def _flat(entries: Iterable[tuple[Key, Value]]) -> _Table:
    """One element per slot, as the kernel has them."""
    found: _Table = {}
    for key, value in entries:
        if isinstance(value, tuple) and not isinstance(value, Verdict):
            found |= {(*key, slot): backend for slot, backend in enumerate(value)}
        else:
            found[key] = value
    return found


def _joined(name: str, table: _Table) -> _Table:
    if not name.endswith("endpoints") or name == "no-endpoints":
        return table
    slots: dict[tuple[str | int, ...], dict[int, object]] = {}
    for full, backend in table.items():
        slots.setdefault(full[:-1], {})[int(full[-1])] = backend
    assert all(sorted(found) == list(range(len(found))) for found in slots.values())
    return {key: tuple(found.values()) for key, found in slots.items()}
