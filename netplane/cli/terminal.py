"""Printing on stdout: coloured text for people, JSON for machines.

Nothing here interprets markup: foreign text cannot colour, move or clear anything. NO_COLOR, and
output that is not a terminal, switch colour off.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import msgspec
from rich.console import Console
from rich.style import StyleType
from rich.table import Table
from rich.text import Text

from netplane.cli.safe import clean

_WIDE = 200  # columns of a table where no terminal limits it


def emit_json(value: object) -> None:
    """Print a value as one indented JSON document."""
    content = msgspec.json.format(msgspec.json.encode(value), indent=2)
    sys.stdout.buffer.write(content + b"\n")
    sys.stdout.buffer.flush()


def emit_raw(text: str) -> None:
    """Print text as it is: rules, which hold no foreign text."""
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


def console() -> Console:
    """The console on stdout; lines are never wrapped."""
    width = None if sys.stdout.isatty() else _WIDE
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True, width=width)


def line(*parts: str | tuple[str, StyleType]) -> Text:
    """A line of parts, each plain or with a style, made safe for the terminal."""
    text = Text()
    for part in parts:
        if isinstance(part, str):
            text.append(clean(part))
        else:
            text.append(clean(part[0]), style=part[1])
    return text


def table(columns: Iterable[str], *, right: Iterable[str] = ()) -> Table:
    """A plain table; the columns named in ``right`` are numbers."""
    numbers = frozenset(right)
    result = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        result.add_column(
            name, justify="right" if name in numbers else "left", no_wrap=True, overflow="fold"
        )
    return result
