"""Bytes of manifests into objects, each still undecoded: YAML, JSON, and lists of objects.

What ``kubectl`` reads is read here: a JSON object, several of them one after the other (as ``jq``
prints them), or YAML of any number of documents; lists (``kind: List``, ``ServiceList``...) are
flattened. A fault that makes the text ambiguous or unreadable concerns the whole file and raises;
anything wrong inside one object is left to whoever decodes that object.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeGuard

import msgspec

from netplane.core.model import wire
from netplane.core.model.json_list import read_list
from netplane.core.model.problem import shown
from netplane.core.model.readings import Reading, read_service, read_slice
from netplane.errors import MalformedError

if TYPE_CHECKING:
    from netplane.core.model.yaml_tree import Tree

_MAX_LIST_DEPTH = 8
"""Lists in lists: kubectl flattens them too; each level costs one more pass over its bytes."""

BY_HAND = 1 << 18
"""Bytes of JSON up to which a key that stands twice in an object is looked for, and refused.

``kubectl`` takes the second in silence, in JSON and in YAML; an API server that is given both
refuses the object. What is larger was printed by a program, and looking takes as long as reading.
"""

_JSON_START = re.compile(rb'\s*\{\s*["}]')
_BLANKS = re.compile(r"[ \t\r\n]*")
_BOM = b"\xef\xbb\xbf"
# Blanks, comments, and the marks between YAML documents.
_SAYS_NOTHING = re.compile(rb"(?:\s|#[^\n]*|---(?=\s|\Z)|\.\.\.(?=\s|\Z))*")


class Manifest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One object as it was read, its payload not yet decoded.

    Attributes:
        origin: Where it was read: a file's name, ``-`` for the standard input.
        kind: "" where it is missing or not a string, as for the three below.
        payload: JSON as ``msgspec.Raw``, YAML as a tree of builtins, or what ``parse_pieces`` has
            decoded or read already. The API version, the namespace and the name are in it too.
    """

    origin: str
    kind: str
    api_version: str
    namespace: str
    name: str
    payload: msgspec.Raw | Tree | wire.Listed | Reading

    @property
    def is_object(self) -> bool:
        """Whether this is an object at all; a list may hold anything."""
        if isinstance(self.payload, msgspec.Raw):
            return bytes(self.payload).startswith(b"{")
        return isinstance(self.payload, msgspec.Struct) or _is_object(self.payload)


class _Meta(msgspec.Struct, gc=False):
    name: str | None = None
    namespace: str | None = None


class _Header(msgspec.Struct, gc=False, rename="camel"):
    kind: str | None = None
    api_version: str | None = None
    metadata: _Meta | None = None
    items: list[msgspec.Raw] | None = None


_header = msgspec.json.Decoder(_Header)


def parse(data: bytes, *, origin: str) -> list[Manifest]:
    """The objects in one file, in their order, lists flattened.

    Args:
        data: The whole file: UTF-8, JSON or YAML.
        origin: What to call it in messages.

    Raises:
        MalformedError: The text is not readable as a whole, or a document is not an object. The
            message names the origin, and the line where it is known.
    """
    where = safe_origin(origin)
    data = data.removeprefix(_BOM)
    try:
        if not data.isascii():
            data.decode()
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise MalformedError(f"{where}: line {line}: not UTF-8 text") from exc
    if _JSON_START.match(data):
        return _json_manifests(data, where)
    return list(_yaml_manifests(data, where, first_line=1))


