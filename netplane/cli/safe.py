"""Foreign text made safe for a terminal."""

from __future__ import annotations


def clean(text: str) -> str:
    r"""The text with everything a terminal might obey escaped; newlines too.

    Control characters, escape sequences, bidirectional overrides and lone surrogates are not
    printable in Python's sense; they come out as ``\x1b``, ``\u202e``...
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
