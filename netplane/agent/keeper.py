"""The agent's hands: holds what the cluster says, and makes one namespace's kernel so.

Used by one thread, the agent's worker, since every step may block. A fresh keeper needs no memory:
what is in the kernel is observed, adopted and corrected, never flushed.
"""

from __future__ import annotations

import msgspec

from netplane.agent.changes import ClusterChange, ObjectKey
from netplane.apply.netns import Namespace
from netplane.apply.sync import Outcome, Sync
from netplane.config import Config
from netplane.core.model.address import Family
from netplane.core.model.problem import Problem
from netplane.core.model.service import EndpointSlice, Node, Service, ServiceName
from netplane.core.model.snapshot import Snapshot
from netplane.core.plan.plan import Plan


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What one pass found and did.

    Attributes:
        plan: What the kernel now does, ``outcome.failures`` excepted.
        outcome: What was changed; false where the kernel was right already.
        notes: What the mode had to leave out, in words.
    """

    plan: Plan
    outcome: Outcome
    notes: tuple[str, ...] = ()


class Keeper:
    """Keeps the rules of one namespace what the cluster says.

    Args:
        namespace: Where, entered.
        config: Checked configuration.
        take_over: Go on beside a kube-proxy and remove what it leaves behind.
    """

    def __init__(self, namespace: Namespace, config: Config, *, take_over: bool = False) -> None:
        self._namespace = namespace
        self._config = config
        self._take_over = take_over
        self._services: dict[ServiceName, Service] = {}
        self._slices: dict[ServiceName, tuple[EndpointSlice, ...]] = {}
        self._nodes: dict[str, Node] = {}
        self._problems: dict[ObjectKey, tuple[Problem, ...]] = {}

    @property
    def families(self) -> tuple[Family, ...]:
        """The families kept: both; a kernel without one of them says so in ``Kept.notes``."""
        return tuple(Family)

    def take(self, change: ClusterChange) -> None:
        """Note what has changed; nothing is written before ``keep``."""
        for name, service in change.services.items():
            if service is None:
                self._services.pop(name, None)
            else:
                self._services[name] = service
        for name, slices in change.slices.items():
            if slices:
                self._slices[name] = slices
            else:
                self._slices.pop(name, None)
        for key, problems in change.problems.items():
            if problems:
                self._problems[key] = problems
            else:
                self._problems.pop(key, None)
        if change.node is not None:
            self._nodes = {change.node.name: change.node}

    def keep(self) -> Kept:
        """Observe, compare, and write the difference; conntrack and the rest as ``apply`` does.

        Raises:
            ConflictError: A kube-proxy programs this namespace.
            ApplyError: The rules could not be written; nothing owed is forgotten.
        """
        sync = Sync(self._namespace, self._config, self._snapshot())
        outcome = sync.commit(take_over=self._take_over)
        return Kept(plan=sync.plan, outcome=outcome, notes=sync.notes)

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            services=self._services,
            slices=self._slices,
            nodes=self._nodes,
            problems=tuple(sorted({p for found in self._problems.values() for p in found})),
        )
