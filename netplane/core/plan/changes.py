"""What a sync would change, told per Service: the common report of both modes' diffs.

To tell a change takes longer than to write it: 10,000 Services are written in a tenth of the time
that all their lines take. So a report is worked out when somebody asks, and only as far.
"""

from __future__ import annotations

import enum
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from operator import attrgetter
from typing import NamedTuple, Protocol

import msgspec

from netplane.core.model.address import Family


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


class LostFrontend(NamedTuple):
    """A frontend that a sync takes away; ``address`` is "" for a NodePort."""

    family: Family
    address: str
    protocol: str
    port: int


class Story(Protocol):
    """The changes of one family, as one mode tells them. False where there are none."""

    def __bool__(self) -> bool:
        """Whether anything changes."""

    def totals(self) -> Counter[Action]:
        """How many service ports are added, removed, changed."""

    def services(self, *, limit: int | None = None, rules: bool = False) -> list[ServiceChange]:
        """The first of them, sorted by (label, protocol); with rules if asked for."""

    def base(self) -> tuple[str, ...]:
        """Changes to what Services share (jumps, the program), ``+ ``/``- `` lines."""

    def lost(self) -> Iterable[LostFrontend]:
        """The frontends that go."""


_ORDER = attrgetter("label", "family", "protocol")


class Changes:
    """Everything a sync would change; false where it changes nothing."""

    def __init__(self, *stories: Story) -> None:
        self.stories = tuple(filter(None, stories))

    def __bool__(self) -> bool:
        return bool(self.stories)

    @property
    def services(self) -> tuple[ServiceChange, ...]:
        """Every service port with all its rules, sorted by (label, family, protocol)."""
        return tuple(self.outline(rules=True))

    @property
    def base(self) -> tuple[str, ...]:
        """Changes to what Services share (jumps, the program), ``+ ``/``- `` lines."""
        return tuple(chain.from_iterable(story.base() for story in self.stories))

    def totals(self) -> Counter[Action]:
        """How many service ports, counted per family, are added, removed, changed."""
        return sum((story.totals() for story in self.stories), Counter())

    def outline(self, *, limit: int | None = None, rules: bool = False) -> list[ServiceChange]:
        """The first service ports in the order of ``services``; their rules only if asked for."""
        told = [story.services(limit=limit, rules=rules) for story in self.stories]
        return list(islice(heapq.merge(*told, key=_ORDER), limit))

    def lost(self) -> Iterator[LostFrontend]:
        """The frontends that go."""
        return chain.from_iterable(story.lost() for story in self.stories)


def merged(parts: Iterable[Changes]) -> Changes:
    """The changes of several families as one report."""
    return Changes(*chain.from_iterable(part.stories for part in parts))
