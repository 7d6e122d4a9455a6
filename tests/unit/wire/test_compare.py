"""A set told by how it differs is the set that was dumped; nothing foreign passes unnoticed."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netplane.core.model.address import Family
from netplane.core.nftables.layout import Key, SetLayout, Value, Verdict
from netplane.core.nftables.observed import HOLE
from netplane.core.nftables.wire import attribute
from netplane.core.nftables.wire_compare import Comparison
from netplane.core.nftables.wire_elements import add_elements, add_slots, comment_attribute
from netplane.core.plan.port import Backend
from netplane.errors import WireError
from tests.unit.wire.elements import EVERY_SHAPE, LAYOUTS, entries, identify
from tests.unit.wire.kernel_reply import body, dump, elements_of, with_counter

V4 = Family.IPV4
KEY: Key = ("10.96.0.1", 6, 80)


def compare(
    layout: SetLayout, wanted: dict[Key, Value], bodies: list[bytes], family: Family = V4
) -> Comparison:
    comparison = Comparison(layout, family, wanted)
    for one in bodies:
        comparison.feed(one)
    return comparison


def labelled(found: dict[Key, Value]) -> dict[Key, Value]:
    """Entries with comments as labels are, so that none of them is foreign."""
    return {
        key: Verdict(value.chain, value.comment.encode().hex()[:40])
        if isinstance(value, Verdict)
        else value
        for key, value in found.items()
    }


@pytest.mark.parametrize(("family", "layout"), EVERY_SHAPE, ids=identify)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_whatever_is_expected_what_is_there_is_told(
    family: Family, layout: SetLayout, data: st.DataObject
) -> None:
    there = labelled(data.draw(entries(layout, family)))
    wanted = labelled(data.draw(entries(layout, family)))
    for key in list(there)[: data.draw(st.integers(0, len(there)))]:
        wanted[key] = there[key]
    comparison = compare(
        layout, wanted, dump(layout, family, there, data.draw(st.integers(1, 5))), family
    )
    assert comparison.finish() == there
    assert not comparison.foreign
    assert not comparison.repeated


@pytest.mark.parametrize(("family", "layout"), EVERY_SHAPE, ids=identify)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_what_is_as_expected_is_the_expectation_itself(
    family: Family, layout: SetLayout, data: st.DataObject
) -> None:
    there = data.draw(entries(layout, family))
    bodies = dump(layout, family, there, data.draw(st.integers(1, 5)))
    assert compare(layout, there, bodies, family).finish() is there


def test_moved_and_missing_slots_are_told() -> None:
    layout = LAYOUTS["endpoints"]
    a, b, c = (Backend(f"10.0.0.{i}", 80) for i in range(3))
    (message,) = add_slots(layout, V4, [(KEY, 0, c), (KEY, 2, a)])
    bodies = [body(layout, V4, [with_counter(e, 1) for e in elements_of(message)])]
    assert compare(layout, {KEY: (a, b, c)}, bodies).finish() == {KEY: (c, HOLE, a)}


@pytest.mark.parametrize("name", ["endpoints", "services", "cluster-ips", "allowed-sources"])
@pytest.mark.parametrize("known", [False, True])
def test_an_element_that_comes_twice_is_noticed(name: str, *, known: bool) -> None:
    values: dict[str, tuple[Key, Value]] = {
        "endpoints": (KEY, (Backend("10.0.0.1", 80),)),
        "services": (KEY, Verdict("refuse")),
        "cluster-ips": (KEY[:1], None),
        "allowed-sources": ((*KEY, "10.0.0.0/8"), None),
    }
    layout, there = LAYOUTS[name], dict([values[name]])
    bodies = dump(layout, V4, there, 1)
    wanted = there if known else {}
    assert not compare(layout, wanted, bodies).repeated
    assert compare(layout, wanted, bodies * 2).repeated


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("services", ("10.96.0.1", 1, 80), Verdict("refuse")),
        ("services", KEY, Verdict("refuse", "\x1b[2J")),
        ("services", KEY, Verdict("a\nb")),
        ("nodeports", (1, 80), Verdict("refuse")),
        ("hairpin", ("10.0.0.1", "10.0.0.1", 1, 80), None),
        ("restricted", ("10.96.0.1", 58, 80), None),
    ],
)
def test_what_is_none_of_ours_in_form_is_foreign(name: str, key: Key, value: Value) -> None:
    layout = LAYOUTS[name]
    assert compare(layout, {}, dump(layout, V4, {key: value}, 1)).foreign


def test_a_range_that_is_no_network_is_foreign() -> None:
    layout = LAYOUTS["allowed-sources"]
    (one,) = dump(layout, V4, {(*KEY, "10.0.0.0/30"): None}, 1)
    assert not compare(layout, {}, [one]).foreign
    assert compare(layout, {}, [one.replace(bytes((10, 0, 0, 3)), bytes((10, 0, 0, 2)))]).foreign


def test_a_slot_with_a_comment_is_the_slot() -> None:
    """Somebody may have added it by hand: it is as long as none of ours."""
    layout, backend = LAYOUTS["endpoints"], Backend("10.0.0.1", 80)
    (message,) = add_slots(layout, V4, [(KEY, 0, backend)])
    elements = [with_counter(e, 1) + comment_attribute("mine") for e in elements_of(message)]
    wanted: dict[Key, Value] = {KEY: (backend,)}
    assert compare(layout, wanted, [body(layout, V4, elements)]).finish() is wanted


def test_elements_of_another_set_are_an_error() -> None:
    with pytest.raises(WireError, match="cluster-ips"):
        compare(LAYOUTS["services"], {}, dump(LAYOUTS["cluster-ips"], V4, {KEY[:1]: None}, 1))


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_hostile_bytes_are_an_error_or_something(data: st.DataObject) -> None:
    layout = LAYOUTS[data.draw(st.sampled_from(sorted(LAYOUTS)))]
    messages = add_elements(layout, V4, data.draw(entries(layout, V4)).items())
    elements = [element for message in messages for element in elements_of(message)]
    raw = bytearray(body(layout, V4, elements))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    with suppress(WireError):
        compare(layout, {}, [cut, cut + attribute(3, b"\0" * 8)]).finish()
