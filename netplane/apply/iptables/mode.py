"""The iptables mode in a network namespace: observe with iptables-save, write with -restore."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from netplane.apply.iptables.programs import Tools, Variant, detect_variant
from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink.commit import Vouch
from netplane.apply.threads import Worker
from netplane.core.iptables.compile import compile_family, compile_jumps
from netplane.core.iptables.diff import Delta, diff, removal
from netplane.core.iptables.layout import (
    TABLES,
    Ruleset,
)
from netplane.core.iptables.parse import Observed
from netplane.core.iptables.report import report
from netplane.core.iptables.status import drift, frontends
from netplane.core.iptables.steps import Step, steps, whole_text
from netplane.core.model.address import Family
from netplane.core.plan.changes import Changes, merged
from netplane.core.plan.plan import FamilyPlan, Plan
from netplane.core.plan.status import Status
from netplane.errors import ApplyError, RefusedError, ToolError
from netplane.rendering import environment

# Per-service chains in one restore. iptables-nft keeps the chains that its rules name in a sorted
# list, so its time grows with the square of what it is given: 10,000 Services of 5 endpoints take
# 6.6 s of CPU in parts of 1,000 chains (0.1 s each, for which others wait), 10.3 s in parts of
# 6,000, 23.7 s in parts of 30,000. On iptables-legacy every restore carries the whole table in and
# out, so one is best: 2.8 s, or 5.9 s in three parts.
CHUNKS = {Variant.NFT: 1000, Variant.LEGACY: 1 << 30}


class IptablesDataplane:
    """The iptables mode in one namespace, which the caller has entered.

    A family that cannot be programmed (no IPv6 in the kernel, no ip6tables) is left out and said
    so in ``notes``; without IPv4 there is an error. Families a plan does not have are not touched.

    Attributes:
        variant: Which iptables this writes with, and so which it reads.
        notes: What had to be left out so far, in words.
    """

    def __init__(
        self, namespace: Namespace, *, variant: Variant | None = None, lock_wait: float = 5.0
    ) -> None:
        self._namespace = namespace
        self._variant = variant
        self._lock_wait = lock_wait
        self.notes: tuple[str, ...] = ()

    @property
    def variant(self) -> Variant:
        """The variant asked for, or else the host's; raises ToolError without any iptables."""
        if self._variant is None:
            self._variant = detect_variant(self._namespace)
        return self._variant

    def render(self, plan: Plan) -> str:
        """All families' restore input, each under a comment naming the program that loads it."""
        programs = {Family.IPV4: "iptables-restore", Family.IPV6: "ip6tables-restore"}
        return "\n".join(
            f"# {programs[family.family]} --noflush\n{self.render_family(family)}"
            for family in plan.families
        )

    def render_family(self, plan: FamilyPlan) -> str:
        """One family's restore input, which ``iptables-restore --noflush`` loads as it is."""
        return whole_text(compile_family(plan, environment()))

    def heed(self, vouch: Vouch) -> None:
        """Nothing to heed: a restore is not refused because others have written."""

    def prepare(self, plan: Plan) -> IptablesUpdate:
        """Compile, observe and compare; writes nothing.

        Raises:
            ApplyError: The kernel's rules cannot be read.
        """
        tools = self.tools()
        families = [family for family in plan.families if self.usable(tools, family.family)]
        # iptables-save is another process, and takes as long as to compile: both at a time.
        with Worker("iptables-save") as reader:
            saved = [reader.submit(tools.save, family.family) for family in families]
            desired = [compile_family(family, environment()) for family in families]
            parts = tuple(
                self._part(wanted, there.result())
                for wanted, there in zip(desired, saved, strict=True)
            )
        return IptablesUpdate(tools, parts)

    def status(self) -> Status:
        """What is in the kernel now, with drift.

        Raises:
            ApplyError: The kernel's rules cannot be read.
        """
        tools = self.tools()
        jumps = compile_jumps(environment())
        found = {
            family: tools.save(family, counters=True)
            for family in Family
            if self.usable(tools, family)
        }
        return Status(
            mode="iptables",
            installed=any(removal(observed, jumps) for observed in found.values()),
            frontends=tuple(
                sorted(
                    (f for family in found for f in frontends(family, found[family])),
                    key=lambda f: (f.label, f.family, f.kind, f.address, f.port),
                )
            ),
            drift=tuple(
                line
                for family, observed in found.items()
                for line in drift(family, observed, jumps)
            ),
        )

    def cleanup(self) -> tuple[str, ...]:
        """Remove all and only what is ours, of both families, with this variant.

        Raises:
            ApplyError: It could not be removed; the message says what was.
        """
        tools = self.tools()
        jumps = compile_jumps(environment())
        parts = []
        for family in Family:
            if self.usable(tools, family):
                observed = tools.save(family)
                delta = removal(observed, jumps)
                order = steps((), observed, delta, chunk=CHUNKS[self.variant])
                parts.append(_Part(family=family, delta=delta, changes=Changes(), steps=order))
        IptablesUpdate(tools, tuple(parts)).commit()
        return tuple(line for part in parts for line in _removed(part))

    def _part(self, desired: Ruleset, observed: Observed) -> _Part:
        delta = diff(desired, observed)
        return _Part(
            family=desired.family,
            delta=delta,
            changes=report(desired, observed, delta),
            steps=steps(desired.groups, observed, delta, chunk=CHUNKS[self.variant]),
        )

    def tools(self) -> Tools:
        """The programs of the variant in use; raises ToolError without any iptables."""
        return Tools(self._namespace, self.variant, self._lock_wait)

    def usable(self, tools: Tools, family: Family) -> bool:
        """Whether a family can be programmed; where not, it is noted, or raised for IPv4."""
        reason = tools.missing(family)
        if reason and family is Family.IPV4:
            raise ToolError(f"{reason}; `netplane doctor` says which package has it")
        note = f"IPv{family.value} is left out: {reason}"
        if reason and note not in self.notes:
            self.notes = (*self.notes, note)
        return not reason


