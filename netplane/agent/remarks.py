"""What an operator should know though nothing has failed: said once, as long as it stays so."""

from __future__ import annotations

import os
from collections.abc import Iterator

from netplane.agent.parameters import unmet_parameters
from netplane.apply.engine import Engine
from netplane.apply.netns import Namespace
from netplane.config import Config
from netplane.core.plan.node import DetectorKind, FamilyView
from netplane.core.plan.plan import Plan, notes_of
from netplane.errors import ApplyError


class Remarks:
    """Makes the remarks, again and again.

    Args:
        config: Checked configuration.
        namespace: Where, entered.
    """

    def __init__(self, config: Config, namespace: Namespace) -> None:
        self._config = config
        self._namespace = namespace
        self._of_node: tuple[str, ...] | None = None

    def planned_anew(self) -> None:
        """A Service, or the node, is planned for in another way than it was."""
        self._of_node = None

    def make(self, engine: Engine) -> tuple[str, ...]:
        """What had to be left out, and what is not as the configuration asks, in words."""
        if self._of_node is None:
            self._of_node = tuple(_of_node(engine))
        return (*engine.notes, *self._of_node, *_of_kernel(self._config, self._namespace))


def _of_node(engine: Engine) -> Iterator[str]:
    """What of the node is not known, and matters to a Service that is there."""
    if any(_lacks(view) for view in engine.planner.node.families):
        plan = engine.planner.plan()  # of all Services
        yield from notes_of(plan)
        yield from _without_detector(plan)


def _lacks(view: FamilyView) -> bool:
    return view.detector.kind is DetectorKind.NONE or view.node_port_addresses == ()


def _without_detector(plan: Plan) -> Iterator[str]:
    for family in plan.families:
        if family.ports and family.view.detector.kind is DetectorKind.NONE:
            yield (
                f"IPv{family.family.value}: nothing says which traffic is of this node's pods: "
                "connections from elsewhere to ClusterIPs are not masqueraded, and pods count as "
                "outside where a Service's policy is Local (give --cluster-cidr, or "
                "--detect-local-mode)"
            )


def _of_kernel(config: Config, namespace: Namespace) -> Iterator[str]:
    """The first rules load connection tracking, whose parameters are not there before."""
    try:
        yield from unmet_parameters(config, namespace, processors=os.cpu_count() or 1)
    except ApplyError as exc:
        yield str(exc)
