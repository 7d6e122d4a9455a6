"""The nftables mode in a network namespace: observe, compare, write.

Only our own tables are ever read. What is there is told by ``observe``, what differs goes to the
kernel through ``write``; nft is started where neither can do without it.
"""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple

from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink.commit import Vouch
from netplane.apply.nfnetlink.socket import NfnetlinkSocket
from netplane.apply.nftables.observe import Target, observe
from netplane.apply.nftables.tool import NftTool
from netplane.apply.nftables.write import Writer
from netplane.apply.privilege import require_net_admin
from netplane.core.model.address import Family
from netplane.core.nftables.compile import compile_family
from netplane.core.nftables.diff import Delta, diff
from netplane.core.nftables.layout import TABLE, Ruleset
from netplane.core.nftables.observed import Observed
from netplane.core.nftables.record import Wanted
from netplane.core.nftables.refused import labels_of
from netplane.core.nftables.report import report
from netplane.core.nftables.status import family_status
from netplane.core.nftables.text import render, table_of
from netplane.core.plan.changes import Changes, merged
from netplane.core.plan.plan import Plan
from netplane.core.plan.status import Status
from netplane.errors import RefusedError
from netplane.rendering import environment

_NAMES_SHOWN = 5


class NftablesDataplane:
    """The nftables mode in one namespace, which the caller has entered.

    ``postpone`` deletes chains after everything else, in a transaction of their own; None leaves
    that to the kernel's version.
    """

    def __init__(self, namespace: Namespace, *, postpone: bool | None = None) -> None:
        self._namespace = namespace
        self._postpone = postpone
        self._tool = NftTool(namespace)
        self._vouch: Vouch | None = None
        self.notes: tuple[str, ...] = ()

    def heed(self, vouch: Vouch) -> None:
        """From now on, believe who may know that foreign commits did no harm."""
        self._vouch = vouch

    def render(self, plan: Plan) -> str:
        """All families as one script that replaces our tables; see ``core.nftables.text``."""
        return "\n".join(render(compile_family(f, environment())) for f in plan.families)

    def prepare(self, plan: Plan) -> NftablesUpdate:
        """Compile, observe and compare; writes nothing.

        Raises:
            PrivilegeError: CAP_NET_ADMIN is missing.
            ToolError: nft is absent, too old, or fails to list our tables.
        """
        require_net_admin()
        targets = [Target.of(family) for family in plan.families]
        with NfnetlinkSocket(self._namespace) as link:
            sight = observe(link, self._tool, targets, vouch=self._vouch)
        parts = []
        changes = []
        for target, seen in zip(targets, sight.tables, strict=True):
            delta = diff(target.ruleset, seen.observed)
            parts.append(_Part(target.ruleset, delta, seen.recorded))
            if delta:
                changes.append(report(target.ruleset, seen.observed, delta))
        return NftablesUpdate(
            self._namespace,
            self._tool,
            tuple(parts),
            merged(changes),
            sight.generation,
            postpone=self._postpone,
            vouch=self._vouch,
        )

    def status(self) -> Status:
        """What our tables say."""
        require_net_admin()
        existing = self._existing()
        observed = [self._observe(family, existing) for family in Family]
        families = [family_status(o) for o in observed]
        frontends = chain.from_iterable(f.frontends for f in families)
        return Status(
            mode="nftables",
            installed=any(o.exists for o in observed),
            frontends=tuple(
                sorted(frontends, key=lambda f: (f.label, f.family, f.kind, f.address, f.port))
            ),
            drift=tuple(chain.from_iterable(f.drift for f in families)),
        )

    def cleanup(self) -> tuple[str, ...]:
        """Delete our tables."""
        require_net_admin()
        existing = self._existing()
        tables = [table_of(family) for family in Family if family in existing]
        if tables:
            text = "".join(f"delete table {table}\n" for table in tables)
            self._tool.load(text)
        return tuple(f"table {table}" for table in tables)

    def _observe(self, family: Family, existing: frozenset[Family]) -> Observed:
        """One family's table; a table that does not exist is an empty observation."""
        return self._tool.list_table(family) if family in existing else Observed(family=family)

    def _existing(self) -> frozenset[Family]:
        """The families we have a table in.

        Asked of the kernel by name: ``nft -j list tables`` reads everybody's chains and sets
        first, 0.9 s where iptables-nft holds 2,000 Services of 5 endpoints.
        """
        with NfnetlinkSocket(self._namespace) as link:
            return frozenset(family for family in Family if link.has_table(family, TABLE))


class _Part(NamedTuple):
    """One family of an update; ``recorded``: its record tells the structure that is there."""

    desired: Ruleset
    delta: Delta
    recorded: bool


class NftablesUpdate:
    """A sync worked out against what was observed; see netplane.apply.dataplane.Update."""

    def __init__(  # noqa: PLR0913 (made in one place)
        self,
        namespace: Namespace,
        tool: NftTool,
        parts: tuple[_Part, ...],
        changes: Changes,
        generation: int,
        *,
        postpone: bool | None,
        vouch: Vouch | None,
    ) -> None:
        self._namespace = namespace
        self._tool = tool
        self._parts = parts
        self._changes = changes
        self._generation = generation
        self._postpone = postpone
        self._vouch = vouch

    @property
    def changes(self) -> Changes:
        """What commit changes, per service port."""
        return self._changes

    def commit(self) -> None:
        """Write it; a second call writes nothing.

        Where only the record is not as it should be, it is written, and that is no change.

        Raises:
            StaleError: Somebody has written to nftables since ``prepare``. The message says what
                was written.
            RefusedError: The kernel or nft refused something; ``written`` says what stays.
            ToolError: nft failed.
        """
        parts, self._parts = self._parts, ()
        if all(part.recorded and not part.delta for part in parts):
            return
        with NfnetlinkSocket(self._namespace) as link:
            writer = Writer(link, self._tool, postpone=self._postpone, vouch=self._vouch)
            written = writer.write([part.delta for part in parts], self._generation)
            writer.note([(p.desired.family, Wanted.of(p.desired)) for p in parts], written)
        if written.refused:
            first = written.refused[0]
            names = {
                label
                for refusal in written.refused
                for part in parts
                if refusal.place is not None and part.desired.family is refusal.family
                for label in labels_of(refusal.place, part.desired.elements)
            }
            raise RefusedError(
                f"the kernel refused {len(written.refused)} elements, the first {first};"
                f" these are as they were: {_listed(names)}; everything else is written",
                errno=first.errno,
                written="everything else",
            )


def _listed(names: set[str]) -> str:
    """A few names, and how many more there are."""
    shown = sorted(names)[:_NAMES_SHOWN]
    more = [f"{len(names) - len(shown)} more"] if len(names) > len(shown) else []
    return ", ".join([*shown, *more])
