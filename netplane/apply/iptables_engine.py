"""The iptables mode of a process that goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from netplane.apply.engine import Applied
from netplane.apply.iptables import IptablesDataplane
from netplane.apply.iptables_tools import Variant
from netplane.apply.netns import Namespace
from netplane.core.model.service import EndpointSlice, Service, ServiceName
from netplane.core.model.snapshot import Snapshot
from netplane.core.plan.incremental import Planner, Replanned, joined
from netplane.core.plan.node import NodeView


class IptablesEngine:
    """Keeps one namespace's chains what the plan says; a context manager, used by one thread.

    What its methods promise stands in ``netplane.apply.engine.Engine``.

    Args:
        namespace: Where, entered.
        node: What the plan is for.
        variant: Which iptables to write with; the host's own where None.
        lock_wait: Seconds to wait for the xtables lock.
    """

    def __init__(
        self,
        namespace: Namespace,
        node: NodeView,
        *,
        variant: Variant | None = None,
        lock_wait: float = 5.0,
    ) -> None:
        self._planner = Planner(node)
        self._dataplane = IptablesDataplane(namespace, variant=variant, lock_wait=lock_wait)
        self._untold: tuple[Replanned, ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """There is nothing to close: each restore is a process of its own."""

    @property
    def planner(self) -> Planner:
        """What traffic should do; see ``Engine``."""
        return self._planner

    @property
    def notes(self) -> tuple[str, ...]:
        """What had to be left out so far, in words."""
        return self._dataplane.notes

    def sync(self, snapshot: Snapshot) -> Applied:
        """Take in everything, observe everything, and write what differs."""
        return self._apply(self._planner.replace(snapshot))

    def change(
        self,
        services: Mapping[ServiceName, Service | None],
        slices: Mapping[ServiceName, tuple[EndpointSlice, ...]],
    ) -> Applied:
        """Take in what changed, and write that; see ``Engine``."""
        return self._apply(self._planner.update(services, slices))

    def turn_to(self, node: NodeView) -> Applied:
        """Take in what the node is now; see ``Engine``."""
        return self._apply(self._planner.turn_to(node))

    def verify(self) -> Applied:
        """Look whether the kernel is as it should be, and mend what is not."""
        return self._apply(())

    def _apply(self, replanned: Sequence[Replanned]) -> Applied:
        self._untold = joined(self._untold, replanned)
        update = self._dataplane.prepare(self._planner.plan())
        changes = update.changes
        update.commit()
        told, self._untold = self._untold, ()
        return Applied(changes=changes, refused={}, replanned=told, observed=True)
