"""YAML into trees of builtins: libyaml's events, built under bounds, read as ``kubectl`` does.

Differences from PyYAML's loaders, all on purpose: a duplicate key is an error (the second would
silently win); aliases have a budget, so a small file cannot unfold into a huge one; nesting has a
bound; timestamps stay text; numbers and booleans follow the rules of the parser in ``kubectl``
(go-yaml v2, which has no sexagesimal numbers and reads ``1e3`` as a number); tags that are not
those of JSON's types are refused. The cost is linear in the size of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import yaml

from netplane.core.model.problem import shown
from netplane.core.model.yaml_scalar import NotFiniteError, resolve
from netplane.errors import MalformedError

Tree: TypeAlias = "dict[str, Tree] | list[Tree] | str | int | float | bool | None"

MAX_DEPTH = 100
"""Levels of nesting; a Pod, the deepest object here, has about twelve."""

ALIAS_BUDGET = 100_000
"""Values that the aliases of one file may stand for in all."""

_MERGE = "<<"

_TAG = "tag:yaml.org,2002:"
_TEXT_TAGS = frozenset({"!", *(f"{_TAG}{t}" for t in ("str", "timestamp", "binary"))})
_PLAIN_TAGS = frozenset({f"{_TAG}{t}" for t in ("null", "bool", "int", "float")})
_COLLECTION_TAGS = frozenset({None, "!", f"{_TAG}map", f"{_TAG}seq"})


class _Level:
    """A collection that is still open.

    ``size`` counts the values in it, aliases unfolded; ``height`` the levels below it.
    """

    __slots__ = ("anchor", "height", "key", "line", "merges", "merging", "node", "size")

    def __init__(self, node: dict[str, Tree] | list[Tree], anchor: str | None, line: int) -> None:
        self.node = node
        self.anchor = anchor
        self.line = line
        self.key: str | None = None
        self.merges: list[Tree] = []
        self.merging = False
        self.size = 1
        self.height = 1


def load(data: bytes, *, origin: str, first_line: int = 1) -> Iterator[tuple[int, Tree]]:
    """The documents of a YAML text, each with the line it begins at.

    Raises:
        MalformedError: As the module says; or PyYAML was built without libyaml.
    """
    loader = getattr(yaml, "CSafeLoader", None)
    if loader is None:
        raise MalformedError(f"{origin}: reading YAML needs PyYAML built with libyaml")
    builder = _Builder(origin, first_line)
    parser = loader(data)
    try:
        yield from builder.documents(parser)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line = first_line + (mark.line if mark else 0)
        words = " ".join(w for w in (exc.problem, exc.context) if w)
        raise MalformedError(f"{origin}: line {line}: not YAML: {shown(words)}") from exc
    except yaml.reader.ReaderError as exc:
        line = first_line + data.count(b"\n", 0, exc.position)
        raise MalformedError(f"{origin}: line {line}: not YAML: {shown(exc.reason)}") from exc
    finally:
        parser.dispose()


class _Builder:
    """Builds the trees of one file from its events."""

    def __init__(self, origin: str, first_line: int) -> None:
        self._origin = origin
        self._first_line = first_line
        self._unfolded = 0
        self._levels: list[_Level] = []
        self._anchors: dict[str, tuple[Tree, int, int]] = {}
        self._root: Tree = None

    def documents(self, parser: yaml.CSafeLoader) -> Iterator[tuple[int, Tree]]:
        """Each document with its first line, as soon as it has ended."""
        start = 0
        while parser.check_event():
            event = parser.get_event()
            if isinstance(event, yaml.ScalarEvent):
                self._scalar(event)
            elif isinstance(event, yaml.MappingStartEvent):
                self._open({}, event)
            elif isinstance(event, yaml.SequenceStartEvent):
                self._open([], event)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._close()
            elif isinstance(event, yaml.AliasEvent):
                self._alias(event)
            elif isinstance(event, yaml.DocumentStartEvent):
                self._anchors.clear()
                self._root = None
                start = _line(event)
            elif isinstance(event, yaml.DocumentEndEvent):
                yield self._first_line + start, self._root

    def _fail(self, line: int, words: str) -> MalformedError:
        return MalformedError(f"{self._origin}: line {self._first_line + line}: {words}")

    def _open(self, node: dict[str, Tree] | list[Tree], event: yaml.CollectionStartEvent) -> None:
        line = _line(event)
        if len(self._levels) >= MAX_DEPTH:
            raise self._fail(line, f"nested more than {MAX_DEPTH} levels deep")
        if event.tag not in _COLLECTION_TAGS:
            raise self._fail(line, f"the tag {shown(event.tag)} is not supported")
        if self._awaits_key():
            raise self._fail(line, "a key must be a scalar")
        self._levels.append(_Level(node, event.anchor, line))

    def _close(self) -> None:
        level = self._levels.pop()
        if level.merges:
            self._merge(level)
        if level.anchor:
            self._anchors[level.anchor] = (level.node, level.size, level.height)
        self._place(level.node, level.size, level.height)

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        text, tag, plain = event.value, event.tag, event.implicit[0]
        if self._awaits_key():
            self._key(text, _line(event), merge=plain and text == _MERGE)
            if event.anchor:
                self._anchors[event.anchor] = (text, 1, 0)
            return
        value: Tree = text
        if plain or tag in _PLAIN_TAGS:
            try:
                value = resolve(text)
            except NotFiniteError as exc:
                raise self._fail(_line(event), str(exc)) from exc
        elif tag is not None and tag not in _TEXT_TAGS:
            raise self._fail(_line(event), f"the tag {shown(tag)} is not supported")
        if event.anchor:
            self._anchors[event.anchor] = (value, 1, 0)
        self._place(value, 1, 0)

    def _alias(self, event: yaml.AliasEvent) -> None:
        line = _line(event)
        if event.anchor not in self._anchors:
            words = "is not defined before it, or holds itself"
            raise self._fail(line, f"the alias *{shown(event.anchor)} {words}")
        value, size, height = self._anchors[event.anchor]
        if self._awaits_key():
            if not isinstance(value, str):
                raise self._fail(line, "a key must be a string")
            self._key(value, line, merge=False)
            return
        self._unfolded += size
        if self._unfolded > ALIAS_BUDGET:
            raise self._fail(line, f"aliases stand for more than {ALIAS_BUDGET} values")
        if len(self._levels) + height > MAX_DEPTH:
            raise self._fail(line, f"nested more than {MAX_DEPTH} levels deep")
        self._place(value, size, height)

    def _awaits_key(self) -> bool:
        if not self._levels:
            return False
        level = self._levels[-1]
        return level.key is None and isinstance(level.node, dict)

    def _key(self, text: str, line: int, *, merge: bool) -> None:
        """Takes a key of the innermost mapping; a key is text whatever its type would be."""
        level = self._levels[-1]
        if merge:
            level.merging = True
        elif text in level.node:
            raise self._fail(line, f"the key {shown(text)} is here twice")
        level.key = text

    def _place(self, value: Tree, size: int, height: int) -> None:
        """Puts a finished value into the collection that is open, or makes it the document."""
        if not self._levels:
            self._root = value
            return
        level = self._levels[-1]
        level.size += size
        level.height = max(level.height, height + 1)
        node = level.node
        if isinstance(node, list):
            node.append(value)
            return
        assert level.key is not None
        if level.merging:
            level.merging = False
            level.merges.extend(value if isinstance(value, list) else [value])
        else:
            node[level.key] = value
        level.key = None

    def _merge(self, level: _Level) -> None:
        """Fills in what ``<<`` brings; the mapping's own keys stand, then the earlier source."""
        assert isinstance(level.node, dict)
        for source in level.merges:
            if not isinstance(source, dict):
                raise self._fail(level.line, "<< takes a mapping or a list of mappings")
            for key, value in source.items():
                level.node.setdefault(key, value)


def _line(event: yaml.Event) -> int:
    """The line an event begins at, counted from 0 as libyaml does."""
    return event.start_mark.line if event.start_mark else 0