def parse_pieces(pieces: Iterable[bytes], *, origin: str) -> list[Manifest] | None:
    """As ``parse``, of a text that is still being read, in less memory and half the time.

    Args:
        pieces: The file, cut anywhere; pieces of about ``json_list.PIECE`` bytes are best.
        origin: What to call it in messages.

    Returns:
        The objects; None where the text is anything but one good list in JSON, which leaves it
        to ``parse`` to read it, or to say what is wrong with it.
    """
    where = safe_origin(origin)
    found = read_list(pieces, functools.partial(_listed, where))
    if found is None:
        return None
    try:
        header = _header.decode(found.around)
        kind, api_version = header.kind or "", header.api_version or ""
        if header.items is None or not kind.endswith("List"):
            return None
        inherited = (kind.removesuffix("List"), api_version) if kind != "List" else ("", "")
        manifests: list[Manifest] = []
        for item in found.items:
            if isinstance(item, msgspec.Raw):
                manifests += _flatten(item, *inherited, where, depth=1)
            elif item.api_version or not inherited[1]:
                manifests.append(item)
            else:
                manifests.append(msgspec.structs.replace(item, api_version=inherited[1]))
    except (msgspec.DecodeError, RecursionError):
        return None
    return manifests


def _listed(where: str, item: wire.Listed) -> Manifest:
    """An object that was decoded with its list; it has said its kind.

    It is read at once, and what does not count is let go: decoded objects are large, and need not
    all be in memory together.
    """
    meta = item.metadata
    name = meta and meta.name
    payload: wire.Listed | Reading = item
    if name:
        # Asking for the very type: a class with a metaclass takes thrice as long.
        if type(item) is wire.ListedEndpointSlice:
            payload = read_slice(item)
        elif type(item) is wire.ListedService:
            payload = read_service(item)
    return Manifest(
        origin=where,
        kind=item.kind or "",
        api_version=item.api_version or "",
        namespace=(meta and meta.namespace) or "",
        name=name or "",
        payload=payload,
    )


def says_nothing(data: bytes) -> bool:
    """Whether a file holds neither an object nor a list, not even an empty one."""
    return _SAYS_NOTHING.fullmatch(data.removeprefix(_BOM)) is not None


def safe_origin(origin: str) -> str:
    """A file's name, safe to print: what is not printable is escaped."""
    return origin if origin.isprintable() else ascii(origin)[1:-1]


def _json_manifests(data: bytes, where: str) -> list[Manifest]:
    try:
        if len(data) <= BY_HAND:
            _strict.decode(data.decode())
        return _flatten(msgspec.Raw(data), "", "", where, depth=0)
    except (msgspec.DecodeError, ValueError):
        # Not one JSON document: several, or a broken one; the slower reader below says which.
        return list(_json_stream(data.decode(), where))
    except RecursionError as exc:
        raise MalformedError(f"{where}: nested too deeply") from exc


def _json_stream(text: str, where: str) -> Iterator[Manifest]:
    """Objects one after the other; after ``---`` the rest is YAML."""
    position, counted, line = _skip_blanks(text, 0), 0, 1
    while position < len(text):
        line += text.count("\n", counted, position)
        counted = position
        if text.startswith("---", position):
            yield from _yaml_manifests(text[position:].encode(), where, first_line=line)
            return
        try:
            _, end = _strict.raw_decode(text, position)
            raw = msgspec.Raw(text[position:end].encode())
            yield from _flatten(raw, "", "", where, depth=0)
        except json.JSONDecodeError as exc:
            raise MalformedError(
                f"{where}: line {exc.lineno}: not JSON: {exc.msg} (column {exc.colno})"
            ) from exc
        except (ValueError, msgspec.DecodeError) as exc:
            raise MalformedError(f"{where}: in the object at line {line}: {exc}") from exc
        except RecursionError as exc:
            raise MalformedError(f"{where}: line {line}: nested too deeply") from exc
        position = _skip_blanks(text, end)


def _skip_blanks(text: str, position: int) -> int:
    match = _BLANKS.match(text, position)
    assert match is not None
    return match.end()


def _refuse_constant(name: str) -> str:
    raise ValueError(f"{name} is not a JSON number")


