"""What a set holds, told by how it differs from what it should hold.

A table is mostly as it was left. So an expected set is packed into the kernel's bytes and compared
with a dump while that comes; only what differs is ever read as typed elements. It costs a third of
reading everything, and the memory of one element per message.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Final

from netplane.core.model.address import Family
from netplane.core.model.service import Protocol
from netplane.core.nftables.diff import backends_of
from netplane.core.nftables.layout import Key, Keys, SetLayout, Value, Values, Verdict
from netplane.core.nftables.observed import HOLE
from netplane.core.nftables.wire import attribute_header, attributes
from netplane.core.nftables.wire_dump import (
    COUNTER,
    COUNTER_HEADERS,
    RawElement,
    element_lists,
    read_element,
)
from netplane.core.nftables.wire_elements import (
    NFTA_DATA_VALUE,
    NFTA_LIST_ELEM,
    NFTA_SET_ELEM_DATA,
    NFTA_SET_ELEM_KEY,
    NFTA_SET_ELEM_KEY_END,
    comment_attribute,
    verdict_value,
)
from netplane.core.nftables.wire_keys import (
    ADDRESS_SIZE,
    SLOT,
    backend_struct,
    key_end_packer,
    key_packer,
    key_size,
    key_unpacker,
    pack_address,
    unpack_backend,
    unpack_source,
)
from netplane.core.plan.port import Backend
from netplane.errors import WireError

_LENGTH = struct.Struct("=H")
_KEY_AT: Final = 12  # LIST_ELEM's, KEY's and VALUE's headers
_HEADERS: Final = 8  # two
_SLOT_LIMIT: Final = 1 << 16  # the key is declared as `numgen random mod 65536`
_PROTOCOLS: Final = frozenset(map(int, Protocol))
#: Where a key has its protocol.
_PROTOCOL_AT: Final = {Keys.FRONTEND: 1, Keys.PORT: 0, Keys.FLOW: 2, Keys.SOURCE: 1}
# What we leave in a comment, and where verdicts lead: whatever else is not ours.
_LABEL = re.compile(r"[A-Za-z0-9._/:-]*")
_CHAIN = re.compile(r"[A-Za-z0-9._ -]+")


class Comparison:
    """Compares the messages of one set's dump with what it should hold: ``feed``, then ``finish``.

    Every method raises WireError for bytes that are not elements of that set.

    Attributes:
        foreign: There are elements that are none of ours in form; only nft can tell what.
        repeated: An element came twice, so another is missing; see ``DumpReader.repeated``.
    """

    def __init__(self, layout: SetLayout, family: Family, wanted: dict[Key, Value]) -> None:
        self.foreign = False
        self.repeated = False
        self._layout = layout
        self._family = family
        self._wanted = wanted
        self._size = key_size(layout.keys, family)
        self._missing: dict[bytes, bytes] = {}
        self._strange: dict[tuple[Key, int], Value | Backend] = {}
        match layout.values:
            case Values.SLOTS:
                self._expect_slots()
            case Values.VERDICT:
                self._expect_verdicts()
            case Values.NONE:
                self._expect_keys()

    def feed(self, body: bytes) -> None:
        """Read one NEWSETELEM message, from its ``nfgenmsg`` on."""
        for start, end in element_lists(body, self._layout):
            self._feed_list(body, start, end)

    def finish(self) -> dict[Key, Value]:
        """What the set holds; meaningless where ``foreign`` or ``repeated`` is set.

        It is the very mapping that was expected where nothing differs. HOLE stands where a slot
        below the highest one has no element.
        """
        if not self._strange and not self._missing:
            return self._wanted
        gone = [self._typed_key(raw) for raw in self._missing]
        if self._layout.values is Values.SLOTS:
            return self._with_slots(gone)
        found = dict(self._wanted)
        for key, _ in gone:
            found.pop(key, None)
        for (key, _), value in self._strange.items():
            assert not isinstance(value, Backend), "backends are in SLOTS maps"
            found[key] = value
        return found

    def _with_slots(self, gone: list[tuple[Key, int]]) -> dict[Key, Value]:
        """The entries of a SLOTS map: those that differ are put together slot by slot."""
        found = dict(self._wanted)
        keys = dict.fromkeys(key for key, _ in (*gone, *self._strange))
        slots = {key: dict(enumerate(backends_of(found.get(key, ())))) for key in keys}
        for key, slot in gone:
            slots[key].pop(slot, None)
        for (key, slot), value in self._strange.items():
            assert isinstance(value, Backend), "a SLOTS map holds backends"
            slots[key][slot] = value
        for key, by_slot in slots.items():
            size = max(by_slot, default=-1) + 1
            found.pop(key, None)
            if by_slot and size <= _SLOT_LIMIT:
                found[key] = tuple([by_slot.get(slot, HOLE) for slot in range(size)])
        return found

    def _expect_slots(self) -> None:
        """Pack what a SLOTS map should hold: 50,000 of these for 10,000 Services."""
        pack_key, pack = key_packer(self._layout.keys, self._family), backend_struct(self._family)
        pack_backend = pack.pack
        numbers: list[bytes] = []
        missing = self._missing
        for key, value in self._wanted.items():
            backends = backends_of(value)
            while len(numbers) < len(backends):
                numbers.append(SLOT.pack(len(numbers)))
            head = pack_key(key)
            for number, (address, port) in zip(numbers, backends, strict=False):
                missing[head + number] = pack_backend(pack_address(address), port)

    def _expect_verdicts(self) -> None:
        pack_key = key_packer(self._layout.keys, self._family)
        values: dict[str, bytes] = {}
        for key, verdict in self._wanted.items():
            assert isinstance(verdict, Verdict), "a verdict map holds verdicts"
            chain, comment = verdict
            value = values.get(chain)
            if value is None:
                value = values[chain] = verdict_value(chain, 0)
            self._missing[pack_key(key)] = value + comment_attribute(comment) if comment else value

    def _expect_keys(self) -> None:
        pack = key_packer(self._layout.keys, self._family)
        if not self._layout.interval:
            self._missing.update((pack(key), b"") for key in self._wanted)
            return
        pack_end = key_end_packer(self._family)
        self._missing.update((pack(key) + pack_end(key), b"") for key in self._wanted)

    def _feed_list(self, body: bytes, start: int, end: int) -> None:
        match self._layout.values:
            case Values.SLOTS:
                start = end if self._feed_slots(body, start, end) else start
            case Values.VERDICT:
                start = self._feed_verdicts(body, start, end)
            case Values.NONE:
                start = end if self._feed_keys(body, start, end) else start
        for kind, first, last in attributes(body, start, end):
            if kind != NFTA_LIST_ELEM:
                raise WireError(f"a list with an attribute of type {kind}", first)
            self._take(body, first, last)

    def _feed_slots(self, body: bytes, start: int, end: int) -> bool:
        """Read a list of counted slots if its elements are all built alike; False if not."""
        key, value = self._size + SLOT.size, ADDRESS_SIZE[self._family] + 4
        row = struct.Struct(f">{_KEY_AT}x{key}s{_HEADERS}x{value}s24x8x4x8x")
        data = _KEY_AT + key
        counter = data + _HEADERS + value
        headers = {
            0: _element_headers(row.size, key),
            data: attribute_header(NFTA_SET_ELEM_DATA, 4 + value) + _value_header(value),
            counter: COUNTER_HEADERS[0],
            counter + 32: COUNTER_HEADERS[1],
        }
        if not _alike(body, start, end, row.size, headers):
            return False
        pop = self._missing.pop
        for raw, backend in row.iter_unpack(body[start:end]):
            held = pop(raw, None)
            if held != backend:
                self._differ(self._typed_key(raw), unpack_backend(backend), held)
        return True

    def _feed_keys(self, body: bytes, start: int, end: int) -> bool:
        """Read a list of keys without values if they are all built alike; False if not."""
        size = self._size
        if self._layout.interval:
            row = struct.Struct(f"{_KEY_AT}x{size}s{_HEADERS}x{size}s")
            last = attribute_header(NFTA_SET_ELEM_KEY_END, 4 + size) + _value_header(size)
            headers = {0: _element_headers(row.size, size), _KEY_AT + size: last}
        else:
            row = struct.Struct(f"{_KEY_AT}x{size}s")
            headers = {0: _element_headers(row.size, size)}
        if not _alike(body, start, end, row.size, headers):
            return False
        pop = self._missing.pop
        for parts in row.iter_unpack(body[start:end]):
            raw = b"".join(parts)
            held = pop(raw, None)
            if held is None:
                self._differ(self._typed_key(raw), None, held)
        return True

    def _feed_verdicts(self, body: bytes, start: int, end: int) -> int:
        """Read a list of verdicts; returns where one starts that is not as expected, or the end.

        They differ in length by their chain and their comment, so each is compared by itself.
        """
        size = self._size
        head = _element_headers(0, size)[2:]
        key_end = _KEY_AT + size
        counted = self._layout.counter
        missing = self._missing
        while start < end:
            (length,) = _LENGTH.unpack_from(body, start)
            last = start + length
            held = missing.get(body[start + _KEY_AT : start + key_end])
            if held is None or last > end or body[start + 2 : start + _KEY_AT] != head:
                return start
            tail = body[start + key_end : last]
            if counted:
                at = _LENGTH.unpack_from(tail)[0] + 3 & ~3  # the verdict, then the counter
                if tail[at : at + 24] != COUNTER_HEADERS[0]:
                    return start
                tail = tail[:at] + tail[at + COUNTER.size :]
            if tail != held:
                return start
            del missing[body[start + _KEY_AT : start + key_end]]
            start = last
        return start

    def _take(self, body: bytes, start: int, end: int) -> None:
        """Read one element of whatever form, without its own header."""
        layout, raw = self._layout, read_element(body, start, end)
        slot_size = SLOT.size if layout.values is Values.SLOTS else 0
        if len(raw.key) != self._size + slot_size:
            raise WireError(f"a key of {len(raw.key)} bytes in {layout.name}", start)
        packed = raw.key + (raw.key_end or raw.key) if layout.interval else raw.key
        held = self._missing.pop(packed, None)
        place = self._typed_key(packed)
        value = self._typed_value(raw)
        if held is None or value != self._expected(place):
            self._differ(place, value, held)

    def _typed_value(self, raw: RawElement) -> Value | Backend:
        match self._layout.values:
            case Values.SLOTS:
                if len(raw.value) != ADDRESS_SIZE[self._family] + 4:
                    raise WireError(f"a backend of {len(raw.value)} bytes in {self._layout.name}")
                return unpack_backend(raw.value)
            case Values.VERDICT:
                if not raw.verdict:
                    raise WireError(f"an element without a verdict in {self._layout.name}")
                return Verdict(raw.verdict, raw.comment)
            case Values.NONE:
                return None

    def _typed_key(self, raw: bytes) -> tuple[Key, int]:
        """A key and its slot, -1 where there are none; sets ``foreign`` where it is not ours."""
        layout, slot = self._layout, -1
        if layout.interval:
            key = unpack_source(self._family, raw[: self._size], raw[self._size :])
            self.foreign |= "-" in str(key[-1])
        else:
            key = key_unpacker(layout.keys, self._family)(raw[: self._size])
            if layout.values is Values.SLOTS:
                slot = SLOT.unpack_from(raw, self._size)[0]
                self.foreign |= slot >= _SLOT_LIMIT
        at = _PROTOCOL_AT.get(layout.keys)
        self.foreign |= at is not None and key[at] not in _PROTOCOLS
        return key, slot

    def _expected(self, place: tuple[Key, int]) -> Value | Backend:
        key, slot = place
        value = self._wanted.get(key)
        if slot < 0 or value is None:
            return value
        backends = backends_of(value)
        return backends[slot] if slot < len(backends) else None

    def _differ(self, place: tuple[Key, int], value: Value | Backend, held: object) -> None:
        """Take an element that is not as expected: ``held`` is what was, None for nothing more."""
        key, _ = place
        if isinstance(value, Verdict):
            self.foreign |= not (_LABEL.fullmatch(value.comment) and _CHAIN.fullmatch(value.chain))
        was_read = place in self._strange
        if held is None and not was_read:
            # Expected and not missing any more: it has come before.
            wanted = self._layout.values is Values.NONE and key in self._wanted
            was_read = wanted or self._expected(place) is not None
        self.repeated |= was_read
        self._strange[place] = value


def _element_headers(total: int, key: int) -> bytes:
    """The headers before an element's key, in an element of so many bytes."""
    return (
        attribute_header(NFTA_LIST_ELEM, total - 4)
        + attribute_header(NFTA_SET_ELEM_KEY, 4 + key)
        + _value_header(key)
    )


def _value_header(size: int) -> bytes:
    return attribute_header(NFTA_DATA_VALUE, size)


def _alike(body: bytes, start: int, end: int, size: int, headers: Mapping[int, bytes]) -> bool:
    """Whether a list is elements of one size which all have these headers at these offsets."""
    count, rest = divmod(end - start, size)
    if rest:
        return False
    for offset, header in headers.items():
        for at, octet in enumerate(header, start + offset):
            # A column of one byte per element, counted by the interpreter's own loop.
            if body[at:end:size].count(octet) != count:
                return False
    return True
