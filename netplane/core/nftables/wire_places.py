"""Which element or chain a request is about: to name what the kernel refused, and to leave it out.

A message does not carry the typed elements it was packed from; they are read back from its bytes.
That costs something only where the kernel refuses, and nothing in the common case.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from netplane.core.nftables.layout import Key, Keys, SetLayout, Values, Verdict
from netplane.core.nftables.wire import HEADER_SIZE, Message, MessageType, attributes
from netplane.core.nftables.wire_dump import read_element
from netplane.core.nftables.wire_elements import NFTA_SET_ELEM_LIST_ELEMENTS, elements_message
from netplane.core.nftables.wire_keys import (
    SLOT,
    key_size,
    key_unpacker,
    unpack_backend,
    unpack_source,
)
from netplane.core.plan.port import Backend

#: Into how many pieces the rest of a message is cut, to learn of many refusals at once.
_PIECES = 16
_FRONTEND_FIELDS = 3


class Place(NamedTuple):
    """An element, or a chain where ``layout`` is None.

    Attributes:
        slot: Of a SLOTS map's element, else -1.
        chain: The chain, or the one the element's verdict goes to.
    """

    layout: SetLayout | None
    key: Key = ()
    slot: int = -1
    chain: str = ""

    @property
    def frontend(self) -> Key | None:
        """The key that this element's frontend has in the verdict maps; None where it has none."""
        if self.layout is None:
            return None
        match self.layout.keys:
            case Keys.FRONTEND | Keys.PORT:
                return self.key
            case Keys.SOURCE:
                return self.key[:_FRONTEND_FIELDS]
            case Keys.ADDRESS | Keys.FLOW:
                return None

    def __str__(self) -> str:
        if self.layout is None:
            return f"chain {self.chain}"
        fields = [*self.key] if self.slot < 0 else [*self.key, self.slot]
        return f"{self.layout.name} {{ {' . '.join(map(str, fields))} }}"


def locate(message: Message, offset: int) -> Place | None:
    """The element at an offset from the start of a message, or its chain.

    None where the offset is in no element, and where it is 0 and there are several.
    """
    if message.layout is None:
        return Place(None, chain=message.chain) if message.chain else None
    spans = _spans(message)
    if not offset and len(spans) == 1:
        return _read(message, *spans[0])
    for start, end in spans:
        # The kernel points at the element's attribute, or at one inside of it.
        if start <= offset - HEADER_SIZE < end:
            return _read(message, start, end)
    return None


def split(message: Message, offset: int) -> list[Message]:
    """Cut a refused message of elements so that the next attempt tells more, dropping nothing.

    With an offset: the elements before the refused one, that one, and the rest in pieces; without:
    halves. A message of one element cannot be cut and is returned alone.
    """
    spans = _spans(message)
    if len(spans) <= 1 or message.layout is None:
        return [message]
    refused = [i for i, (a, b) in enumerate(spans) if a <= offset - HEADER_SIZE < b]
    if refused:
        at = refused[0]
        rest = spans[at + 1 :]
        each = max(1, -(-len(rest) // _PIECES))
        cuts = [spans[:at], spans[at : at + 1]]
        cuts += [rest[i : i + each] for i in range(0, len(rest), each)]
    else:
        half = len(spans) // 2
        cuts = [spans[:half], spans[half:]]
    return [_part(message, cut) for cut in cuts if cut]


class Quarantine:
    """What the kernel refused, and everything that must not be there without it.

    A frontend is served whole or not at all: an element that is refused takes every element with
    its frontend along, a refused chain everything that goes there.
    """

    def __init__(self) -> None:
        self._frontends: set[Key] = set()
        self._elements: set[tuple[str, Key]] = set()
        self._chains: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._frontends or self._elements or self._chains)

    def add(self, place: Place) -> None:
        """Leave this out from now on."""
        frontend = place.frontend
        if place.layout is None:
            self._chains.add(place.chain)
        elif frontend is None:
            self._elements.add((place.layout.name, place.key))
        else:
            self._frontends.add(frontend)

    def filter(self, messages: Iterable[Message]) -> list[Message]:
        """The messages without what is in quarantine; a message left empty is dropped."""
        kept = []
        for message in messages:
            if message.layout is None:
                if message.chain not in self._chains:
                    kept.append(message)
                continue
            spans = _spans(message)
            passed = [span for span in spans if self._admits(_read(message, *span))]
            if len(passed) == len(spans):
                kept.append(message)
            elif passed:
                kept.append(_part(message, passed))
        return kept

    def _admits(self, place: Place) -> bool:
        if place.chain in self._chains or place.frontend in self._frontends:
            return False
        return place.layout is None or (place.layout.name, place.key) not in self._elements


def without(message: Message, place: Place) -> Message | None:
    """A message of elements without one of them; None where nothing is left."""
    spans = [span for span in _spans(message) if _read(message, *span) != place]
    return _part(message, spans) if spans else None


def read_places(message: Message) -> list[tuple[Place, Verdict | Backend | None]]:
    """Every element of a message, with its value: a slot's backend, a verdict, or None."""
    return [(_read(message, *span), _value(message, *span)) for span in _spans(message)]


def _spans(message: Message) -> list[tuple[int, int]]:
    """Where each element starts and ends in ``message.attributes``, its header included."""
    raw = message.attributes
    for kind, start, end in attributes(raw, 0, len(raw)):
        if kind == NFTA_SET_ELEM_LIST_ELEMENTS:
            return [(first - 4, last) for _, first, last in attributes(raw, start, end)]
    return []


def _read(message: Message, start: int, end: int) -> Place:
    layout, family = message.layout, message.family
    assert layout is not None, "a message about elements names their set"
    raw = read_element(message.attributes, start + 4, end)
    if layout.interval:
        return Place(layout, unpack_source(family, raw.key, raw.key_end))
    size = key_size(layout.keys, family)
    key = key_unpacker(layout.keys, family)(raw.key[:size])
    slot = SLOT.unpack(raw.key[size:])[0] if layout.values is Values.SLOTS else -1
    return Place(layout, key, slot, raw.verdict)


def _value(message: Message, start: int, end: int) -> Verdict | Backend | None:
    raw = read_element(message.attributes, start + 4, end)
    if raw.verdict:
        return Verdict(raw.verdict, raw.comment)
    return unpack_backend(raw.value) if raw.value else None


def _part(message: Message, spans: list[tuple[int, int]]) -> Message:
    assert message.layout is not None, "a message about elements names their set"
    elements = [message.attributes[start:end] for start, end in spans]
    return elements_message(MessageType(message.kind), message.layout, message.family, elements)