class _Part(msgspec.Struct, frozen=True, kw_only=True):
    """What one family needs: its steps in order, and what they change in words."""

    family: Family
    delta: Delta
    changes: Changes
    steps: tuple[Step, ...]


class IptablesUpdate:
    """A sync worked out against what was observed; see netplane.apply.dataplane.Update."""

    def __init__(self, tools: Tools, parts: tuple[_Part, ...]) -> None:
        self._tools = tools
        self._pending = [(part.family, step) for part in parts for step in part.steps]
        self._written: list[str] = []
        self._changes = merged(part.changes for part in parts)

    @property
    def changes(self) -> Changes:
        """What commit changes, per service port."""
        return self._changes

    def commit(self) -> None:
        """Write it, step by step; a step that has landed is not repeated by a second call.

        Raises:
            ApplyError: A step failed; the message says which had been written. What is in the
                kernel then serves traffic by old or new rules, and the next sync goes on from it.
        """
        while self._pending:
            family, step = self._pending[0]
            try:
                self._tools.restore(family, step)
            except RefusedError as exc:
                written = ", ".join(self._written)
                raise RefusedError(self._account(exc), line=exc.line, written=written) from exc
            except ApplyError as exc:
                raise type(exc)(self._account(exc)) from exc
            self._written.append(_title(family, step))
            del self._pending[0]

    def _account(self, failure: ApplyError) -> str:
        """The failure, and what was and was not written."""
        done = ", ".join(self._written) or "nothing"
        missing = ", ".join(_title(family, step) for family, step in self._pending)
        return f"{failure}. Written: {done}. Not written: {missing}"


def _title(family: Family, step: Step) -> str:
    return f"IPv{family.value} {step.table} ({step.title})"


def _removed(part: _Part) -> Iterator[str]:
    """What a cleanup removed from one family, in words."""
    for table in TABLES:
        delta = part.delta.table(table)
        if delta.deletes or delta.removals:
            yield (
                f"IPv{part.family.value} {table}: "
                f"{len(delta.deletes)} chains, {len(delta.removals)} jumps"
            )
        for chain in delta.writes:
            yield (
                f"IPv{part.family.value} {table}: emptied {chain}, which stays "
                "because somebody else's rule leads to it"
            )
