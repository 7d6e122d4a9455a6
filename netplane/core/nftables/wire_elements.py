"""Typed elements to the messages that add and delete them.

An element is ``NFTA_LIST_ELEM{KEY{VALUE}, [KEY_END{VALUE}], [DATA{VALUE | VERDICT}], [USERDATA]}``
(``enum nft_set_elem_attributes``), the same bytes that nft 1.0.6 sends, with two simplifications
the kernel does not see: nft numbers list elements in their attribute type, and names the set by a
transaction id too. A set declared with ``counter`` needs nothing per element: the kernel gives
each element its own counter from the set's expression (``nft_set_elem_expr_setup``).

All lengths in an element are known once the set is, so the headers are packed once and an element
is a few byte strings joined. This is the path that 500,000 elements take.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from functools import cache, lru_cache
from typing import Final

from netplane.core.model.address import Family
from netplane.core.nftables.layout import Key, SetLayout, Value, Values, Verdict
from netplane.core.nftables.observed import Counts
from netplane.core.nftables.wire import (
    NLA_F_NESTED,
    TABLE_ATTRIBUTE,
    Message,
    MessageFlag,
    MessageType,
    attribute,
    attribute_header,
    number,
    text,
)
from netplane.core.nftables.wire_keys import (
    HEADS,
    OCTETS,
    SLOT,
    backend_struct,
    key_end_packer,
    key_packer,
    key_size,
    pack_address,
)
from netplane.core.plan.port import Backend

NFTA_LIST_ELEM: Final = 1
NFTA_SET_ELEM_LIST_SET: Final = 2
NFTA_SET_ELEM_LIST_ELEMENTS: Final = 3
NFTA_SET_ELEM_KEY: Final = 1
NFTA_SET_ELEM_DATA: Final = 2
NFTA_SET_ELEM_USERDATA: Final = 6
NFTA_SET_ELEM_EXPR: Final = 7
NFTA_SET_ELEM_KEY_END: Final = 10
NFTA_DATA_VALUE: Final = 1
NFTA_DATA_VERDICT: Final = 2
NFTA_VERDICT_CODE: Final = 1
NFTA_VERDICT_CHAIN: Final = 2
NFT_GOTO: Final = -4

#: Verdicts that name no chain, by the word nft has for them (linux/netfilter/nf_tables.h).
VERDICT_CODES: Final = {"drop": 0, "accept": 1, "continue": -1, "break": -2, "return": -5}

#: nft's own limit (NFTNL_UDATA_COMMENT_MAXLEN less the NUL).
COMMENT_LIMIT: Final = 127

#: Bytes of elements in one message: its list is an attribute, whose length has 16 bits.
_LIST_LIMIT = 60_000
_NO_COUNTS: Final[Counts] = {}


def add_elements(
    layout: SetLayout,
    family: Family,
    items: Iterable[tuple[Key, Value]],
    counts: Counts = _NO_COUNTS,
) -> Iterator[Message]:
    """Messages that add elements; a SLOTS entry becomes one element per slot.

    Args:
        layout: Of the set.
        family: Of the table.
        items: Keys and values.
        counts: What elements with a verdict have counted already; others start at nothing.
    """
    add = MessageType.NFT_MSG_NEWSETELEM
    if layout.values is Values.SLOTS:
        pack_entry = _slot_packer(layout, family).entry
        entries = (pack_entry(key, _slots(value)) for key, value in items)
        return _messages_of_entries(add, layout, family, entries)
    if layout.values is Values.VERDICT:
        pack = _verdict_packer(layout, family)
        added = (pack(key, _verdict(value)) for key, value in items)
        if counts:
            added = (_counted(pack(k, _verdict(v)), counts, (k, -1)) for k, v in items)
        return _messages(add, layout, family, added)
    pack_key = _key_element(layout, family)
    return _messages(add, layout, family, (pack_key(key) for key, _ in items))


def delete_elements(
    layout: SetLayout, family: Family, items: Iterable[tuple[Key, Value]]
) -> Iterator[Message]:
    """Messages that delete elements; of a SLOTS entry, every slot it has."""
    if layout.values is Values.SLOTS:
        slots = ((key, slot) for key, value in items for slot in range(len(_slots(value))))
        return delete_slots(layout, family, slots)
    pack_key = _key_element(layout, family)
    elements = (pack_key(key) for key, _ in items)
    return _messages(MessageType.NFT_MSG_DELSETELEM, layout, family, elements)


def add_slots(
    layout: SetLayout,
    family: Family,
    slots: Iterable[tuple[Key, int, Backend]],
    counts: Counts = _NO_COUNTS,
) -> Iterator[Message]:
    """Messages that add single slots of a SLOTS map's entries; see ``add_elements``."""
    pack = _slot_packer(layout, family).slot
    elements = (
        _counted(pack(key, slot, backend), counts, (key, slot)) for key, slot, backend in slots
    )
    return _messages(MessageType.NFT_MSG_NEWSETELEM, layout, family, elements)


