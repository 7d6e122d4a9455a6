"""Dumps of sets to typed elements: what GETSETELEM answers, read in one pass.

Elements of one set and one kernel are built alike, so a map of slots, the large kind, is read with
one ``struct.Struct`` for all its elements, and each element's headers are compared with those of
the first. Whatever differs is read attribute by attribute, which also judges hostile bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple, TypeAlias

from netplane.core.model.address import Family
from netplane.core.nftables.layout import Key, SetLayout, Value, Values, Verdict
from netplane.core.nftables.observed import HOLE, Count, Counts
from netplane.core.nftables.wire import (
    NFGEN_SIZE,
    attribute,
    attribute_header,
    attributes,
    read_number,
    read_text,
)
from netplane.core.nftables.wire_elements import (
    NFT_GOTO,
    NFTA_DATA_VALUE,
    NFTA_DATA_VERDICT,
    NFTA_LIST_ELEM,
    NFTA_SET_ELEM_DATA,
    NFTA_SET_ELEM_EXPR,
    NFTA_SET_ELEM_KEY,
    NFTA_SET_ELEM_KEY_END,
    NFTA_SET_ELEM_LIST_ELEMENTS,
    NFTA_SET_ELEM_LIST_SET,
    NFTA_SET_ELEM_USERDATA,
    NFTA_VERDICT_CHAIN,
    NFTA_VERDICT_CODE,
    VERDICT_CODES,
)
from netplane.core.nftables.wire_keys import (
    ADDRESS_SIZE,
    SLOT,
    key_size,
    key_unpacker,
    unpack_backend,
    unpack_source,
)
from netplane.core.plan.port import Backend
from netplane.errors import WireError

_NFTA_EXPR_DATA = 2
_NFTA_COUNTER_BYTES = 1
_NFTA_COUNTER_PACKETS = 2
_NFT_JUMP: Final = -3
_VERDICT_WORDS: Final = {code: word for word, code in VERDICT_CODES.items()}
_SLOT_LIMIT = 1 << 16  # the key is declared as `numgen random mod 65536`
_LENGTH = struct.Struct("=H")
_ELEMENT_TYPE = attribute_header(NFTA_LIST_ELEM, 0)[2:]
_DATA_TYPE = attribute_header(NFTA_SET_ELEM_DATA, 0)[2:]
_COMMENT_HEAD = 6
_COMMENT_TYPES = attribute_header(NFTA_SET_ELEM_USERDATA, 0)[2:] + b"\0"
# EXPR{NAME "counter", DATA{BYTES, PACKETS}}: headers, the bytes counted, a header, the packets.
COUNTER = struct.Struct(">24s8x4sQ")
COUNTER_HEADERS = (
    attribute_header(NFTA_SET_ELEM_EXPR, 40)
    + attribute(1, b"counter\0")
    + attribute_header(_NFTA_EXPR_DATA, 24)
    + attribute_header(1, 8),
    attribute_header(_NFTA_COUNTER_PACKETS, 8),
)


class Dump(NamedTuple):
    """The elements of one set.

    Attributes:
        elements: As ``layout`` describes them; HOLE stands where a slot below the highest one has
            no element.
        packets: By the same keys, where elements have counters: one number per slot, else one.
    """

    elements: dict[Key, Value]
    packets: dict[Key, tuple[int, ...]]


class RawElement(NamedTuple):
    """An element's parts, not interpreted; ``packets`` and ``octets`` are -1 without a counter."""

    key: bytes
    key_end: bytes
    value: bytes
    verdict: str
    comment: str
    packets: int
    octets: int


_Slots: TypeAlias = dict[bytes, dict[bytes, tuple[bytes, int]]]


def element_lists(body: bytes, layout: SetLayout) -> Iterator[tuple[int, int]]:
    """Where the lists of elements in one NEWSETELEM message start and end.

    Raises:
        WireError: It is none, or not of that set.
    """
    if len(body) < NFGEN_SIZE:
        raise WireError("half a netfilter header", len(body))
    for kind, start, end in attributes(body, NFGEN_SIZE, len(body)):
        if kind == NFTA_SET_ELEM_LIST_SET:
            name = read_text(body, start, end)
            if name != layout.name:
                raise WireError(f"elements of {name!r} for {layout.name!r}", start)
        elif kind == NFTA_SET_ELEM_LIST_ELEMENTS:
            yield start, end


