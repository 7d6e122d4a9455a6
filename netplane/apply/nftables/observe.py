"""What our tables hold, compared with what they should: by the record, by netlink, or by nft.

the record's generation still holds   nobody has written to nftables since: nothing to read
the record's structure still holds    sets are dumped and compared, nft is not needed
anything else                         nft lists the table, and says what was edited
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from netplane.apply.nfnetlink.commit import Vouch, still
from netplane.apply.nfnetlink.socket import NfnetlinkSocket
from netplane.apply.nftables.tool import NftTool
from netplane.core.nftables.compile import compile_family
from netplane.core.nftables.layout import SETS, Elements, Ruleset
from netplane.core.nftables.listing import read_listing
from netplane.core.nftables.observed import Observed
from netplane.core.nftables.program import Pick, render_chains
from netplane.core.nftables.record import Wanted
from netplane.core.nftables.wire_structure import Structure, same_picks
from netplane.core.plan.node import FamilyView
from netplane.core.plan.plan import FamilyPlan
from netplane.rendering import environment

_ATTEMPTS = 3


class Target(NamedTuple):
    """What a family's table should be.

    Attributes:
        view: What the ruleset was compiled for.
        guess: The elements it holds as far as anybody knows; quick to see where that is so.
    """

    view: FamilyView
    ruleset: Ruleset
    guess: Elements

    @classmethod
    def of(cls, plan: FamilyPlan) -> Target:
        """Compile one family of a plan; the first guess is that all is well."""
        ruleset = compile_family(plan, environment())
        return cls(plan.view, ruleset, ruleset.elements)


class Seen(NamedTuple):
    """One family's table.

    Attributes:
        recorded: Its record is there, and tells the structure that was found.
    """

    observed: Observed
    recorded: bool


class Sight(NamedTuple):
    """All families' tables at one generation of the ruleset."""

    generation: int
    tables: tuple[Seen, ...]


def observe(
    link: NfnetlinkSocket,
    tool: NftTool,
    targets: Iterable[Target],
    *,
    slots: bool = False,
    vouch: Vouch | None = None,
) -> Sight:
    """Look at the tables of some families.

    Args:
        link: The namespace's nftables.
        tool: Its nft.
        targets: What each family's table should be.
        slots: The slots each endpoint has must be known; a record tells what they hold together.
        vouch: See ``commit_all``.

    Raises:
        StaleError: A table kept changing while it was read.
        ToolError: nft is needed and absent, too old, or fails to list a table.
    """
    targets = tuple(targets)
    sight = _look(link, tool, targets, slots=slots)
    for _ in range(_ATTEMPTS - 1):
        if still(link.generation(), sight.generation, vouch):
            return sight
        sight = _look(link, tool, targets, slots=slots)
    # Others write without pause: each set is of one moment, and the lock does the rest.
    return sight


def _look(
    link: NfnetlinkSocket, tool: NftTool, targets: Iterable[Target], *, slots: bool
) -> Sight:
    generation = link.generation()
    trusted = None if slots else generation
    return Sight(generation, tuple(_observe(link, tool, target, trusted) for target in targets))


def _observe(link: NfnetlinkSocket, tool: NftTool, target: Target, generation: int | None) -> Seen:
    """Look at one table; a record of this generation tells all, None: none does."""
    desired = target.ruleset
    family = desired.family
    record = link.record(family)
    wanted = None
    if record is not None:
        wanted = Wanted.of(desired)
        if record.generation == generation and record[1:3] == wanted:
            return Seen(_in_place(desired, desired.chains, desired.elements), recorded=True)
    structure = link.structure(family)
    if structure is None:
        return Seen(Observed(family=family), recorded=False)
    recorded = (
        record is not None
        and wanted is not None
        and (record.kernel, record.text) == (structure.digest, wanted.text)
    )
    observed = _by_netlink(link, target, structure) if recorded else None
    return Seen(observed or tool.list_table(family), recorded)


def _by_netlink(link: NfnetlinkSocket, target: Target, structure: Structure) -> Observed | None:
    """A table whose program is in place; None where only nft can say what is there."""
    desired = target.ruleset
    picks = render_chains(target.view, set(structure.picks), [], environment())
    if structure.foreign or not same_picks(desired.family, structure.picks, picks):
        return None
    elements: Elements = {}
    for layout in SETS:
        name = layout.name
        compared = link.compare_elements(desired.family, layout, target.guess[name])
        if compared is None:
            return None
        elements[name] = compared
    others = {name: rules for name, rules in desired.chains.items() if Pick.parse(name) is None}
    return _in_place(desired, {**others, **picks}, elements)


def _in_place(
    desired: Ruleset, chains: dict[str, tuple[str, ...]], elements: Elements
) -> Observed:
    """A table that has the desired program."""
    program = read_listing(desired.program)
    return Observed(
        family=desired.family,
        exists=True,
        lines=program.lines,
        sets=program.sets,
        chains={**program.chains, **chains},
        affinity_sets=dict.fromkeys(desired.affinity_sets, True),
        elements=elements,
    )
