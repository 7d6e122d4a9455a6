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
        settle: Makes of each decoded object what is kept of it, while it is in the cache.
    """
    source = iter(pieces)
    buffer = next(source, b"")
    head = _HEAD.match(buffer)
    if head is None:
        return None
    try:
        head[0].decode()
        buffer = buffer[head.end() :]
        items: list[_T | msgspec.Raw] = []
        for chunk in _chunks(buffer, source):
            if chunk.end is None:
                items += _decoded(chunk.items, settle)
                continue
            if chunk.items.strip() or items:
                items += _decoded(chunk.items, settle)
            # With a first member of ours the rest is an object only if the list was closed right
            # inside the outermost one; of two members of one name the last would count.
            rest = msgspec.json.decode(b'{"":0' + chunk.end)
            if "items" not in rest:
                return JsonList(head[0] + b"]" + chunk.end, items)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return None


class _Chunk(NamedTuple):
    """The text of some items; ``end``: what follows the list, None before its end."""

    items: bytes
    end: bytes | None


def _chunks(buffer: bytes, source: Iterator[bytes]) -> Iterator[_Chunk]:
    """Cut between items: where one begins with the first one's blanks and the key of an object."""
    first = _FIRST_ITEM.match(buffer)
    if first is not None:
        seen = 0
        between = [b"}" + c + first[0] + key for c in (b",", b", ") for key in _FIRST_KEYS]
        for piece in source:
            buffer += piece
            # Most objects are small, and to look for what is not there takes as long as to decode.
            near = max(seen, len(buffer) - _NEAR)
            cut = _last(buffer, between, near)
            if cut < 0:
                cut = _last(buffer, between, seen)
            seen = max(0, len(buffer) - max(map(len, between)))
            if cut >= 0:
                yield _Chunk(buffer[: cut + 1], None)
                buffer, seen = buffer[cut + 1 :].removeprefix(b","), 0
            elif seen > _PATIENCE:
                return
    buffer += b"".join(source)
    items, bracket, end = buffer.rpartition(b"]")
    if bracket:
        yield _Chunk(items, end)


def _last(buffer: bytes, texts: Iterable[bytes], start: int) -> int:
    """Where the last of some texts begins, -1 where there is none after the start."""
    return max(buffer.rfind(text, start) for text in texts)


def _decoded(text: bytes, settle: Settle[_T]) -> list[_T] | list[msgspec.Raw]:
    """The items in a text that a list may hold.

    Raises:
        msgspec.DecodeError: It is not that, or there is none.
        UnicodeDecodeError: It is not UTF-8.
    """
    if not text.isascii():
        text.decode()
    array = b"[%b]" % text
    listed = _of_one_kind(array)
    if listed:
        return [settle(item) for item in listed]
    found = _raw.decode(array)
    if not found:
        raise msgspec.DecodeError("no item between two commas")
    return found


def _of_one_kind(array: bytes) -> list[wire.Listed] | None:
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
