"""UDP flows while the cluster changes: stale ones deleted at once, and looked for once more later.

A change concerns the flows to the frontends that changed, so only those are judged. A packet that
was on its way while the rules changed may make one entry too many, and a step may fail; therefore
a later look goes over all flows again, with every frontend in mind that went since the last. The
next look does so, too, where rules of any Service may have been amiss: somebody had damaged them,
or a write has failed half-way.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from functools import partial

from netplane.apply import conntrack
from netplane.apply.addresses import local_addresses
from netplane.apply.conntrack import Frontend
from netplane.apply.engine import Applied
from netplane.apply.follow_up import FollowUp
from netplane.apply.netns import Namespace
from netplane.core.model.address import Family
from netplane.core.plan.conntrack import desired_flows, flows_of, frontends_of
from netplane.core.plan.incremental import Planner, ServicePlan
from netplane.core.plan.port import PortPlan


class FlowKeeper:
    """What is owed to the UDP flows of one namespace.

    Attributes:
        owed: The next look has to go over all flows.
    """

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._local = partial(local_addresses, namespace)
        self._ended: dict[Family, set[Frontend]] = {}
        self.owed = True

    def clean(
        self, planner: Planner, applied: Applied, after: FollowUp, *, everything: bool
    ) -> dict[Family, float]:
        """Delete what has become stale.

        Args:
            planner: What traffic should do.
            applied: What was done to the rules.
            after: Is told the flows deleted, and what failed.
            everything: Judge all flows, not only those to what was planned anew.

        Returns:
            The seconds that took, of each family whose flows were read.
        """
        failed = len(after.failures)
        took: dict[Family, float] = {}
        for index, view in enumerate(planner.node.families):
            ended = self._ended.setdefault(view.family, set())
            removed = frontends_of(_ports((r.before for r in applied.replanned), index))
            ended |= removed
            if everything:
                desired = desired_flows(planner.plan().families[index])
                removed = ended | conntrack.removed_frontends(applied.changes, view.family)
            else:
                desired = flows_of(_ports((r.after for r in applied.replanned), index))
            if everything or desired.frontends or desired.node_ports or removed:
                begin = time.monotonic()
                after.clean_flows(self._namespace, view, desired, self._local, removed)
                took[view.family] = time.monotonic() - begin
                self.owed = not everything
        if len(after.failures) > failed:
            self.owed = True
        elif everything:
            self._ended.clear()
        return took


def _ports(plans: Iterable[ServicePlan], index: int) -> Iterator[PortPlan]:
    return (port for plan in plans for port in plan[index])
