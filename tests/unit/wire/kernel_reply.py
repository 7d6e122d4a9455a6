"""Dumps as a kernel would send them: what was added, with counters, in messages of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from netplane.core.model.address import Family
from netplane.core.nftables.layout import Key, SetLayout, Value, Values
from netplane.core.nftables.wire import Message, attribute, attributes
from netplane.core.nftables.wire_elements import add_elements, list_head


def expression(packets: int) -> bytes:
    """``EXPR{NAME "counter", DATA{BYTES, PACKETS}}``, as nf_tables_fill_setelem writes it."""
    counts = attribute(1, (packets * 60).to_bytes(8, "big")) + attribute(
        2, packets.to_bytes(8, "big")
    )
    return attribute(7, attribute(1, b"counter\0") + attribute(2, counts))


def elements_of(message: Message) -> Iterator[bytes]:
    """The payload of each element of a message."""
    raw = message.attributes
    (listed,) = ((a, b) for kind, a, b in attributes(raw, 0, len(raw)) if kind == 3)
    for _, start, end in attributes(raw, *listed):
        yield raw[start:end]


def body(layout: SetLayout, family: Family, elements: Iterable[bytes]) -> bytes:
    """A NEWSETELEM message from its ``nfgenmsg`` on."""
    nfgen = bytes([2 if family is Family.IPV4 else 10, 0, 0, 0])
    listed = b"".join(attribute(1, element) for element in elements)
    return nfgen + list_head(layout) + attribute(3, listed)


def with_counter(element: bytes, packets: int) -> bytes:
    """An element with a counter, which the kernel writes before the comment."""
    parts = [(kind, element[a:b]) for kind, a, b in attributes(element, 0, len(element))]
    before = b"".join(attribute(kind, payload) for kind, payload in parts if kind != 6)
    after = b"".join(attribute(kind, payload) for kind, payload in parts if kind == 6)
    return before + expression(packets) + after


def dump(layout: SetLayout, family: Family, entries: dict[Key, Value], each: int) -> list[bytes]:
    """A whole dump, so many elements to a message, the last elements first."""
    elements = [
        element
        for message in add_elements(layout, family, entries.items())
        for element in elements_of(message)
    ]
    if layout.counter:
        elements = [with_counter(element, n) for n, element in enumerate(elements)]
    elements.reverse()
    return [body(layout, family, elements[i : i + each]) for i in range(0, len(elements), each)]


def packets_of(layout: SetLayout, entries: dict[Key, Value]) -> dict[Key, tuple[int, ...]]:
    """The packets that ``dump`` counts."""
    if not layout.counter:
        return {}
    counted, n = {}, 0
    for key, value in entries.items():
        size = len(value) if layout.values is Values.SLOTS and value is not None else 1
        counted[key] = tuple(range(n, n + size))
        n += size
    return counted
