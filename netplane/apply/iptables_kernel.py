"""A running engine's way to the kernel in iptables mode: reads, writes, and who else has written.

iptables-nft writes into nf_tables, whose generation counts every commit. An observation or a write
whose number of commits is the number counted had nobody else beside it; while the generation stays
as it is then, nobody has written since. iptables-legacy tells nothing of that kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

from netplane.apply.iptables import CHUNKS, IptablesDataplane
from netplane.apply.iptables_tools import Variant
from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink import NfnetlinkSocket
from netplane.apply.nfnetlink_commit import following
from netplane.core.iptables.parse import Observed
from netplane.core.iptables.steps import Step
from netplane.core.model.address import Family

_T = TypeVar("_T")


class IptablesKernel:
    """Reads and writes the tables of one namespace; used by one thread, closed after that.

    Args:
        namespace: Where, entered.
        variant: Which iptables to use; the host's own where None.
        lock_wait: Seconds to wait for the xtables lock.
    """

    def __init__(self, namespace: Namespace, *, variant: Variant | None, lock_wait: float) -> None:
        self._namespace = namespace
        self._dataplane = IptablesDataplane(namespace, variant=variant, lock_wait=lock_wait)
        self._stack = ExitStack()
        self._link: NfnetlinkSocket | None = None
        self._generation: int | None = None  # of what was observed or written last

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
        """Whether surely nobody has written since we did; costs one question to the kernel."""
        return self._generation is not None and self._now() == self._generation

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
        with ThreadPoolExecutor(1, thread_name_prefix="iptables-save") as reader:
            saved = {family: reader.submit(tools.save, family) for family in families}
            done = {family: meanwhile(family) for family in saved}
            return {family: (found.result(), done[family]) for family, found in saved.items()}

    def write(self, inputs: Mapping[Family, tuple[Step, ...]]) -> None:
        """Write inputs in order, each with a process of its own.

        Raises:
            ApplyError: One could not be written; those before it are.
        """
        expected, self._generation = self._generation, None
        tools = self._dataplane.tools()
        for family, order in inputs.items():
            for step in order:
                tools.restore(family, step)
                for _ in range(step.commits):
                    expected = None if expected is None else following(expected)
        if expected is not None and self._now() == expected:
            self._generation = expected

    def _now(self) -> int | None:
        """The ruleset's generation; None under iptables-legacy, which has none."""
        if self._dataplane.variant is Variant.LEGACY:
            return None
        if self._link is None:
            self._link = self._stack.enter_context(NfnetlinkSocket(self._namespace))
        return self._link.generation()
