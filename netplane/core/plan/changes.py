"""What a sync would change, told per Service: the common report of both modes' diffs."""

from __future__ import annotations

import enum

import msgspec


class Action(enum.Enum):
    """What happens to a service port."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


class ServiceChange(msgspec.Struct, frozen=True, kw_only=True):
    """What changes for one service port in one family.

    Attributes:
        label: ``default/web:http``; an address where the kernel does not say whose it was.
        family: ``IPv4`` or ``IPv6``.
        frontends_added: ``ClusterIP 172.30.0.10:80/tcp``, ``NodePort :30080/tcp``...
        endpoints_added: ``10.244.1.7:8080``; both lists sorted.
        notes: Anything else in words: "now refuses connections", "session affinity 3 h".
        rules: The rules or elements under -v, each starting with ``+ `` or ``- ``.
    """

    label: str
    family: str
    action: Action
    protocol: str = ""
    frontends_added: tuple[str, ...] = ()
    frontends_removed: tuple[str, ...] = ()
    endpoints_added: tuple[str, ...] = ()
    endpoints_removed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a sync would change.

    Attributes:
        services: Sorted by (label, family, protocol).
        base: Changes to what Services share (jumps, the program), ``+ ``/``- `` lines.
    """

    services: tuple[ServiceChange, ...] = ()
    base: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.services or self.base)
