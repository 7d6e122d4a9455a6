"""What follows once the rules serve: parameters, rules of another mode, a kube-proxy's, flows.

    parameters  after the rules: localhost must be guarded before it is routable
    retire      our rules in the other modes, now that the wanted one serves
    take over   what a kube-proxy left behind
    flows       UDP connections that rules alone cannot correct

A failure here is collected, not raised: the rules serve, the report says what is missing, and
the next pass, which works from the state, makes it good.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TypeVar

import msgspec

from netplane.apply import conntrack, foreign, sysctl
from netplane.apply.conntrack import Frontend
from netplane.apply.flows import Flow
from netplane.apply.foreign import KubeProxy
from netplane.apply.modes import Leftover
from netplane.apply.netns import Namespace
from netplane.core.model.address import of_family
from netplane.core.plan.conntrack import UdpFlows
from netplane.core.plan.node import FamilyView, NodeView
from netplane.errors import ApplyError, WireError

_T = TypeVar("_T")
_NODE_PORTS_ANSWER = "NodePorts answer on 127.0.0.0/8"


class FollowUp(msgspec.Struct):
    """What was done after the rules, step by step.

    Attributes:
        also: What was changed besides rules and flows, in words.
        flows: UDP conntrack entries deleted.
        failures: Steps that failed, in words; none means all is done.
    """

    also: list[str] = []
    flows: list[Flow] = []
    failures: list[str] = []

    def set_parameters(self, namespace: Namespace, node: NodeView) -> None:
        """Set the kernel parameters that the rules count on."""
        self._attempt(self.also, lambda: _set_parameters(namespace, node))

    def retire(self, find: Callable[[], Iterable[Leftover]]) -> bool:
        """Remove our rules in other modes, once they are found; whether none is left."""
        leftovers: list[Leftover] = []
        done = self._attempt(leftovers, find)
        return all([done, *(self._attempt(self.also, each.remove) for each in leftovers)])

    def take_over(self, namespace: Namespace, found: KubeProxy) -> bool:
        """Remove what a kube-proxy left, if there was one; whether nothing is left."""
        return not found or self._attempt(self.also, lambda: foreign.take_over(namespace, found))

    def clean_flows(
        self,
        namespace: Namespace,
        view: FamilyView,
        desired: UdpFlows,
        local: Callable[[], tuple[str, ...]],
        removed: Collection[Frontend] = (),
    ) -> None:
        """Delete the stale UDP flows of one family; see ``conntrack.clean``.

        Args:
            namespace: Where.
            view: The node in that family.
            desired: What may live.
            local: Tells the addresses on the node's interfaces.
            removed: Frontends that were taken away.
        """
        accepting = view.node_port_addresses
        addresses = conntrack.Local(
            lambda: frozenset(of_family(local(), view.family)),
            None if accepting is None else frozenset(accepting),
        )
        self._attempt(
            self.flows,
            lambda: conntrack.clean(namespace, view.family, desired, addresses, removed),
        )

    def _attempt(self, done: list[_T], step: Callable[[], Iterable[_T]]) -> bool:
        try:
            done.extend(step())
        except (ApplyError, WireError) as exc:
            self.failures.append(str(exc))
            return False
        return True


def foreseen_parameters(namespace: Namespace, node: NodeView) -> list[str]:
    """What ``set_parameters`` would do, in words."""
    return [
        f"would set {sysctl.ROUTE_LOCALNET} to 1: {_NODE_PORTS_ANSWER}"
        for view in node.families
        if sysctl.lacks_route_localnet(namespace, view)
    ]


def _set_parameters(namespace: Namespace, node: NodeView) -> Iterator[str]:
    for view in node.families:
        if sysctl.lacks_route_localnet(namespace, view):
            sysctl.write(namespace, sysctl.ROUTE_LOCALNET, "1")
            yield f"set {sysctl.ROUTE_LOCALNET} to 1: {_NODE_PORTS_ANSWER}"
