"""A fault in one object, as data: it refuses that object or that part of it, and nothing else."""

from __future__ import annotations

import msgspec


class Problem(msgspec.Struct, frozen=True, order=True):
    """Why an object, or a part of it, was refused.

    Attributes:
        kind: ``Service``, ``EndpointSlice``...
        namespace: Of the object; "" for cluster-scoped ones. May hold foreign text.
        name: Of the object. May hold foreign text.
        field: Path in the object, ``spec.ports[0].port``.
        value: The offending value as text, at most 80 characters, control characters escaped.
        reason: What is wrong with it and what would be right.
    """

    kind: str
    namespace: str
    name: str
    field: str
    value: str
    reason: str

    def __str__(self) -> str:
        where = f"{self.namespace}/{self.name}" if self.namespace else self.name
        shown = f" ({self.value})" if self.value else ""
        who = " ".join(filter(None, (self.kind, where))) or "something without a kind or name"
        return f"{who}: {self.field}{shown}: {self.reason}"


def shown(value: object) -> str:
    """A foreign value as safe text: escaped, bounded, never a control sequence."""
    text = value if isinstance(value, str) else repr(value)
    escaped = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:200])
    return escaped if len(escaped) <= 80 else escaped[:77] + "..."  # noqa: PLR2004 (see Problem.value)