def delete_slots(
    layout: SetLayout, family: Family, slots: Iterable[tuple[Key, int]]
) -> Iterator[Message]:
    """Messages that delete single slots of a SLOTS map's entries."""
    pack = _slot_packer(layout, family).bare
    elements = (pack(key, slot) for key, slot in slots)
    return _messages(MessageType.NFT_MSG_DELSETELEM, layout, family, elements)


def elements_message(
    kind: MessageType, layout: SetLayout, family: Family, elements: list[bytes]
) -> Message:
    """One message of packed elements, which must be at most 60,000 bytes together."""
    flags = MessageFlag.NLM_F_CREATE if kind is MessageType.NFT_MSG_NEWSETELEM else 0
    listed = attribute(NFTA_SET_ELEM_LIST_ELEMENTS | NLA_F_NESTED, b"".join(elements))
    return Message(
        kind, flags, family, list_head(layout) + listed, layout=layout, elements=len(elements)
    )


def list_head(layout: SetLayout) -> bytes:
    """The attributes before the elements: the table's and the set's name."""
    return TABLE_ATTRIBUTE + text(NFTA_SET_ELEM_LIST_SET, layout.name)


def flush_set(layout: SetLayout, family: Family) -> Message:
    """The message that empties a set: a deletion that names no element."""
    return Message(MessageType.NFT_MSG_DELSETELEM, 0, family, list_head(layout), layout=layout)


def dump_request(layout: SetLayout, family: Family) -> Message:
    """The message that asks for a set's elements."""
    flags = MessageFlag.NLM_F_DUMP
    return Message(MessageType.NFT_MSG_GETSETELEM, flags, family, list_head(layout), layout=layout)


def _messages(
    kind: MessageType, layout: SetLayout, family: Family, elements: Iterable[bytes]
) -> Iterator[Message]:
    """Fill messages with elements."""
    waiting: list[bytes] = []
    room = _LIST_LIMIT
    for element in elements:
        size = len(element)
        if size > room:
            yield elements_message(kind, layout, family, waiting)
            waiting, room = [], _LIST_LIMIT
        waiting.append(element)
        room -= size
    if waiting:
        yield elements_message(kind, layout, family, waiting)


def _messages_of_entries(
    kind: MessageType, layout: SetLayout, family: Family, entries: Iterable[list[bytes]]
) -> Iterator[Message]:
    """Fill messages with the elements of entries, which may be cut anywhere."""
    waiting: list[bytes] = []
    room = _LIST_LIMIT
    for entry in entries:
        # An entry's elements are all of one size, and so are those of all entries of a map.
        size = len(entry[0]) if entry else 0
        room -= size * len(entry)
        waiting += entry
        while room < 0:
            fits = _LIST_LIMIT // size
            yield elements_message(kind, layout, family, waiting[:fits])
            waiting = waiting[fits:]
            room = _LIST_LIMIT - size * len(waiting)
    if waiting:
        yield elements_message(kind, layout, family, waiting)