def read_counts(body: bytes, layout: SetLayout, family: Family) -> Counts:
    """The counters in one NEWSETELEM message, from its ``nfgenmsg`` on.

    Raises:
        WireError: It is none, or not of that set.
    """
    unpack, size = key_unpacker(layout.keys, family), key_size(layout.keys, family)
    slotted = layout.values is Values.SLOTS
    found: Counts = {}
    for start, end in element_lists(body, layout):
        for _, first, last in attributes(body, start, end):
            raw = read_element(body, first, last)
            if len(raw.key) != size + (SLOT.size if slotted else 0):
                raise WireError(f"a key of {len(raw.key)} bytes in {layout.name}", first)
            slot = SLOT.unpack_from(raw.key, size)[0] if slotted else -1
            if raw.packets >= 0:
                found[unpack(raw.key[:size]), slot] = Count(raw.packets, max(raw.octets, 0))
    return found


class DumpReader:
    """Collects the messages of one set's dump: ``feed`` each, then ``finish``.

    Every method raises WireError for bytes that are not elements of that set.
    """

    def __init__(self, layout: SetLayout, family: Family) -> None:
        self._layout = layout
        self._family = family
        self._key_size = key_size(layout.keys, family)
        self._value_size = ADDRESS_SIZE[family] + 4
        self._read = 0
        self._slots: _Slots = {}  # frontend, slot: backend and packets, in the kernel's bytes
        self._elements: dict[Key, Value] = {}
        self._packets: dict[Key, tuple[int, ...]] = {}

    def feed(self, body: bytes) -> None:
        """Read one NEWSETELEM message, from its ``nfgenmsg`` on."""
        for start, end in element_lists(body, self._layout):
            self._feed_list(body, start, end)

    @property
    def repeated(self) -> bool:
        """Whether an element came twice: then another is missing, and the dump is worth nothing.

        The kernel resumes a dump by counting elements, in the order of a hash table that grows in
        the background (rhashtable's deferred work, nft_rhash_walk). Where it did between two parts
        of a dump, the order is new, and no generation has changed. The positions reported are at
        least as many as there are elements, so without a repetition nothing can be missing.
        """
        distinct = len(self._elements) + sum(map(len, self._slots.values()))
        return distinct != self._read

    def finish(self) -> Dump:
        """Everything read so far, slots put in order."""
        if self._slots:
            self._join_slots()
        return Dump(self._elements, self._packets)

    def _feed_list(self, body: bytes, start: int, end: int) -> None:
        uniform = self._layout.values is Values.SLOTS and self._layout.counter and start < end
        if uniform and self._feed_uniform(body, start, end):
            return
        if self._layout.values is Values.VERDICT:
            start = self._feed_verdicts(body, start, end)
        for kind, first, last in attributes(body, start, end):
            if kind != NFTA_LIST_ELEM:
                raise WireError(f"a list with an attribute of type {kind}", first)
            self._feed_element(body, first, last)

    def _feed_uniform(self, body: bytes, start: int, end: int) -> bool:
        """Read a list of counted slots if its elements are all built alike; False if not."""
        front, value = self._key_size, self._value_size
        # Three headers, the key, two headers, the backend; EXPR, NAME and its string, DATA and
        # BYTES in 24 bytes, the bytes counted, PACKETS, the packets counted.
        row = struct.Struct(f">12x{front}s{SLOT.size}s8x{value}s24x8x4xQ")
        if not self._is_regular(body, start, end, row):
            return False
        size, data, counter = row.size, 12 + front + SLOT.size, 20 + front + SLOT.size + value
        headers = (*range(12), *range(data, data + 8), *range(counter, counter + 24))
        count = (end - start) // size
        for offset in (*headers, *range(counter + 32, counter + 36)):
            # A column of one byte per element: the same everywhere, or they are not alike.
            if body[start + offset : end : size].count(body[start + offset]) != count:
                return False
        self._read += count
        slots = self._slots
        for frontend, slot, backend, packets in row.iter_unpack(body[start:end]):
            entry = slots.get(frontend)
            if entry is None:
                entry = slots[frontend] = {}
            entry[slot] = (backend, packets)
        return True

    def _is_regular(self, body: bytes, start: int, end: int, row: struct.Struct) -> bool:
        """Whether a list may be such rows: its first element is one, and its size fits."""
        if (end - start) % row.size or _LENGTH.unpack_from(body, start)[0] != row.size:
            return False
        try:
            raw = read_element(body, start + 4, start + row.size)
        except WireError:
            return False
        frontend, slot, backend, packets = row.unpack_from(body, start)
        return raw[:6] == (frontend + slot, b"", backend, "", "", packets)

    def _feed_verdicts(self, body: bytes, start: int, end: int) -> int:
        """Read the elements of a verdict map while they are built as kernels build them.

        They differ in the lengths of a chain's name and of a comment alone. Returns where the
        first one starts that is built otherwise, or the end.
        """
        head = struct.Struct(f"=H2s8s{self._key_size}sH2s")
        headers = attribute_header(NFTA_SET_ELEM_KEY, 4 + self._key_size)
        headers += attribute_header(NFTA_DATA_VALUE, self._key_size)
        expected = (_ELEMENT_TYPE, headers, _DATA_TYPE)
        counted = COUNTER.size if self._layout.counter else 0
        unpack_key = key_unpacker(self._layout.keys, self._family)
        chains: dict[bytes, str] = {}  # a few for every Service
        elements, counts, packets = self._elements, self._packets, 0
        while end - start > head.size:
            length, kind, inner, raw, data, data_kind = head.unpack_from(body, start)
            value = start + head.size
            position = value + ((data - 1) & ~3)
            last = start + length
            if (kind, inner, data_kind) != expected or last > end or position + counted > last:
                break
            if counted:
                before, between, packets = COUNTER.unpack_from(body, position)
                if (before, between) != COUNTER_HEADERS:
                    break
                position += counted
            comment = _fast_comment(body[position:last])
            if comment is None:
                break
            said = body[value : value + data - 4]
            chain = chains.get(said)
            if chain is None:
                chain = chains[said] = _read_data(said, 0, len(said))[1]
                if not chain:
                    break
            key = unpack_key(raw)
            elements[key] = Verdict(chain, comment)
            if counted:
                counts[key] = (packets,)
            self._read += 1
            start += (length + 3) & ~3
        return start

    def _slot(self, frontend: bytes) -> dict[bytes, tuple[bytes, int]]:
        return self._slots.setdefault(frontend, {})

    def _feed_element(self, body: bytes, start: int, end: int) -> None:
        layout = self._layout
        raw = read_element(body, start, end)
        self._read += 1
        slot_size = SLOT.size if layout.values is Values.SLOTS else 0
        if len(raw.key) != self._key_size + slot_size:
            raise WireError(f"a key of {len(raw.key)} bytes in {layout.name}", start)
        if layout.values is Values.SLOTS:
            if len(raw.value) != self._value_size:
                raise WireError(f"a backend of {len(raw.value)} bytes in {layout.name}", start)
            size = self._key_size
            self._slot(raw.key[:size])[raw.key[size:]] = (raw.value, raw.packets)
            return
        key = self._read_key(raw)
        if layout.values is Values.VERDICT:
            if not raw.verdict:
                raise WireError(f"an element without a verdict in {layout.name}", start)
            self._elements[key] = Verdict(raw.verdict, raw.comment)
        else:
            self._elements[key] = None
        if raw.packets >= 0:
            self._packets[key] = (raw.packets,)

    def _read_key(self, raw: RawElement) -> Key:
        if not self._layout.interval:
            return key_unpacker(self._layout.keys, self._family)(raw.key)
        return unpack_source(self._family, raw.key, raw.key_end or raw.key)

    def _join_slots(self) -> None:
        unpack_key = key_unpacker(self._layout.keys, self._family)
        numbers = [SLOT.pack(slot) for slot in range(max(map(len, self._slots.values())))]
        counted = self._layout.counter
        for frontend, entry in self._slots.items():
            key = unpack_key(frontend)
            try:
                rows = [entry[slot] for slot in numbers[: len(entry)]]
            except KeyError:
                self._elements[key], self._packets[key] = _with_holes(entry)
                continue
            self._elements[key] = tuple([unpack_backend(backend) for backend, _ in rows])
            if counted:
                self._packets[key] = tuple([packets for _, packets in rows])


