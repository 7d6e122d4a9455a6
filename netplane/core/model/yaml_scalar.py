"""What a plain YAML scalar means: null, a boolean, a number, or text.

The rules are those of go-yaml v2, the parser in ``kubectl``: YAML 1.1 without sexagesimal numbers
and without timestamps; ``1e3`` is a number; what would overflow is text; integral floats become
integers on their way through JSON.
"""

from __future__ import annotations

import functools
import math
import re

_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **{w: True for t in ("true", "yes", "on") for w in (t, t.title(), t.upper())},
    **{w: False for t in ("false", "no", "off") for w in (t, t.title(), t.upper())},
}
_NUMBER_START = frozenset("+-.0123456789")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_INTEGER = re.compile(r"([-+]?)(0b[01]+|0x[0-9a-fA-F]+|0o?[0-7]+|0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INTEGER_LENGTH = 20
_EXACT = 2**53
"""Up to here a float holds an integer exactly."""


class NotFiniteError(ValueError):
    """NaN or an infinity: legal YAML, but JSON, which Kubernetes speaks, has neither."""


@functools.lru_cache(maxsize=1 << 12)
def resolve(text: str) -> str | int | float | bool | None:
    """The value of a plain scalar.

    Raises:
        NotFiniteError: For ``.nan`` and ``.inf``.
    """
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _NUMBER_START:
        return text
    if _NOT_FINITE.fullmatch(text):
        raise NotFiniteError(f"{text} is not a number that JSON has")
    digits = text.replace("_", "")
    integer = _INTEGER.fullmatch(digits)
    if integer and len(digits) <= _INTEGER_LENGTH:
        sign, body = integer.groups()
        octal = len(body) > 1 and body[0] == "0" and body[1].isdigit()
        number = int(body, 8 if octal else 0)
        return -number if sign == "-" else number
    if not _FLOAT.fullmatch(digits):
        return text
    value = float(digits)
    if not math.isfinite(value):
        return text
    return int(value) if value.is_integer() and abs(value) < _EXACT else value