def get_request(layout: SetLayout, family: Family, places: Iterable[tuple[Key, int]]) -> Message:
    """The message that asks for single elements, of keys that fit into one message."""
    if layout.values is Values.SLOTS:
        bare = _slot_packer(layout, family).bare
        elements = [bare(key, slot) for key, slot in places]
    else:
        pack_key = _key_element(layout, family)
        elements = [pack_key(key) for key, _ in places]
    asked = elements_message(MessageType.NFT_MSG_GETSETELEM, layout, family, elements)
    return asked._replace(flags=MessageFlag.NLM_F_ACK)


def _counted(element: bytes, counts: Counts, place: tuple[Key, int]) -> bytes:
    """An element that goes on counting where another has stopped."""
    count = counts.get(place)
    if count is None:
        return element
    told = attribute(1, struct.pack(">Q", count.octets))
    told += attribute(2, struct.pack(">Q", count.packets))
    counter = text(1, "counter") + attribute(2 | NLA_F_NESTED, told)
    return attribute(
        NFTA_LIST_ELEM | NLA_F_NESTED,
        element[4:] + attribute(NFTA_SET_ELEM_EXPR | NLA_F_NESTED, counter),
    )


def _value_size(size: int) -> int:
    """The size of ``X{VALUE}`` around so many bytes, which are a multiple of four."""
    return 8 + size


def _value_header(kind: int, size: int) -> bytes:
    """The headers of ``X{VALUE}`` around so many bytes."""
    inner = attribute_header(NFTA_DATA_VALUE, size)
    return attribute_header(kind | NLA_F_NESTED, len(inner) + size) + inner


def _element_header(size: int) -> bytes:
    return attribute_header(NFTA_LIST_ELEM | NLA_F_NESTED, size)


def _key_element(layout: SetLayout, family: Family) -> Callable[[Key], bytes]:
    """A function from a key to a whole element without a value."""
    pack_key = key_packer(layout.keys, family)
    size = key_size(layout.keys, family)
    first = _value_header(NFTA_SET_ELEM_KEY, size)
    if not layout.interval:
        head = _element_header(_value_size(size)) + first
        return lambda key: head + pack_key(key)
    pack_end = key_end_packer(family)
    head = _element_header(2 * _value_size(size)) + first
    middle = _value_header(NFTA_SET_ELEM_KEY_END, size)
    return lambda key: head + pack_key(key) + middle + pack_end(key)


class _SlotPacker:
    """Packs the elements of a SLOTS map's entries."""

    def __init__(self, layout: SetLayout, family: Family) -> None:
        backend = backend_struct(family)
        size = key_size(layout.keys, family) + SLOT.size
        total = _value_size(size) + _value_size(backend.size)
        key_header = _value_header(NFTA_SET_ELEM_KEY, size)
        self._head = _element_header(total) + key_header
        self._bare = _element_header(_value_size(size)) + key_header
        self._pack_key = key_packer(layout.keys, family)
        self._pack_backend = backend.pack
        self._is_v4 = family is Family.IPV4
        self._middles = _Middles(_value_header(NFTA_SET_ELEM_DATA, backend.size))
        self._rows: dict[int, list[bytes]] = {}  # the middles of all slots, by their number

    def entry(self, key: Key, backends: tuple[Backend, ...]) -> list[bytes]:
        """The elements of all slots of an entry."""
        start = self._head + self._pack_key(key)
        count = len(backends)
        row = self._rows.get(count)
        if row is None:
            row = self._rows[count] = [self._middles[slot] for slot in range(count)]
        pack = self._pack_backend
        if self._is_v4:
            # What pack_address does, without the call of a function for each of half a million.
            heads, octets = HEADS, OCTETS
            return [
                start
                + middle
                + pack(heads[(cut := address.rpartition("."))[0]] + octets[cut[2]], port)
                for middle, (address, port) in zip(row, backends, strict=True)
            ]
        return [
            start + middle + pack(pack_address(address), port)
            for middle, (address, port) in zip(row, backends, strict=True)
        ]

    def slot(self, key: Key, slot: int, backend: Backend) -> bytes:
        """The element of one slot."""
        address, port = backend
        value = self._pack_backend(pack_address(address), port)
        return self._head + self._pack_key(key) + self._middles[slot] + value

    def bare(self, key: Key, slot: int) -> bytes:
        """The element of one slot without its value, to delete it."""
        return self._bare + self._pack_key(key) + SLOT.pack(slot)


