"""``netplane status --watch``: new connections, interval by interval."""

from __future__ import annotations

import datetime as dt
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from netplane.cli.safe import clean
from netplane.cli.status_rows import COLUMNS, NUMBERS, rows_of
from netplane.cli.terminal import Screen
from netplane.core.plan.status import FrontendStatus, Status, since

if TYPE_CHECKING:
    from rich.console import RenderableType

_SHOWN = 50  # frontends of an interval without -v
_FRAME = 3  # lines of a terminal that are not rows: title, header, and the prompt below

#: What is in the kernel now, by the name of the mode.
Reading: TypeAlias = Mapping[str, Status]


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """What happened in one interval; the document of ``netplane status --watch -o json``.

    Attributes:
        time: When it ended, RFC 3339 in UTC.
        seconds: How long it was.
        namespace: The named network namespace, null for the process's own.
        modes: Their connections are the new ones of this interval.
    """

    time: str
    seconds: float
    namespace: str | None
    modes: tuple[Status, ...]


def intervals(
    read: Callable[[], Reading], namespace: str | None, *, seconds: float, count: int | None
) -> Iterator[Interval]:
    """Read again and again; yields what came between two readings, ``count`` times or for ever."""
    before, began = read(), time.monotonic()
    number = 0
    while count is None or number < count:
        number += 1
        time.sleep(max(0.0, began + seconds - time.monotonic()))
        after, now = read(), time.monotonic()
        yield Interval(
            time=dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"),
            seconds=round(now - began, 3),
            namespace=namespace,
            modes=tuple(
                since(before.get(name) or Status(mode=found.mode, installed=False), found)
                for name, found in after.items()
            ),
        )
        before, began = after, now


def show(found: Iterable[Interval], *, json: bool, verbose: bool) -> None:
    """Show intervals as they come: live on a terminal, else one table or document after another.

    Ends at the end of the intervals, or quietly on Ctrl-C.
    """
    showing: AbstractContextManager[Callable[[Interval], None]]
    if json:
        showing = nullcontext(_print_document)
    elif sys.stdout.isatty():
        showing = _Live()
    else:
        showing = nullcontext(lambda interval: _print_table(interval, verbose=verbose))
    try:
        with showing as present:
            for interval in found:
                present(interval)
    except KeyboardInterrupt:
        return


def busiest(status: Status) -> list[FrontendStatus]:
    """The frontends, those with most new connections first."""
    return sorted(status.frontends, key=lambda f: (-new_connections(f), f.label, f.address))


def new_connections(frontend: FrontendStatus) -> int:
    """To the frontend, or where that is not counted, to its endpoints."""
    if frontend.connections is not None:
        return frontend.connections
    return sum(endpoint.connections or 0 for endpoint in frontend.endpoints)


def _title(interval: Interval, status: Status) -> str:
    total = sum(map(new_connections, status.frontends))
    busy = sum(map(bool, map(new_connections, status.frontends)))
    return (
        f"{interval.time}  {status.mode}: {total:,} new connections in {interval.seconds:.1f} s, "
        f"to {busy:,} of {len(status.frontends):,} frontends"
    )


def _print_document(interval: Interval) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(interval) + b"\n")
    sys.stdout.buffer.flush()


def _print_table(interval: Interval, *, verbose: bool) -> None:
    """The frontends that were connected to; without ``verbose`` the busiest of them."""
    screen = Screen()
    if not interval.modes:
        screen.print(f"{interval.time}  nothing of netplane's is there")
    for status in interval.modes:
        screen.print(_title(interval, status))
        busy = [frontend for frontend in busiest(status) if new_connections(frontend)]
        shown = busy if verbose else busy[:_SHOWN]
        if shown:
            rows = [row for frontend in shown for row in rows_of(frontend)]
            screen.print_table(COLUMNS, rows, right=NUMBERS)
        if len(shown) < len(busy):
            screen.print(f"... and {len(busy) - len(shown):,} more frontends (-v shows all)")
    sys.stdout.flush()


class _Live:
    """A table that is redrawn in its place, as many rows as the terminal has lines."""

    def __enter__(self) -> Callable[[Interval], None]:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(highlight=False, markup=False)
        self._live = Live(console=self._console, auto_refresh=False)
        self._live.start()
        return lambda interval: self._live.update(self._drawn(interval), refresh=True)

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def _drawn(self, interval: Interval) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        parts: list[RenderableType] = []
        room = self._console.height // max(1, len(interval.modes)) - _FRAME
        for status in interval.modes:
            table = Table(box=None, pad_edge=False)
            for name in COLUMNS:
                table.add_column(name, justify="right" if name in NUMBERS else "left")
            for frontend in busiest(status):
                for row in rows_of(frontend):
                    if table.row_count < room:
                        table.add_row(*(Text(*_styled(part), no_wrap=True) for part in row))
                if table.row_count >= room:
                    break
            parts += [Text(_title(interval, status), style="bold"), table]
        return Group(*parts) if parts else Text("nothing of netplane's is there")


def _styled(part: str | tuple[str, str]) -> tuple[str, str]:
    """A part's text, safe for a terminal, and its style."""
    text, style = (part, "") if isinstance(part, str) else part
    return clean(text), style
