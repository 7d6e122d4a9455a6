"""Dumps come back as the elements that were sent, and hostile bytes as an error or nothing."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netplane.core.model.address import Family
from netplane.core.nftables.layout import Key, SetLayout, Value, Verdict
from netplane.core.nftables.observed import HOLE
from netplane.core.nftables.wire import MessageType, Reply, answer, attribute, attributes, replies
from netplane.core.nftables.wire_dump import Dump, DumpReader
from netplane.core.nftables.wire_elements import add_elements, add_slots
from netplane.core.plan.port import Backend
from netplane.errors import WireError
from tests.unit.wire.elements import EVERY_SHAPE, LAYOUTS, entries, identify
from tests.unit.wire.kernel_reply import (
    body,
    dump,
    elements_of,
    expression,
    packets_of,
    with_counter,
)


def read(layout: SetLayout, family: Family, bodies: list[bytes]) -> Dump:
    reader = DumpReader(layout, family)
    for one in bodies:
        reader.feed(one)
    return reader.finish()


@pytest.mark.parametrize(("family", "layout"), EVERY_SHAPE, ids=identify)
@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_what_was_sent_comes_back(family: Family, layout: SetLayout, data: st.DataObject) -> None:
    sent = data.draw(entries(layout, family))
    each = data.draw(st.integers(1, 5))
    observed = read(layout, family, dump(layout, family, sent, each))
    assert observed.elements == sent
    assert observed.packets == packets_of(layout, sent)


def test_many_slots_are_put_in_order() -> None:
    layout = LAYOUTS["endpoints"]
    backends = tuple(Backend(f"10.0.{i // 250}.{i % 250}", 1000 + i) for i in range(700))
    sent: dict[Key, Value] = {
        ("10.96.0.1", 6, 80): backends,
        ("10.96.0.2", 6, 80): backends[:1],
    }
    observed = read(layout, Family.IPV4, dump(layout, Family.IPV4, sent, 300))
    assert observed.elements == sent


def test_a_slot_without_an_element_is_a_hole() -> None:
    layout, key, backend = LAYOUTS["endpoints"], ("10.96.0.1", 6, 80), Backend("10.0.0.1", 1)
    (message,) = add_slots(layout, Family.IPV4, [(key, 0, backend), (key, 2, backend)])
    elements = [with_counter(element, 7) for element in elements_of(message)]
    observed = read(layout, Family.IPV4, [body(layout, Family.IPV4, elements)])
    assert observed.elements == {key: (backend, HOLE, backend)}
    assert observed.packets == {key: (7, 0, 7)}


def test_a_slot_beyond_all_slots_is_an_error() -> None:
    layout, key, backend = LAYOUTS["endpoints"], ("10.96.0.1", 6, 80), Backend("10.0.0.1", 1)
    (message,) = add_slots(layout, Family.IPV4, [(key, 1 << 31, backend)])
    with pytest.raises(WireError, match="slot"):
        read(layout, Family.IPV4, [body(layout, Family.IPV4, elements_of(message))])


def test_an_element_that_looks_different_is_read_all_the_same() -> None:
    """Someone may have added a slot with a comment: it is as long as none of ours."""
    layout, key = LAYOUTS["endpoints"], ("10.96.0.1", 6, 80)
    slots = [(key, i, Backend("10.0.0.1", i + 1)) for i in range(4)]
    (message,) = add_slots(layout, Family.IPV4, slots)
    first, second, third, fourth = (with_counter(e, 1) for e in elements_of(message))
    comment = attribute(6, b"\0\3hi\0")
    same_size = third[:-4] + b"\xff\xff\xff\xff"  # another number of packets
    observed = read(
        layout,
        Family.IPV4,
        [body(layout, Family.IPV4, [first, second + comment, same_size, fourth])],
    )
    assert observed.elements == {key: tuple(backend for _, _, backend in slots)}
    assert observed.packets == {key: (1, 1, 0xFFFFFFFF, 1)}


@pytest.mark.parametrize("name", ["endpoints", "services", "cluster-ips"])
def test_an_element_that_comes_twice_gives_a_broken_dump_away(name: str) -> None:
    layout = LAYOUTS[name]
    sent: dict[Key, Value] = {("10.96.0.1", 6, 80): Verdict("refuse", "default/web")}
    if name == "endpoints":
        sent = {("10.96.0.1", 6, 80): (Backend("10.0.0.1", 1), Backend("10.0.0.2", 1))}
    elif name == "cluster-ips":
        sent = {("10.96.0.1",): None}
    bodies = dump(layout, Family.IPV4, sent, 1)
    reader = DumpReader(layout, Family.IPV4)
    for one in bodies:
        reader.feed(one)
    assert not reader.repeated
    reader.feed(bodies[0])
    assert reader.repeated


@pytest.mark.parametrize(
    ("code", "chain", "word"),
    [(1, "", "accept"), (-5, "", "return"), (-3, "pick-1", "jump pick-1"), (0, "", "drop")],
)
def test_a_foreign_verdict_keeps_its_word(code: int, chain: str, word: str) -> None:
    verdict = attribute(1, struct.pack(">i", code))
    if chain:
        verdict += attribute(2, chain.encode() + b"\0")
    key = attribute(1, attribute(1, bytes([10, 96, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0])))
    element = key + attribute(2, attribute(2, verdict)) + expression(3)
    layout = LAYOUTS["services"]
    observed = read(layout, Family.IPV4, [body(layout, Family.IPV4, [element])])
    assert observed.elements == {("10.96.0.1", 6, 80): Verdict(word)}


def test_a_range_that_is_no_network_is_told_as_a_range() -> None:
    layout = LAYOUTS["allowed-sources"]
    front = bytes([10, 96, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0])
    first, last = front + bytes([10, 0, 0, 1]), front + bytes([10, 0, 0, 9])
    element = attribute(1, attribute(1, first)) + attribute(10, attribute(1, last))
    observed = read(layout, Family.IPV4, [body(layout, Family.IPV4, [element])])
    assert list(observed.elements) == [("10.96.0.1", 6, 80, "10.0.0.1-10.0.0.9")]


def test_elements_of_another_set_are_an_error() -> None:
    with pytest.raises(WireError, match="restricted"):
        read(LAYOUTS["services"], Family.IPV4, [body(LAYOUTS["restricted"], Family.IPV4, [])])


def test_verdicts_are_read_alike_fast_and_slowly() -> None:
    """An attribute that no kernel sends today stops the fast way in the middle of a list."""
    layout = LAYOUTS["services"]
    sent: dict[Key, Value] = {
        (f"10.96.0.{n}", 6, 80): Verdict("pick-" + "1" * n, "x" * n) for n in range(9)
    }
    (message,) = add_elements(layout, Family.IPV4, sent.items())
    elements = [with_counter(element, 5) for element in elements_of(message)]
    elements[4] += attribute(77, b"news")
    observed = read(layout, Family.IPV4, [body(layout, Family.IPV4, elements)])
    assert observed.elements == sent
    assert observed.packets == dict.fromkeys(sent, (5,))


@pytest.mark.parametrize(("family", "layout"), EVERY_SHAPE, ids=identify)
@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_damaged_bytes_are_an_error_or_nothing(
    family: Family, layout: SetLayout, data: st.DataObject
) -> None:
    """Cut, zeroed lengths, lengths beyond the end, flipped bytes."""
    bodies = dump(layout, family, data.draw(entries(layout, family)), 6)
    raw = bytearray(b"".join(bodies[:1]))
    for position, byte in data.draw(
        st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), max_size=4)
    ):
        if raw:
            raw[position % len(raw)] = byte
    cut = data.draw(st.integers(0, len(raw)))
    try:
        observed = read(layout, family, [bytes(raw[:cut])])
    except WireError:
        return
    assert isinstance(observed.elements, dict)


@given(raw=st.binary(max_size=200), flags=st.integers(0, 0xFFFF))
@settings(deadline=None)
def test_random_bytes_are_an_error_or_nothing(raw: bytes, flags: int) -> None:
    for kind in (MessageType.NLMSG_ERROR, MessageType.NLMSG_DONE):
        with suppress(WireError):
            assert answer(Reply(kind, flags, 1, raw)).sequence == 1
    with suppress(WireError):
        assert sum(16 + len(reply.body) for reply in replies(raw)) <= len(raw)
    with suppress(WireError):
        assert sum(4 + end - start for _, start, end in attributes(raw, 0, len(raw))) <= len(raw)


@pytest.mark.parametrize("length", [0, 3, 15, 17, 1 << 31])
def test_a_message_of_a_wrong_length_is_an_error(length: int) -> None:
    with pytest.raises(WireError):
        list(replies(struct.pack("=IHHII", length, 3, 0, 1, 0)))


@pytest.mark.parametrize("length", [0, 3, 9, 0xFFFF])
def test_an_attribute_of_a_wrong_length_is_an_error(length: int) -> None:
    with pytest.raises(WireError):
        list(attributes(struct.pack("=HHI", length, 1, 0), 0, 8))


def test_nesting_does_not_deepen_the_reader() -> None:
    """Each level is read where it has a meaning, so a thousand levels are just bytes."""
    deep = b""
    for _ in range(1000):
        deep = attribute(1 | 0x8000, deep)
    key = attribute(1, attribute(1, bytes([10, 0, 0, 1]))) + deep[:0]
    layout = LAYOUTS["cluster-ips"]
    with pytest.raises(WireError):
        read(layout, Family.IPV4, [body(layout, Family.IPV4, [deep])])
    element = key + attribute(200, deep)
    observed = read(layout, Family.IPV4, [body(layout, Family.IPV4, [element])])
    assert observed.elements == {("10.0.0.1",): None}


def test_an_answer_says_what_the_kernel_said() -> None:
    quoted = struct.pack("=IHHII", 40, 0x0A0C, 1, 9, 0)
    words = attribute(1, b"out of luck\0") + attribute(2, struct.pack("=I", 60))
    capped = Reply(MessageType.NLMSG_ERROR, 0x300, 9, struct.pack("=i", -17) + quoted + words)
    assert answer(capped) == (9, 17, "out of luck", 60)
    whole = struct.pack("=i", -17) + quoted + bytes(24) + words
    assert answer(Reply(MessageType.NLMSG_ERROR, 0x200, 9, whole)) == (9, 17, "out of luck", 60)
    success = Reply(MessageType.NLMSG_ERROR, 0, 9, struct.pack("=i", 0) + quoted)
    assert answer(success) == (9, 0, "", 0)
