"""The agent's hands: takes what has changed in the cluster, and makes one namespace's kernel so.

    change   the changed Services alone are planned, compiled and written
    look     the kernel is compared with what is wanted, and mended

Used by one thread, the agent's worker, since every step may block. A fresh keeper needs no memory:
what is in the kernel is observed, adopted and corrected, never flushed. What a failed pass owed,
the next one does.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Self

import msgspec

from netplane.agent.changes import ClusterChange
from netplane.agent.flow_keeper import FlowKeeper
from netplane.agent.remarks import Remarks
from netplane.apply import foreign
from netplane.apply.addresses import local_addresses
from netplane.apply.engine import Applied, Engine, RuleCount, told_with
from netplane.apply.follow_up import FollowUp
from netplane.apply.foreign import KubeProxy
from netplane.apply.modes import Leftover, OtherModes, open_engine
from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink.commit import Vouch
from netplane.apply.sync import view_for
from netplane.config import Config
from netplane.core.model.address import Family
from netplane.core.model.problem import Problem
from netplane.core.model.service import EndpointSlice, Node, Service, ServiceName
from netplane.core.plan.node import NodeView
from netplane.core.plan.plan import HealthCheck


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What one pass found and did.

    Attributes:
        node: What the node is, as planned for.
        applied: What became of the rules.
        after: What was done after them; the next pass tries again what failed.
        collisions: What Services lost to others.
        health_checks: What health check node ports are to answer.
        notes: What had to be left out, or is not as it should be, in words, by the last look.
        rules: How many rules there are and were written, by family and table; iptables mode.
        conflicts: Commits begun anew since the start, since somebody else's had come between.
        flow_seconds: How long the pass over the UDP flows took, of each family it was made in.
        rival: Traces of a kube-proxy that programs the same namespace, "" where there are none.
    """

    node: NodeView
    applied: Applied
    after: FollowUp
    collisions: tuple[Problem, ...]
    health_checks: tuple[HealthCheck, ...]
    notes: tuple[str, ...] = ()
    rules: Mapping[tuple[Family, str], RuleCount] = {}
    conflicts: int = 0
    flow_seconds: Mapping[Family, float] = {}
    rival: str = ""


class Keeper:
    """Keeps the rules of one namespace what the cluster says; a context manager.

    Args:
        namespace: Where, entered.
        config: Checked configuration.
        take_over: Go on beside a kube-proxy and remove what it leaves behind.
        vouch: Who may know that foreign commits did no harm (``Witness.vouch``).
    """

    def __init__(
        self,
        namespace: Namespace,
        config: Config,
        *,
        take_over: bool = False,
        vouch: Vouch | None = None,
    ) -> None:
        self._namespace = namespace
        self._config = config
        self._take_over = take_over
        self._vouch = vouch
        self._services: dict[ServiceName, Service | None] = {}
        self._slices: dict[ServiceName, tuple[EndpointSlice, ...]] = {}
        self._node: Node | None = None
        self._engine: Engine | None = None
        self._untold: Applied | None = None  # done by a pass that then failed
        self._stack = ExitStack()
        self._written = False  # the rules serve; a kube-proxy that comes from now on is a rival
        # What is done once, after the first rules; where it fails, the next look tries again.
        self._to_retire = True
        self._others: OtherModes | None = None
        self._remarks = Remarks(config, namespace)
        self._notes: tuple[str, ...] = ()
        self._to_take_over = take_over
        self._flows = FlowKeeper(namespace)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def families(self) -> tuple[Family, ...]:
        """The families kept: both; a kernel without one of them says so in ``Kept.notes``."""
        return tuple(Family)

    def take(self, change: ClusterChange) -> None:
        """Note what has changed; nothing is written before ``keep``."""
        self._services |= change.services
        self._slices |= change.slices
        if change.node is not None:
            self._node = change.node

    def keep(self, *, look: bool) -> Kept:
        """Write what has changed and what is owed.

        Args:
            look: Compare the kernel with all that is wanted, too. The first pass does anyway.

        Raises:
            ConflictError: A kube-proxy programs this namespace; only before the first write.
            ApplyError: The rules could not be written; nothing owed is forgotten.
        """
        node = view_for(self._config, self._node, partial(local_addresses, self._namespace))
        look = look or not self._written
        rival = foreign.find_kube_proxy(self._namespace) if look else KubeProxy()
        if not self._written and not self._take_over:
            foreign.refuse(rival, self._namespace)
        engine = self._engine or self._open(node)
        owed = self._flows.owed or node != engine.planner.node
        self._flows.owed = True  # by a write that fails half-way
        applied = self._write(engine, node, look=look)
        self._written = True
        # While rules of ours were not what they should be, flows of any Service may have begun.
        amiss = applied.observed and bool(applied.changes)
        self._flows.owed = owed or amiss
        after = FollowUp()
        if look:
            rival = self._follow_up(after, engine, rival)
        everything = look and self._flows.owed
        took = self._flows.clean(engine.planner, applied, after, everything=everything)
        self._flows.owed |= amiss
        return Kept(
            node=node,
            applied=applied,
            after=after,
            collisions=engine.planner.collisions,
            health_checks=engine.planner.health_checks,
            notes=self._notes,
            rules=engine.rules,
            conflicts=engine.conflicts,
            flow_seconds=took,
            rival=str(rival),
        )

    def _open(self, node: NodeView) -> Engine:
        engine = open_engine(self._config.mode, self._namespace, node, vouch=self._vouch)
        self._engine = self._stack.enter_context(engine)
        return engine

    def _follow_up(self, after: FollowUp, engine: Engine, rival: KubeProxy) -> KubeProxy:
        """Do what a look does besides rules and flows; returns who is a rival still."""
        after.set_parameters(self._namespace, engine.planner.node)
        self._notes = self._remarks.make(engine)
        # From then on only what is nobody else's: a kube-proxy that came has the same chains.
        if self._to_retire or not rival:
            self._to_retire = not after.retire(self._leftovers)
        if self._to_take_over:
            self._to_take_over = not after.take_over(self._namespace, rival)
            return KubeProxy()  # one that was to be taken over is none; one that goes on is
        return rival

    def _leftovers(self) -> tuple[Leftover, ...]:
        self._others = self._others or OtherModes(self._config.mode, self._namespace)
        return self._others.find(thorough=self._to_retire)

    def _write(self, engine: Engine, node: NodeView, *, look: bool) -> Applied:
        """Hand over what has changed; from then on it is the engine that owes it."""
        observed = False
        if node != engine.planner.node:
            self._remarks.planned_anew()
            self._untold = told_with(self._untold, engine.turn_to(node))
        services, self._services = self._services, {}
        slices, self._slices = self._slices, {}
        if services or slices or not look:
            changed = engine.change(services, slices)
            observed = changed.observed
            self._untold = told_with(self._untold, changed)
        # A change trusts that what was written before is there still, so it is no look.
        if look and not observed:
            self._untold = told_with(self._untold, engine.verify())
        applied, self._untold = self._untold, None
        assert applied is not None, "there was a change or a look"
        if applied.replanned:
            self._remarks.planned_anew()
        return applied
