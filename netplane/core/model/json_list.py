"""A list of objects in JSON, decoded while it is read: what ``kubectl get -o json`` prints.

A large cluster's list has a hundred megabytes, most of it metadata. Here it is cut between its
items into chunks of a piece or two, and each chunk's objects are decoded in one pass into what is
needed of them, so that neither the text nor every object's own text is ever in memory as a whole.

Where to cut is guessed, from the blanks before the first item, and proved by decoding: a text
that is a whole JSON array in brackets of its own was cut where an item ended, whatever stands in
it. What cannot be read this way is no error here: there is a slower reader for everything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

import msgspec

from netplane.core.model import wire

#: A chunk's objects are alive together as text and decoded; so many bytes keep both in the cache.
PIECE = 1 << 18

_NEAR = 1 << 15
#: Where so much is read and nowhere to cut is found, there is likely to be none.
_PATIENCE = 64 * PIECE

_HEAD = re.compile(rb'\s*\{[^\[]*?"items"\s*:\s*\[')
_FIRST_ITEM = re.compile(rb'\s*\{\s*(?=")')
#: What an object may begin with: keys as they are, or in the order of the alphabet.
_FIRST_KEYS = (b'"apiVersion"', b'"addressType"', b'"kind"', b'"metadata"')
_LONGEST_KEY = max(map(len, _FIRST_KEYS))
_OPEN, _CLOSE = b"[]"

_T = TypeVar("_T")
Settle = Callable[[wire.Listed], _T]

_KIND = re.compile(rb'"kind"\s*:\s*"(Service|EndpointSlice|Node)"')
_decoders: dict[bytes, msgspec.json.Decoder[list[wire.Listed]]] = {
    b"Service": msgspec.json.Decoder(list[wire.ListedService]),
    b"EndpointSlice": msgspec.json.Decoder(list[wire.ListedEndpointSlice]),
    b"Node": msgspec.json.Decoder(list[wire.ListedNode]),
}
_raw = msgspec.json.Decoder(list[msgspec.Raw])


class JsonList(NamedTuple, Generic[_T]):
    """One JSON object that has a list of items.

    Attributes:
        around: The object without its items: JSON, its list empty.
        items: What was made of them, in their order. A chunk with objects of several kinds or of
            one that does not count, or with one that does not have the shape of its kind, is left
            undecoded.
    """

    around: bytes
    items: list[_T | msgspec.Raw]


def read_list(pieces: Iterable[bytes], settle: Settle[_T]) -> JsonList[_T] | None:
    """Read a text; None where it is anything but one JSON object with one list ``items``.

    Args:
        pieces: The text, cut anywhere; not all of it is taken where the answer is None.
        settle: Makes of each decoded object what is kept of it, before the next chunk is read.
    """
    source = iter(pieces)
    start = next(source, b"")
    head = _HEAD.match(start)
    if head is None:
        return None
    try:
        head[0].decode()
        items: list[_T | msgspec.Raw] = []
        for chunk in _chunks(bytearray(b"[" + start[head.end() :]), source):
            if chunk.end is None:
                items += _decoded(chunk, settle)
                continue
            if chunk.buffer[1 : chunk.size - 1].strip() or items:
                items += _decoded(chunk, settle)
            # With a first member of ours the rest is an object only if the list was closed right
            # inside the outermost one; of two members of one name the last would count.
            rest = msgspec.json.decode(b'{"":0' + chunk.end)
            if "items" not in rest:
                return JsonList(head[0] + b"]" + chunk.end, items)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return None


class _Chunk(NamedTuple):
    """Some items as an array: the first bytes of a buffer, which changes once they are decoded.

    Attributes:
        buffer: Holds them.
        size: How many bytes they are, with their brackets.
        end: What follows the list, None before its end.
    """

    buffer: bytearray
    size: int
    end: bytes | None


def _chunks(buffer: bytearray, source: Iterator[bytes]) -> Iterator[_Chunk]:
    """Cut between items: where one begins with the first one's blanks and the key of an object.

    The comma at a cut becomes the bracket that closes one chunk, then the one that opens the next,
    so that nothing is copied.

    Args:
        buffer: A bracket, and what is read of the items.
        source: The rest of the text.
    """
    first = _FIRST_ITEM.match(buffer, 1)
    if first is not None:
        seen = 0
        between = [b"}" + comma + first[0] for comma in (b",", b", ")]
        for piece in source:
            buffer += piece
            # Most objects are small, and to look for what is not there takes as long as to decode.
            cut = _last_cut(buffer, between, max(seen, len(buffer) - _NEAR))
            if cut < 0:
                cut = _last_cut(buffer, between, seen)
            seen = max(0, len(buffer) - _LONGEST_KEY - len(between[-1]))
            if cut >= 0:
                comma = cut + 1
                buffer[comma] = _CLOSE
                yield _Chunk(buffer, comma + 1, None)
                del buffer[:comma]
                buffer[0] = _OPEN
                seen = 0
            elif seen > _PATIENCE:
                return
    for piece in source:
        buffer += piece
    bracket = buffer.rfind(b"]")
    if bracket > 0:
        yield _Chunk(buffer, bracket + 1, bytes(buffer[bracket + 1 :]))


def _last_cut(buffer: bytearray, between: Iterable[bytes], start: int) -> int:
    """Where the last of some texts begins that a key of an object follows; -1 without any."""
    for text in between:
        cut = buffer.rfind(text, start)
        while cut >= 0:
            if buffer.startswith(_FIRST_KEYS, cut + len(text)):
                return cut
            cut = buffer.rfind(text, start, cut)
    return -1


def _decoded(chunk: _Chunk, settle: Settle[_T]) -> list[_T] | list[msgspec.Raw]:
    """The items in a text that a list may hold.

    Raises:
        msgspec.DecodeError: It is not that, or there is none.
        UnicodeDecodeError: It is not UTF-8.
    """
    buffer, size = chunk.buffer, chunk.size
    if not buffer.isascii():
        buffer[:size].decode()
    with memoryview(buffer) as whole, whole[:size] as array:
        listed = _of_one_kind(array)
    if listed:
        return [settle(item) for item in listed]
    found = _raw.decode(bytes(buffer[:size]))
    if not found:
        raise msgspec.DecodeError("no item between two commas")
    return found


def _of_one_kind(array: memoryview) -> list[wire.Listed] | None:
    """The items of a chunk, where all are of one kind that counts and have its shape.

    kubectl prints kind by kind. A union that asks each object for its kind would read most of it
    twice, because ``kind`` stands behind the endpoints.
    """
    kind = _KIND.search(array)
    if kind is None:
        return None
    try:
        found = _decoders[kind[1]].decode(array)
    except msgspec.ValidationError:
        return None
    name = kind[1].decode()
    return found if all(item.kind == name for item in found) else None
