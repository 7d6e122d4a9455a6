"""Messages on stderr: text for people, or one JSON object per line for machines.

A line of JSON has ``time`` (RFC 3339, UTC), ``level`` and ``message``. Foreign text (names, paths,
a tool's words) is made safe for a terminal on the way out; JSON escapes it anyway.
"""

from __future__ import annotations

import datetime as dt
import json as jsonlib
import logging

from netplane.cli.safe import clean
from netplane.errors import NetplaneError

_logger = logging.getLogger("netplane")


class _Text(logging.Formatter):
    """``netplane: warning: what is wrong``."""

    def format(self, record: logging.LogRecord) -> str:
        return f"netplane: {record.levelname.lower()}: {clean(record.getMessage())}"


class _Json(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        time = dt.datetime.fromtimestamp(record.created, dt.UTC)
        return jsonlib.dumps(
            {
                "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "level": record.levelname.lower(),
                "message": record.getMessage(),
            }
        )


def start(*, json: bool = False, verbose: int = 0) -> None:
    """Send messages to stderr from here on; ``verbose`` lets informational ones through."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if json else _Text())
    _logger.handlers = [handler]
    _logger.propagate = False
    _logger.setLevel(logging.INFO if verbose else logging.WARNING)


def error(exc: NetplaneError) -> None:
    """Say why a command ended."""
    _print(logging.ERROR, str(exc))


def warn(message: str) -> None:
    """Say what the user should know although the command goes on."""
    _print(logging.WARNING, message)


def info(message: str) -> None:
    """Say what only -v wants to hear."""
    _print(logging.INFO, message)


def _print(level: int, message: str) -> None:
    if not _logger.handlers:
        start()
    _logger.log(level, "%s", message)
