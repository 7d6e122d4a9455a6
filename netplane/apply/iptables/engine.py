"""The iptables mode of a process that goes on: a change costs what changed.

    change   one Service or slice -> its plan -> its chains -> one iptables-restore per family
    verify   iptables-save -> what differs from the rules that are wanted -> that is written

The rules of every Service are held as they are wanted, so what is planned anew is all there is to
render. iptables has no lock that tells who wrote: a change trusts what is held, and verify finds
what somebody has damaged. Where a restore fails, the next step is to look.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Self

import msgspec

from netplane.apply.engine import Applied, RuleCount
from netplane.apply.iptables.kernel import IptablesKernel
from netplane.apply.iptables.programs import Variant
from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink.commit import Vouch
from netplane.core.iptables.compile import PortRules
from netplane.core.iptables.diff import Delta, diff
from netplane.core.iptables.layout import TABLES
from netplane.core.iptables.live import LiveChains, LiveUpdate
from netplane.core.iptables.owners import by_service, same
from netplane.core.iptables.parse import Observed
from netplane.core.iptables.report import report
from netplane.core.iptables.steps import Step, joined, steps
from netplane.core.model.address import Family
from netplane.core.model.service import EndpointSlice, Service, ServiceName
from netplane.core.model.snapshot import Snapshot
from netplane.core.plan.changes import Changes, merged
from netplane.core.plan.incremental import Planner, Replanned
from netplane.core.plan.incremental import joined as replanned_since
from netplane.core.plan.node import NodeView
from netplane.errors import RefusedError
from netplane.rendering import environment

# To find one bad Service among 10,000 takes some 30 trials. Where that is not enough, no single
# Service is to blame: those left are refused together.
_TRIALS = 60


class IptablesEngine:
    """Keeps one namespace's chains what the plan says; a context manager, used by one thread.

    What its methods promise stands in ``netplane.apply.engine.Engine``.

    Args:
        namespace: Where, entered.
        node: What the plan is for.
        variant: Which iptables to write with; the host's own where None.
        lock_wait: Seconds to wait for the xtables lock.
        vouch: Who may know that foreign commits did no harm (``Witness.vouch``).
    """

    def __init__(
        self,
        namespace: Namespace,
        node: NodeView,
        *,
        variant: Variant | None = None,
        lock_wait: float = 5.0,
        vouch: Vouch | None = None,
    ) -> None:
        self._planner = Planner(node)
        self._kernel = IptablesKernel(namespace, variant=variant, lock_wait=lock_wait, vouch=vouch)
        self._lives: dict[Family, LiveChains] = {}
        self._known = False  # the kernel has what the live chains say
        self._refused: dict[ServiceName, str] = {}
        self._differing: set[Family] = set()  # from what was wanted, at the last look
        self._held: set[ServiceName] = set()  # their live chains are not what is planned
        self._untold: tuple[Replanned, ...] = ()
        self._written: Mapping[tuple[Family, str], int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._kernel.close()

    @property
    def planner(self) -> Planner:
        """What traffic should do; see ``Engine``."""
        return self._planner

    @property
    def notes(self) -> tuple[str, ...]:
        """What had to be left out so far, in words."""
        return self._kernel.notes

    @property
    def rules(self) -> Mapping[tuple[Family, str], RuleCount]:
        """How many rules there are, and were written last; see ``Engine``."""
        return {
            (family, table): RuleCount(live.count(table), self._written.get((family, table), 0))
            for family, live in self._lives.items()
            for table in TABLES
        }

    @property
    def conflicts(self) -> int:
        """None: iptables waits for a lock, or tries again by itself."""
        return 0

    def sync(self, snapshot: Snapshot) -> Applied:
        """Take in everything, observe everything, and write what differs."""
        self._take(self._planner.replace(snapshot))
        return self._look()

    def change(
        self,
        services: Mapping[ServiceName, Service | None],
        slices: Mapping[ServiceName, tuple[EndpointSlice, ...]],
    ) -> Applied:
        """Take in what changed, and write that; see ``Engine``."""
        known = self._known
        replanned = self._planner.update(services, slices)
        updates = self._take(replanned)
        touched = {*services, *slices, *(change.service for change in replanned)}
        if not known or not touched.isdisjoint(self._refused):
            return self._look()
        changes = merged(update.changes for update in updates.values())
        try:
            self._kernel.write(
                {
                    family: self._inputs(update.delta, update.observed, update.groups, edit=True)
                    for family, update in updates.items()
                },
                growth=sum(update.growth for update in updates.values()),
            )
        except RefusedError:
            # Somebody has damaged what the rules lead to, or a Service is bad: a look tells.
            again = self._look()
            return msgspec.structs.replace(
                again,
                changes=merged([changes, again.changes]),
                mended=frozenset() if again.refused else frozenset(self._differing),
            )
        self._known = True
        return self._tell(changes)

    def turn_to(self, node: NodeView) -> Applied:
        """Take in what the node is now; see ``Engine``."""
        if node == self._planner.node:
            return self.change({}, {})
        replanned = self._planner.turn_to(node)
        views = {view.family: view for view in node.families}
        self._lives = {f: live for f, live in self._lives.items() if live.view == views[f]}
        self._take(replanned)
        return self._look()

    def verify(self) -> Applied:
        """Look, and mend; where it can be told that nobody wrote, nothing is read."""
        if self._known and not self._refused and self._kernel.is_untouched():
            return self._tell(Changes())
        looked = self._look()
        return msgspec.structs.replace(looked, mended=frozenset(self._differing))

    def _take(self, replanned: Sequence[Replanned]) -> dict[Family, LiveUpdate]:
        """Hold what is planned anew; until it is written, the kernel is not known to have it."""
        self._known = False
        self._untold = replanned_since(self._untold, replanned)
        updates = {}
        for index, view in enumerate(self._planner.node.families):
            before = [port for change in replanned for port in change.before[index]]
            after = [port for change in replanned for port in change.after[index]]
            if view.family in self._lives and (before or after):
                updates[view.family] = self._lives[view.family].update(before, after)
        return updates

    def _tell(self, changes: Changes, *, observed: bool = False) -> Applied:
        """What has been done, now that nothing is owed."""
        replanned, self._untold = self._untold, ()
        self._written = self._kernel.written()
        return Applied(
            changes=changes,
            refused=dict(self._refused),
            replanned=replanned,
            observed=observed,
            disturbed=not self._kernel.is_known,
        )

    def _look(self) -> Applied:
        """Observe everything and write what differs; a Service that is refused stays back."""
        self._known = False
        self._fit()
        self._release(tuple(self._held))
        self._refused = {}
        self._differing.clear()
        try:
            changes = self._mend()
        except RefusedError:
            changes = self._mend_apart()
        self._known = True
        return self._tell(changes, observed=True)

    def _fit(self) -> None:
        """Hold the chains of the families that can be programmed, and of no others."""
        views = {view.family: view for view in self._planner.node.families}
        usable = self._kernel.usable(views)
        held = self._lives
        if held.keys() == set(usable):
            return
        ports = {plan.family: plan.ports for plan in self._planner.plan().families}
        self._lives = {
            f: held[f] if f in held else LiveChains(views[f], ports[f], environment())
            for f in usable
        }

    def _mend(self) -> Changes:
        """Compare the kernel with what is held, and write what differs; returns that."""
        seen = self._kernel.observe(self._lives, lambda family: self._lives[family].ruleset())
        inputs = {}
        stories = []
        for family, (observed, wanted) in seen.items():
            delta = diff(wanted, observed)
            if delta:
                inputs[family] = self._inputs(delta, observed, wanted.groups)
                stories.append(report(wanted, observed, delta))
        self._differing.update(inputs)
        self._kernel.write(inputs)
        return merged(stories)

    def _mend_apart(self) -> Changes:
        """Find the Services that are refused by halving those that differ; the others get in.

        Those not tried yet, and those refused, are held as the kernel has them. Where nothing at
        all can be written, no Service is to blame.
        """
        self._kernel.require_working(self._lives)
        seen = self._kernel.observe(self._lives, lambda _: None)
        there = {family: by_service(observed) for family, (observed, _) in seen.items()}
        differ = sorted(
            {
                name
                for family, live in self._lives.items()
                for name in live.services
                if not same(there[family].get(name), live.rules(name))
            }
        )
        self._hold(differ, there)
        stories = [self._mend()]
        ahead = [differ] if differ else []
        trials = 0
        while ahead:
            names = ahead.pop()
            trials += 1
            self._release(names)
            try:
                stories.append(self._mend())
            except RefusedError as exc:
                self._hold(names, there)
                if len(names) > 1 and trials < _TRIALS:
                    half = len(names) // 2
                    ahead += (names[half:], names[:half])
                else:
                    self._refused |= dict.fromkeys(names, str(exc))
        if self._refused:
            stories.append(self._mend())  # what a trial has written before it was refused
        return merged(stories)

    def _hold(
        self,
        names: Collection[ServiceName],
        there: Mapping[Family, Mapping[ServiceName, PortRules]],
    ) -> None:
        """Want of these Services what the kernel has of them."""
        self._held.update(names)
        for family, live in self._lives.items():
            kept = {name: there[family].get(name) for name in names}
            live.put({name: (rules,) if rules else () for name, rules in kept.items()})

    def _release(self, names: Collection[ServiceName]) -> None:
        """Want of these Services what is planned again."""
        self._held.difference_update(names)
        plans = {name: self._planner.planned(name) for name in names}
        for index, view in enumerate(self._planner.node.families):
            live = self._lives.get(view.family)
            if live is not None and plans:
                ports = [port for planned in plans.values() for port in planned[index]]
                rules = live.compile(ports)
                live.put({name: rules.get(name, ()) for name in plans})

    def _inputs(
        self,
        delta: Delta,
        observed: Observed,
        groups: tuple[tuple[str, ...], ...],
        *,
        edit: bool = False,
    ) -> tuple[Step, ...]:
        """What to give to iptables-restore, in order."""
        return joined(steps(groups, observed, delta, chunk=self._kernel.chunk, edit=edit))