def _with_holes(
    entry: dict[bytes, tuple[bytes, int]],
) -> tuple[tuple[Backend, ...], tuple[int, ...]]:
    """The backends and packets of an entry whose slots are not 0..N-1, which ours always are."""
    rows = {SLOT.unpack(slot)[0]: row for slot, row in entry.items()}
    size = max(rows) + 1
    if size > _SLOT_LIMIT:
        raise WireError(f"a frontend with the slot {size - 1}")
    backends, packets = [HOLE] * size, [0] * size
    for slot, (backend, count) in rows.items():
        backends[slot] = unpack_backend(backend)
        packets[slot] = max(count, 0)
    return tuple(backends), tuple(packets)


def read_element(body: bytes, start: int, end: int) -> RawElement:
    """The parts of the element between two offsets, its own header not included.

    Raises:
        WireError: It has no key, or an attribute is broken.
    """
    key = key_end = value = b""
    verdict = comment = ""
    packets = octets = -1
    for kind, first, last in attributes(body, start, end):
        if kind == NFTA_SET_ELEM_KEY:
            key = _read_value(body, first, last)
        elif kind == NFTA_SET_ELEM_KEY_END:
            key_end = _read_value(body, first, last)
        elif kind == NFTA_SET_ELEM_DATA:
            value, verdict = _read_data(body, first, last)
        elif kind == NFTA_SET_ELEM_USERDATA:
            comment = _read_comment(body[first:last])
        elif kind == NFTA_SET_ELEM_EXPR:
            packets, octets = _read_counter(body, first, last)
    if not key or (key_end and len(key_end) != len(key)):
        raise WireError("an element without a whole key", start)
    return RawElement(key, key_end, value, verdict, comment, packets, octets)