def _once(members: list[tuple[str, object]]) -> dict[str, object]:
    """An object of JSON, of which no key stands twice."""
    found: dict[str, object] = {}
    for name, value in members:
        if name in found:
            raise ValueError(f"the key {shown(name)} is here twice")
        found[name] = value
    return found


_strict = json.JSONDecoder(
    parse_int=str, parse_float=str, parse_constant=_refuse_constant, object_pairs_hook=_once
)


def _flatten(
    raw: msgspec.Raw, kind: str, api_version: str, where: str, *, depth: int
) -> list[Manifest]:
    """The object, or if it is a list its items; ``kind`` and ``api_version`` where it has none.

    The items of a typed list (``kubectl get --raw /api/v1/services``) leave both to the list.
    """
    try:
        header = _header.decode(raw)
    except msgspec.ValidationError:
        return [_odd_manifest(msgspec.json.decode(raw), raw, where, top=depth == 0)]
    kind = header.kind or kind
    api_version = header.api_version or api_version
    if kind == "List" or (header.items is not None and kind.endswith("List")):
        if depth == _MAX_LIST_DEPTH:
            raise MalformedError(f"{where}: lists nested more than {_MAX_LIST_DEPTH} deep")
        inherited = (kind.removesuffix("List"), api_version) if kind != "List" else ("", "")
        found: list[Manifest] = []
        for item in header.items or ():
            found += _flatten(item, *inherited, where, depth=depth + 1)
        return found
    meta = header.metadata
    manifest = Manifest(
        origin=where,
        kind=kind,
        api_version=api_version,
        namespace=(meta.namespace or "") if meta else "",
        name=(meta.name or "") if meta else "",
        payload=raw,
    )
    return [manifest]


def _yaml_manifests(data: bytes, where: str, *, first_line: int) -> Iterator[Manifest]:
    from netplane.core.model import yaml_tree  # a state in JSON needs none of it: 25 ms

    for line, tree in yaml_tree.load(data, origin=where, first_line=first_line):
        if tree is None:
            continue  # an empty document: nothing between two ``---``
        if not isinstance(tree, dict):
            raise MalformedError(f"{where}: line {line}: the document is not an object")
        yield from _flatten_tree(tree, "", "", where, depth=0)


def _flatten_tree(
    tree: Tree, kind: str, api_version: str, where: str, *, depth: int
) -> Iterator[Manifest]:
    """As ``_flatten``, for what came from YAML."""
    manifest = _odd_manifest(tree, tree, where, top=False)
    kind = manifest.kind or kind
    api_version = manifest.api_version or api_version
    items = tree.get("items") if _is_object(tree) else None
    if kind == "List" or (isinstance(items, list) and kind.endswith("List")):
        if depth == _MAX_LIST_DEPTH:
            raise MalformedError(f"{where}: lists nested more than {_MAX_LIST_DEPTH} deep")
        inherited = (kind.removesuffix("List"), api_version) if kind != "List" else ("", "")
        for item in items if isinstance(items, list) else ():
            yield from _flatten_tree(item, *inherited, where, depth=depth + 1)
        return
    yield msgspec.structs.replace(manifest, kind=kind, api_version=api_version)


def _odd_manifest(tree: object, payload: msgspec.Raw | Tree, where: str, *, top: bool) -> Manifest:
    """A manifest from a tree that may have any shape; what is not a string counts as missing."""
    if not _is_object(tree):
        if top:
            raise MalformedError(f"{where}: the document is not an object")
        return Manifest(
            origin=where, kind="", api_version="", namespace="", name="", payload=payload
        )
    meta = tree.get("metadata")
    fields = meta if _is_object(meta) else {}
    return Manifest(
        origin=where,
        kind=_text(tree.get("kind")),
        api_version=_text(tree.get("apiVersion")),
        namespace=_text(fields.get("namespace")),
        name=_text(fields.get("name")),
        payload=payload,
    )


def _is_object(value: object) -> TypeGuard[dict[str, Tree]]:
    return isinstance(value, dict)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
