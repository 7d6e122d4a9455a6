"""A running engine's way to the kernel in iptables mode: reads, writes, and who else has written.

iptables-nft writes into nf_tables, whose generation counts every commit. An observation or a write
whose number of commits is the number counted had nobody else beside it. Where it is not, somebody
may vouch for all that came after what was known before: where others' commits stand among ours
cannot be told by counting. While the generation then stays as it is, or somebody vouches for who
moved it, nobody has written since. iptables-legacy has no generation, so its tables' contents are
compared instead, or of large ones the figures, which most edits move (``legacy_fingerprint``); so
those are trusted for some time only. After a write they must be larger by what it added.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import TypeAlias, TypeVar

from netplane.apply.iptables.legacy_fingerprint import Fingerprint, legacy_fingerprint
from netplane.apply.iptables.mode import CHUNKS, IptablesDataplane
from netplane.apply.iptables.programs import Variant
from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink.commit import Vouch, following, still
from netplane.apply.nfnetlink.socket import NfnetlinkSocket
from netplane.apply.threads import Worker
from netplane.core.iptables.parse import Observed
from netplane.core.iptables.steps import Step, rules_in
from netplane.core.model.address import Family
from netplane.errors import RefusedError, ToolError

_T = TypeVar("_T")
#: The ruleset's generation, or what tells the state of legacy tables.
_Moment: TypeAlias = int | Fingerprint
#: Looks at the figures of large legacy tables for each at all of their rules.
_TRUST = 10
_NOTHING = Step(table="nat", title="nothing", text="*nat\nCOMMIT\n")


class IptablesKernel:
    """Reads and writes the tables of one namespace; used by one thread, closed after that.

    Args:
        namespace: Where, entered.
        variant: Which iptables to use; the host's own where None.
        lock_wait: Seconds to wait for the xtables lock.
        vouch: Who may know that foreign commits did no harm (``Witness.vouch``).
    """

    def __init__(
        self,
        namespace: Namespace,
        *,
        variant: Variant | None,
        lock_wait: float,
        vouch: Vouch | None = None,
    ) -> None:
        self._namespace = namespace
        self._vouch = vouch
        self._dataplane = IptablesDataplane(namespace, variant=variant, lock_wait=lock_wait)
        self._stack = ExitStack()
        self._link: NfnetlinkSocket | None = None
        # Of what was observed or written last; None where somebody else may have had a hand in it.
        self._generation: _Moment | None = None
        self._trusted = 0  # looks at figures alone since the last at everything
        self._written: Counter[tuple[Family, str]] = Counter()

    def close(self) -> None:
        """Close what was opened on the way; the rules stay."""
        self._stack.close()
        self._link = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What had to be left out so far, in words."""
        return self._dataplane.notes

    @property
    def chunk(self) -> int:
        """How many per-service chains go into one input."""
        return CHUNKS[self._dataplane.variant]

    def usable(self, families: Iterable[Family]) -> list[Family]:
        """Those that can be programmed; raises ToolError where IPv4 cannot."""
        tools = self._dataplane.tools()
        return [family for family in families if self._dataplane.usable(tools, family)]

    def is_untouched(self) -> bool:
        """Whether nobody has written since we did; costs a question or two to the kernel."""
        now, known = self._now(), self._generation
        if isinstance(now, int):
            return isinstance(known, int) and still(now, known, self._vouch)
        if now.contents is None:
            self._trusted += 1
        return now == known and self._trusted < _TRUST

    def observe(
        self, families: Iterable[Family], meanwhile: Callable[[Family], _T]
    ) -> Mapping[Family, tuple[Observed, _T]]:
        """Read every table of these families.

        Args:
            families: Which.
            meanwhile: What is to be worked out of each while the programs run.

        Raises:
            ApplyError: The kernel's rules cannot be read.
        """
        tools = self._dataplane.tools()
        self._generation = self._now()
        self._trusted = 0
        with Worker("iptables-save") as reader:
            saved = {family: reader.submit(tools.save, family) for family in families}
            done = {family: meanwhile(family) for family in saved}
            return {family: (found.result(), done[family]) for family, found in saved.items()}

    @property
    def is_known(self) -> bool:
        """Whether nobody else had a hand in what was observed or written last."""
        return self._generation is not None

    def write(
        self, inputs: Mapping[Family, tuple[Step, ...]], *, growth: int | None = None
    ) -> None:
        """Write inputs in order, each with a process of its own.

        Args:
            inputs: By family.
            growth: By how many entries they make legacy tables larger, where that is known.

        Raises:
            ApplyError: One could not be written; those before it are.
        """
        before, self._generation = self._generation, None
        if isinstance(before, Fingerprint) and self._now() != before:
            before = None  # somebody was there between the look and this
        tools = self._dataplane.tools()
        commits = 0
        for family, order in inputs.items():
            for step in order:
                tools.restore(family, step)
                self._written.update({(family, t): n for t, n in rules_in(step.text).items()})
                commits += step.commits
        now = self._now()
        if self._is_ours(before, now, commits, growth):
            self._generation = now

    def _is_ours(
        self, before: _Moment | None, now: _Moment, commits: int, growth: int | None
    ) -> bool:
        """Whether what lies between two moments is what so many commits of ours have done."""
        if isinstance(before, int) and isinstance(now, int):
            expected = before
            for _ in range(commits):
                expected = following(expected)
            return now == expected or still(now, before, self._vouch)
        if isinstance(before, Fingerprint) and isinstance(now, Fingerprint) and commits:
            return growth is not None and now.entries == before.entries + growth
        return now == before

    def written(self) -> Counter[tuple[Family, str]]:
        """How many rules were written since this was last asked, by family and table."""
        written, self._written = self._written, Counter()
        return written

    def require_working(self, families: Iterable[Family]) -> None:
        """Write nothing, to know whether what was refused before was refused for what it said.

        Raises:
            ApplyError: A program fails even at that.
        """
        tools = self._dataplane.tools()
        for family in families:
            try:
                tools.restore(family, _NOTHING)
            except RefusedError as exc:
                raise ToolError(f"{exc}; it had nothing to write") from exc

    def _now(self) -> _Moment:
        """The ruleset's generation; under iptables-legacy, what tells its changes."""
        if self._dataplane.variant is Variant.LEGACY:
            return legacy_fingerprint(self._namespace, deep=True)
        if self._link is None:
            self._link = self._stack.enter_context(NfnetlinkSocket(self._namespace))
        return self._link.generation()