def _read_value(body: bytes, start: int, end: int) -> bytes:
    for kind, first, last in attributes(body, start, end):
        if kind == NFTA_DATA_VALUE:
            return body[first:last]
    raise WireError("a key without a value", start)


def _read_data(body: bytes, start: int, end: int) -> tuple[bytes, str]:
    for kind, first, last in attributes(body, start, end):
        if kind == NFTA_DATA_VALUE:
            return body[first:last], ""
        if kind == NFTA_DATA_VERDICT:
            return b"", _read_verdict(body, first, last)
    raise WireError("a value without data", start)


def _read_verdict(body: bytes, start: int, end: int) -> str:
    """The chain of a goto, or nft's words for a verdict that somebody else put there."""
    code, chain = 0, ""
    for kind, first, last in attributes(body, start, end):
        if kind == NFTA_VERDICT_CODE:
            code = read_number(body, first, last)
            code -= (code & 0x80000000) << 1
        elif kind == NFTA_VERDICT_CHAIN:
            chain = read_text(body, first, last)
    if code == NFT_GOTO and chain:
        return chain
    if code == _NFT_JUMP and chain:
        return f"jump {chain}"
    if code not in _VERDICT_WORDS:
        raise WireError(f"a verdict with the code {code}", start)
    return _VERDICT_WORDS[code]


def _read_comment(raw: bytes) -> str:
    """The comment among type-length-values of one byte each; "" where there is none."""
    position = 0
    while position + 2 <= len(raw):
        kind, size = raw[position], raw[position + 1]
        payload = raw[position + 2 : position + 2 + size]
        if kind == 0:
            return payload.partition(b"\0")[0].decode(errors="replace")
        position += 2 + size
    return ""


def _fast_comment(raw: bytes) -> str | None:
    """The comment in what follows an element's counter; None where it is not just a comment."""
    if not raw:
        return ""
    size = len(raw)
    # USERDATA's header; a type of 0, a length that fits the rest but padding; the text and a NUL.
    if size > _COMMENT_HEAD and raw[2:5] == _COMMENT_TYPES:
        inner = raw[5]
        if 0 < inner <= size - _COMMENT_HEAD < inner + 4 and not raw[5 + inner]:
            return raw[_COMMENT_HEAD : _COMMENT_HEAD + inner - 1].decode(errors="replace")
    return None


def _read_counter(body: bytes, start: int, end: int) -> tuple[int, int]:
    """The packets and bytes of a counter expression; -1 where it is something else."""
    for kind, first, last in attributes(body, start, end):
        if kind == _NFTA_EXPR_DATA:
            counted = {
                inner: int.from_bytes(body[low:high], "big")
                for inner, low, high in attributes(body, first, last)
                if high - low == 8  # noqa: PLR2004 (a u64)
            }
            return counted.get(_NFTA_COUNTER_PACKETS, -1), counted.get(_NFTA_COUNTER_BYTES, -1)
    return -1, -1
