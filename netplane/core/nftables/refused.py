"""Whose service ports a refused element or chain belongs to, told by the comments on verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from netplane.core.model.service import ServiceName
from netplane.core.nftables.layout import SETS, Elements, Key, Keys, Value, Values, Verdict
from netplane.core.nftables.wire_places import Place
from netplane.core.plan.port import Backend

_VERDICTS = tuple(s.name for s in SETS if s.values is Values.VERDICT)
_SLOTS = tuple(s.name for s in SETS if s.values is Values.SLOTS)


def labels_of(place: Place, elements: Elements) -> list[str]:
    """The labels of the service ports that need an element or a chain.

    Args:
        place: What was refused.
        elements: What was wanted in its family's table.
    """
    frontend = place.frontend
    frontends = _frontends(place, elements) if frontend is None else [frontend]
    found: dict[str, None] = {}
    for key in frontends:
        for name in _VERDICTS:
            verdict = elements[name].get(key)
            if isinstance(verdict, Verdict) and verdict.comment:
                found[verdict.comment] = None
    return list(found)


def service_of(label: str) -> ServiceName:
    """The Service of a label: a comment's limit cuts at most the port's name off."""
    namespace, _, name = label.partition(":")[0].partition("/")
    return ServiceName(namespace, name)


def _frontends(place: Place, elements: Elements) -> Iterator[Key]:
    """The frontends that need something which is no element of a frontend's."""
    if place.layout is None:
        for key, verdict in _entries(_VERDICTS, elements):
            if isinstance(verdict, Verdict) and verdict.chain == place.chain:
                yield key
    elif place.layout.keys is Keys.ADDRESS:
        yield from (k for k, _ in _entries(_VERDICTS, elements) if k[0] == place.key[0])
    elif place.layout.keys is Keys.FLOW:
        address, _, _, port = place.key
        backend = Backend(str(address), int(port))
        for key, slots in _entries(_SLOTS, elements):
            if isinstance(slots, tuple) and backend in slots:
                yield key


def _entries(names: Iterable[str], elements: Elements) -> Iterator[tuple[Key, Value]]:
    return chain.from_iterable(elements[name].items() for name in names)
