"""Rulesets of a few service ports, and the tables a kernel has once they are loaded."""

from __future__ import annotations

from netplane.core.model.address import Family
from netplane.core.nftables.compile import compile_family
from netplane.core.nftables.layout import Ruleset
from netplane.core.nftables.listing import read_listing
from netplane.core.nftables.observed import Observed
from netplane.core.plan.plan import FamilyPlan
from netplane.core.plan.port import PortPlan
from netplane.rendering import environment
from tests.support.port_plans import view


def compiled(*ports: PortPlan, **fields: object) -> Ruleset:
    return compile_family(FamilyPlan(view=view(Family.IPV4, **fields), ports=ports), environment())


def as_observed(ruleset: Ruleset) -> Observed:
    """The table the kernel has once this ruleset is loaded."""
    program = read_listing(ruleset.program)
    return Observed(
        family=ruleset.family,
        exists=True,
        lines=program.lines,
        sets=program.sets,
        chains={**program.chains, **ruleset.chains},
        affinity_sets=dict.fromkeys(ruleset.affinity_sets, True),
        elements=ruleset.elements,
    )
