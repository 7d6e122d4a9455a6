"""The agent's messages: one line each, text or JSON, and never more of a kind than its rate.

A node in trouble says the same thing again and again. Each kind of message has a bucket of
tokens; what finds it empty is counted, and the count is told by the next one that is let through,
or by ``report_dropped``. Foreign text is escaped: a line stays a line, a terminal obeys nothing.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json as jsonlib
import logging
import re
import traceback
from collections.abc import Callable, Iterator
from typing import NamedTuple

from netplane.agent.clocks import Clocks

_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,\[\]-]+\Z")  # a value that needs no quotes
#: Between ``logging``'s INFO and WARNING: said without -v, too, and nothing to see to.
NOTICE = 25
_LEVELS = {
    logging.INFO: "info",
    NOTICE: "notice",
    logging.WARNING: "warning",
    logging.ERROR: "error",
}


class Rate(NamedTuple):
    """How much of one kind is let through: ``burst`` at once, then one each ``interval`` s."""

    burst: int = 10
    interval: float = 10.0


RATE = Rate()


class _Bucket:
    """The tokens of one kind of message."""

    __slots__ = ("at", "dropped", "level", "tokens")

    def __init__(self, now: float, rate: Rate) -> None:
        self.tokens = float(rate.burst)
        self.at = now
        self.dropped = 0
        self.level = logging.INFO

    def take(self, now: float, rate: Rate) -> bool:
        """Take a token if there is one."""
        self.tokens = min(rate.burst, self.tokens + (now - self.at) / rate.interval)
        self.at = now
        if self.tokens < 1:
            self.dropped += 1
            return False
        self.tokens -= 1
        return True


class Journal:
    """Where the agent's messages go.

    A ``kind`` is a fixed word of ours, ``write-failed``; so are a message and the names of its
    fields. Values may be foreign.

    Args:
        write: Gets each line, without its end.
        json: One JSON object per line: time, level, kind, message, and the fields.
        level: The least that is let through, as in ``logging``.
        on_drop: Told the kind of each message that is not.
    """

    def __init__(  # noqa: PLR0913 (all but two have a default)
        self,
        write: Callable[[str], object],
        clocks: Clocks,
        *,
        json: bool = False,
        level: int = logging.WARNING,
        rate: Rate = RATE,
        on_drop: Callable[[str], object] = str,
    ) -> None:
        self._write = write
        self._clocks = clocks
        self._json = json
        self._level = level
        self._rate = rate
        self._on_drop = on_drop
        self._buckets: dict[str, _Bucket] = {}

    def info(self, kind: str, message: str, **fields: object) -> None:
        """What only -v wants to hear."""
        self.say(logging.INFO, kind, message, **fields)

    def notice(self, kind: str, message: str, **fields: object) -> None:
        """A turn in the agent's life, so that a log tells when it began and was well again."""
        self.say(NOTICE, kind, message, **fields)

    def warning(self, kind: str, message: str, **fields: object) -> None:
        """What somebody should know although the agent goes on."""
        self.say(logging.WARNING, kind, message, **fields)

    def error(self, kind: str, message: str, **fields: object) -> None:
        """What needs somebody."""
        self.say(logging.ERROR, kind, message, **fields)

    def say(self, level: int, kind: str, message: str, **fields: object) -> None:
        """A message of any level of ``logging``."""
        if level < self._level:
            return
        now = self._clocks.monotonic()
        bucket = self._buckets.get(kind)
        if bucket is None:
            bucket = self._buckets[kind] = _Bucket(now, self._rate)
        bucket.level = level
        if not bucket.take(now, self._rate):
            self._on_drop(kind)
            return
        if bucket.dropped:
            fields["dropped"] = bucket.dropped
            bucket.dropped = 0
        self._write(self._line(level, kind, message, fields))

    def report_dropped(self) -> None:
        """Tell what was dropped and not told of since; call it now and then, and at the end."""
        for kind, bucket in self._buckets.items():
            if bucket.dropped:
                fields: dict[str, object] = {"dropped": bucket.dropped}
                bucket.dropped = 0
                self._write(self._line(bucket.level, kind, "there were more of these", fields))

    def _line(self, level: int, kind: str, message: str, fields: dict[str, object]) -> str:
        name = _LEVELS.get(level, "error")
        if not self._json:
            said = [f"{key}={_quoted(value)}" for key, value in fields.items()]
            return " ".join([f"netplane: {name}: {_clean(message)}", f"kind={kind}", *said])
        time = dt.datetime.fromtimestamp(self._clocks.wall(), dt.UTC)
        document: dict[str, object] = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": name,
            "kind": kind,
            "message": message,
        }
        document |= {key: _plain(value) for key, value in fields.items() if key not in document}
        return jsonlib.dumps(document)


class Bridge(logging.Handler):
    """Lets the libraries' messages out through a ``Journal``; the kind is the logger's name."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a record on, with its traceback if there is one."""
        fields = {}
        if record.exc_info is not None and record.exc_info[1] is not None:
            fields["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
        self._journal.say(record.levelno, record.name, record.getMessage(), **fields)


@contextlib.contextmanager
def bridged(journal: Journal) -> Iterator[None]:
    """Let what libraries say out through a journal meanwhile, and no other way."""
    bridge = Bridge(journal)
    logging.getLogger().addHandler(bridge)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(bridge)


def _plain(value: object) -> object:
    """A value as JSON has it; text for what it has not."""
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _quoted(value: object) -> str:
    text = value if isinstance(value, str) else str(_plain(value))
    return text if _PLAIN.match(text) else f'"{_clean(text, quoted=True)}"'


def _clean(text: str, *, quoted: bool = False) -> str:
    """The text with all that a terminal might obey escaped, and quotes where it stands in some."""
    if quoted:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
