"""A change of a few Services, told as the whole table's changes are.

The report compares two rulesets; those of the changed Services alone say the same about them. It
is worked out only if somebody asks: telling takes longer than the change did.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cached_property

import jinja2

from netplane.core.nftables.compile import compile_family
from netplane.core.nftables.diff import Delta
from netplane.core.nftables.observed import Observed
from netplane.core.nftables.report import report
from netplane.core.plan.changes import Action, Changes, LostFrontend, ServiceChange
from netplane.core.plan.node import FamilyView
from netplane.core.plan.plan import FamilyPlan
from netplane.core.plan.port import PortPlan


class Retold:
    """The transaction of a live table as a story; see ``netplane.core.plan.changes.Story``.

    Args:
        view: The node in this family.
        before: Plans of the changed Services' ports as they were.
        after: The same now.
        delta: What ``LiveTable.update`` made of them.
        environment: Of rule templates.
    """

    def __init__(
        self,
        view: FamilyView,
        before: tuple[PortPlan, ...],
        after: tuple[PortPlan, ...],
        delta: Delta,
        environment: jinja2.Environment,
    ) -> None:
        self._view = view
        self._before = before
        self._after = after
        self._delta = delta
        self._environment = environment

    def __bool__(self) -> bool:
        return bool(self._delta)

    def totals(self) -> Counter[Action]:
        """See ``Story``."""
        return self._told.totals()

    def services(self, *, limit: int | None = None, rules: bool = False) -> list[ServiceChange]:
        """See ``Story``."""
        return self._told.outline(limit=limit, rules=rules)

    def base(self) -> tuple[str, ...]:
        """See ``Story``."""
        return self._told.base

    def lost(self) -> Iterable[LostFrontend]:
        """See ``Story``."""
        return self._told.lost()

    @cached_property
    def _told(self) -> Changes:
        view, environment = self._view, self._environment
        old = compile_family(FamilyPlan(view=view, ports=self._before), environment)
        new = compile_family(FamilyPlan(view=view, ports=self._after), environment)
        there = Observed(family=view.family, exists=True, chains=old.chains, elements=old.elements)
        return report(new, there, self._delta)
