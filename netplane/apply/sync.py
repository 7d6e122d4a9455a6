"""One pass: snapshot -> plan -> prepare -> commit -> what follows -> report.

    guard      a live kube-proxy is refused, unless it is to be taken over
    commit     the rules of the wanted mode, by the mode itself
    follow up  see ``follow_up``, whether or not a rule changed

Everything before ``Sync.commit`` reads only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import msgspec

from netplane.apply import conntrack, foreign
from netplane.apply.addresses import local_addresses
from netplane.apply.dataplane import Dataplane, Update
from netplane.apply.flows import Flow
from netplane.apply.follow_up import FollowUp, foreseen_parameters
from netplane.apply.modes import Leftover, leftovers, open_mode
from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink.witness import Witness, concern_of
from netplane.config import PRIMARY, Config
from netplane.core.model.service import Node
from netplane.core.model.snapshot import Snapshot
from netplane.core.plan.changes import Changes
from netplane.core.plan.compile import build_plan
from netplane.core.plan.conntrack import desired_flows
from netplane.core.plan.node import NodeView
from netplane.core.plan.plan import Plan, notes_of
from netplane.core.plan.view import build_view
from netplane.errors import ApplyError, LockedError

_ATTEMPTS = 3


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a commit did.

    Attributes:
        changes: What it changed in the rules; false where they were right already.
        also: What else it changed, in words: a kernel parameter, retired rules.
        flows: UDP conntrack entries deleted.
        failures: Steps after the rules that failed, in words; () means all is done.
        attempts: How often the rules were committed: more than once where another process was
            quicker.
    """

    changes: Changes
    also: tuple[str, ...] = ()
    flows: tuple[Flow, ...] = ()
    failures: tuple[str, ...] = ()
    attempts: int = 1

    def __bool__(self) -> bool:
        return bool(self.changes or self.also or self.flows)


class Sync:
    """A pass worked out against what is in the kernel; nothing is written before ``commit``.

    Attributes:
        plan: What traffic should do; ``plan.problems`` are the refused objects.
        kube_proxy: Traces of a kube-proxy in the namespace.
        notes: What had to be left out, in words.
    """

    def __init__(self, namespace: Namespace, config: Config, snapshot: Snapshot) -> None:
        self._namespace = namespace
        self._mode = config.mode
        self._dataplane: Dataplane = open_mode(config.mode, namespace)
        # Most states need none of them, and to read them takes as long as to decode a small one.
        self._local = functools.cache(partial(local_addresses, namespace))
        self.plan: Plan = plan_for(config, snapshot, self._local)
        self.kube_proxy = foreign.find_kube_proxy(namespace)
        self._leftovers: tuple[Leftover, ...] = leftovers(config.mode, self._dataplane, namespace)
        self._update: Update = self._dataplane.prepare(self.plan)
        self.notes = (*self._dataplane.notes, *notes_of(self.plan))
        self._tried: list[Changes] = []

    def foresee(self) -> Outcome:
        """What commit would change, conntrack excepted; writes nothing."""
        found = foreseen_parameters(self._namespace, self.plan.node)
        found += [f"would remove our rules of {leftover.name}" for leftover in self._leftovers]
        return Outcome(changes=self._update.changes, also=tuple(found))

    def commit(self, *, take_over: bool = False) -> Outcome:
        """Write it all.

        Args:
            take_over: Go on beside a kube-proxy, and remove its canaries and tables.

        Raises:
            ConflictError: A kube-proxy programs this namespace; nothing was written.
            ApplyError: The rules could not be written; the message says what was.
        """
        if not take_over:
            foreign.refuse(self.kube_proxy, self._namespace)
        changes = self._commit_rules()
        after = FollowUp()
        after.set_parameters(self._namespace, self.plan.node)
        after.retire(lambda: self._leftovers)
        after.take_over(self._namespace, self.kube_proxy)
        for family in self.plan.families:
            removed = frozenset().union(
                *(conntrack.removed_frontends(tried, family.family) for tried in self._tried)
            )
            after.clean_flows(
                self._namespace, family.view, desired_flows(family), self._local, removed
            )
        return Outcome(
            changes=changes,
            also=tuple(after.also),
            flows=tuple(after.flows),
            failures=tuple(after.failures),
            attempts=max(1, len(self._tried)),
        )

    def _commit_rules(self) -> Changes:
        """Commit; where another process was quicker, observe again and commit that.

        From then on foreign commits are listened to, so that those which do no harm cost no more
        looks. Not from the start: the kernel would tell us each element that we write, too.
        """
        with ExitStack() as listening:
            for attempt in range(1, _ATTEMPTS + 1):
                changes = self._update.changes
                self._tried.append(changes)
                try:
                    self._update.commit()
                except LockedError:
                    raise  # the wait for it is over
                except ApplyError as exc:
                    if not exc.retryable or attempt == _ATTEMPTS:
                        raise
                    if attempt == 1:
                        witness = Witness(self._namespace, concern_of(self._mode))
                        self._dataplane.heed(listening.enter_context(witness).vouch)
                    self._update = self._dataplane.prepare(self.plan)
                else:
                    return changes
        raise AssertionError("unreachable: the last attempt returns or raises")


def plan_for(
    config: Config, snapshot: Snapshot, addresses: Callable[[], tuple[str, ...]] = tuple
) -> Plan:
    """The plan of the configured node.

    Args:
        config: Checked configuration.
        snapshot: The cluster's objects.
        addresses: Tells the addresses on the node's interfaces; called where they matter.
    """
    view = view_for(config, snapshot.nodes.get(config.node_name), addresses)
    return build_plan(snapshot, view)


def view_for(
    config: Config, node: Node | None, addresses: Callable[[], tuple[str, ...]]
) -> NodeView:
    """What the configured node is: its view from configuration, Node object and addresses."""
    local = addresses() if chooses_addresses(config) else ()
    return build_view(config, mode=config.mode, node=node, local_addresses=local)


def chooses_addresses(config: Config) -> bool:
    """Whether only some of the node's addresses accept NodePorts, those within networks."""
    return PRIMARY not in config.node_port_addresses and any(
        not network.endswith("/0") for network in config.node_port_addresses
    )
