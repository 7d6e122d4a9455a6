"""What every source of cluster state gives to the loop: coalesced, typed changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import msgspec

from netplane.core.model.problem import Problem
from netplane.core.model.service import EndpointSlice, Node, Service, ServiceName


class ObjectKey(NamedTuple):
    """An object by kind, namespace ("" for cluster-scoped kinds and files) and name."""

    kind: str
    namespace: str
    name: str


class ClusterChange(msgspec.Struct, frozen=True, kw_only=True):
    """How what a source says differs from what it said at the last ``take``.

    Attributes:
        services: New or changed Services; None: gone, or refused, or nothing to program for it.
        slices: All the slices of each Service of which any changed, sorted by name.
        node: Our own Node, where it changed; a Node that is gone keeps its last facts.
        eligible: Whether load balancers may send to this node (``glimpses.is_eligible``, and the
            Node is known); None where that did not change.
        problems: Per object whose refusals changed all of them; none: it is fine again, or gone.
        concerns: Of the slices among ``problems`` that have any, the Service each says it feeds.
        triggered: ``endpoints.kubernetes.io/last-change-trigger-time`` of each changed slice that
            says one, in seconds since the epoch; of one that changed often its oldest.
    """

    services: Mapping[ServiceName, Service | None] = {}
    slices: Mapping[ServiceName, tuple[EndpointSlice, ...]] = {}
    node: Node | None = None
    eligible: bool | None = None
    problems: Mapping[ObjectKey, tuple[Problem, ...]] = {}
    concerns: Mapping[ObjectKey, ServiceName] = {}
    triggered: tuple[float, ...] = ()


class Source(Protocol):
    """A producer of changes; used on the thread of one event loop only.

    Attributes:
        in_sync: Everything has been read once. It never turns back.
        last_heard: When the last sign of life came, in seconds of the monotonic clock.
        patience: Seconds of silence that are still normal, for whoever judges ``last_heard``.
        fault: Why the source does not hear its other side now, safe to print; "" where it does.
    """

    @property
    def in_sync(self) -> bool: ...  # noqa: D102 (documented above, as for those below)
    @property
    def last_heard(self) -> float: ...  # noqa: D102
    @property
    def patience(self) -> float: ...  # noqa: D102
    @property
    def fault(self) -> str: ...  # noqa: D102

    async def run(self) -> None:
        """Listen until cancelled; faults of the other side never end it."""

    def take(self) -> ClusterChange | None:
        """Everything since the last take, coalesced; None when nothing, or not yet in sync."""

    async def wait(self) -> None:
        """Return when ``take`` would give something, or ``in_sync`` or ``fault`` has changed."""
