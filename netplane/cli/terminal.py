"""Printing on stdout: coloured text for people, JSON for machines.

Rich decides whether and how the terminal shows colour (NO_COLOR, TERM, no terminal at all). Lines
and columns are put together here: a state of 100,000 Services has as many lines, and rich takes
0.16 ms for each, and 0.5 ms for the row of a table. Nothing interprets markup, so foreign text
cannot colour, move or clear anything.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from netplane.cli.safe import clean

if TYPE_CHECKING:
    from rich.color import ColorSystem
    from rich.style import Style

#: Text, or text and a style in rich's words: ``("gone", "bold red")``.
Part: TypeAlias = str | tuple[str, str]
Line: TypeAlias = Sequence[Part]

_GAP = "  "
# Where none of these is set, and stdout is no terminal, rich shows no colour: no need to ask it.
_FORCING = ("FORCE_COLOR", "TTY_COMPATIBLE")


def emit_json(value: object) -> None:
    """Print a value as one indented JSON document."""
    content = msgspec.json.format(msgspec.json.encode(value), indent=2)
    sys.stdout.buffer.write(content + b"\n")
    sys.stdout.buffer.flush()


def emit_raw(text: str) -> None:
    """Print text as it is: rules, which hold no foreign text."""
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


def plain(line: Line) -> str:
    """A line without its styles, safe for a terminal."""
    return "".join(clean(part if isinstance(part, str) else part[0]) for part in line)


def _cells(row: Line) -> list[str]:
    """The texts of a row, safe for a terminal."""
    texts = [part if isinstance(part, str) else part[0] for part in row]
    return texts if "".join(texts).isprintable() else list(map(clean, texts))


class Screen:
    """The standard output, as far as it can show colour."""

    def __init__(self) -> None:
        self._colours = _colour_system()

    def print(self, *line: Part) -> None:
        """Print a line made of parts."""
        sys.stdout.write("".join(map(self._show, line)) + "\n")

    def print_table(
        self, header: Sequence[str], rows: Collection[Line], *, right: Collection[str] = ()
    ) -> None:
        """Print rows in columns under a header; the columns named in ``right`` are numbers."""
        cells = [_cells(row) for row in rows]
        widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
        if self._colours is None:
            sides = [">" if name in right else "<" for name in header]
            line = _GAP.join(map("{{:{}{}}}".format, sides, widths)).format
            sys.stdout.write("".join(f"{line(*texts).rstrip()}\n" for texts in (header, *cells)))
            return
        numbers = [name in right for name in header]
        self._print_row([(name, "bold") for name in header], header, widths, numbers)
        for row, texts in zip(rows, cells, strict=True):
            self._print_row(row, texts, widths, numbers)

    def _print_row(
        self, row: Line, texts: Iterable[str], widths: Iterable[int], numbers: Iterable[bool]
    ) -> None:
        shown = []
        for part, text, width, number in zip(row, texts, widths, numbers, strict=True):
            blanks = " " * (width - len(text))
            shown.append(blanks + self._show(part) if number else self._show(part) + blanks)
        sys.stdout.write(_GAP.join(shown).rstrip() + "\n")

    def _show(self, part: Part) -> str:
        if isinstance(part, str):
            return clean(part)
        text, style = part
        if self._colours is None:
            return clean(text)
        return _style(style).render(clean(text), color_system=self._colours)


def _colour_system() -> ColorSystem | None:
    """What colours stdout shows, None for none at all."""
    if not (sys.stdout.isatty() or any(map(os.environ.get, _FORCING))):
        return None
    from rich.color import ColorSystem
    from rich.console import Console

    console = Console()
    systems = {
        "standard": ColorSystem.STANDARD,
        "256": ColorSystem.EIGHT_BIT,
        "truecolor": ColorSystem.TRUECOLOR,
    }
    return None if console.no_color else systems.get(console.color_system or "")


@functools.cache
def _style(name: str) -> Style:
    from rich.style import Style

    return Style.parse(name)