@cache
def _slot_packer(layout: SetLayout, family: Family) -> _SlotPacker:
    """The packer of a map: to make one takes longer than to pack a change with it."""
    return _SlotPacker(layout, family)


class _Middles(dict[int, bytes]):
    """What stands between the frontend's key and the backend: the slot and DATA's headers."""

    def __init__(self, header: bytes) -> None:
        super().__init__()
        self._header = header

    def __missing__(self, slot: int) -> bytes:
        middle = self[slot] = SLOT.pack(slot) + self._header
        return middle


def _verdict_packer(layout: SetLayout, family: Family) -> Callable[[Key, Verdict], bytes]:
    """A function from a key and its verdict to a whole element."""
    pack_key = key_packer(layout.keys, family)
    size = key_size(layout.keys, family)
    key_header = _value_header(NFTA_SET_ELEM_KEY, size)
    values: dict[str, bytes] = {}  # a few chains serve every Service
    heads: dict[int, bytes] = {}  # and their comments have a few lengths

    def pack(key: Key, verdict: Verdict) -> bytes:
        chain, comment = verdict
        value = values.get(chain)
        if value is None:
            value = values[chain] = verdict_value(chain)
        if comment:
            value += comment_attribute(comment)
        head = heads.get(len(value))
        if head is None:
            head = _element_header(_value_size(size) + len(value)) + key_header
            heads[len(value)] = head
        return head + pack_key(key) + value

    return pack


def verdict_value(chain: str, nesting: int = NLA_F_NESTED) -> bytes:
    """``DATA{VERDICT{CODE, [CHAIN]}}``; a dump has it without the flag of nested attributes."""
    code = VERDICT_CODES.get(chain, NFT_GOTO)
    target = text(NFTA_VERDICT_CHAIN, chain) if code == NFT_GOTO else b""
    told = number(NFTA_VERDICT_CODE, code & 0xFFFFFFFF) + target
    return attribute(NFTA_SET_ELEM_DATA | nesting, attribute(NFTA_DATA_VERDICT | nesting, told))


def comment_attribute(comment: str) -> bytes:
    """The comment as nft keeps it: a type-length-value of type 0 (NFTNL_UDATA_*_COMMENT)."""
    raw = comment.encode()
    head, tail = _comment_frame(len(raw))
    return head + raw + tail


@lru_cache(maxsize=COMMENT_LIMIT)
def _comment_frame(size: int) -> tuple[bytes, bytes]:
    """What stands before and after a comment of so many bytes."""
    assert size <= COMMENT_LIMIT, f"a comment of {size} bytes"
    head = attribute_header(NFTA_SET_ELEM_USERDATA, size + 3) + struct.pack("2B", 0, size + 1)
    return head, bytes(1 + -(size + 3) % 4)


def _slots(value: Value) -> tuple[Backend, ...]:
    assert value is not None, "a SLOTS map holds backends"
    assert not isinstance(value, Verdict), "a SLOTS map holds backends"
    return value


def _verdict(value: Value) -> Verdict:
    assert isinstance(value, Verdict), "a verdict map holds verdicts"
    return value
