"""The programs of iptables in its two variants, and what their failures mean."""

from __future__ import annotations

import enum
import math
import os
import re
from pathlib import Path

import msgspec

from netplane.apply.iptables import xtables_lock
from netplane.apply.netns import Namespace
from netplane.apply.privilege import require_net_admin
from netplane.apply.tools import Completed, find, run
from netplane.core.iptables.compile import compile_jumps
from netplane.core.iptables.layout import NAT, TABLES
from netplane.core.iptables.parse import Observed, parse_save
from netplane.core.iptables.steps import Step
from netplane.core.model.address import Family
from netplane.errors import BusyError, LockedError, RefusedError, ToolError
from netplane.rendering import environment

# xtables.h. With legacy tables: the lock is held; iptables-nft takes none, and says so of a kernel
# that does not answer it, or of a line that the kernel does not take.
_RESOURCE_PROBLEM = 4
_LINE = re.compile(r"\bline:? (\d+)")
_INCOMPATIBLE = re.compile(r"^# Table `(\w+)' is incompatible", re.MULTILINE)
_SHOWN = 300
_SAVE_ATTEMPTS = 5
_IPV6 = Path("/proc/sys/net/ipv6")


class Variant(enum.Enum):
    """Which kernel interface the host's iptables writes to."""

    NFT = "nft"
    LEGACY = "legacy"


def detect_variant(namespace: Namespace) -> Variant:
    """The variant plain ``iptables`` is on this host, which other programs here use as well.

    It is asked once per program: the plain name is a link, which `update-alternatives` may turn.

    Raises:
        ToolError: iptables is not installed, or does not tell its version.
    """
    path = find("iptables")
    program = os.path.realpath(path) if path else ""
    variant = _VARIANTS.get(program)
    if variant is None:
        variant = _VARIANTS[program] = _ask_variant(namespace)
    return variant


_VARIANTS: dict[str, Variant] = {}


def _ask_variant(namespace: Namespace) -> Variant:
    done = run(namespace, ["iptables", "--version"])
    if done.status != 0:
        raise ToolError(
            f"iptables --version ended with status {done.status}: {_tidy(done.stderr)}"
        )
    # Before 1.8 there was one variant only, and its version says nothing in brackets.
    return Variant.NFT if b"(nf_tables)" in done.stdout else Variant.LEGACY


class Tools(msgspec.Struct, frozen=True):
    """The programs of one variant, run inside a namespace.

    Attributes:
        lock_wait: Seconds to wait for the xtables lock.
    """

    namespace: Namespace
    variant: Variant
    lock_wait: float

    def program(self, family: Family, verb: str) -> str:
        """``ip6tables-nft-restore``; the plain name where a host has no other."""
        name = "iptables" if family is Family.IPV4 else "ip6tables"
        explicit = f"{name}-{self.variant.value}-{verb}"
        return explicit if find(explicit) else f"{name}-{verb}"

    def missing(self, family: Family) -> str:
        """Why a family cannot be programmed here, "" where it can."""
        if family is Family.IPV6 and not self.namespace.call(_IPV6.exists):
            return "the kernel has no IPv6"
        program = self.program(family, "restore")
        return "" if find(program) else f"{program} is not installed"

    def save(self, family: Family, *, counters: bool = False) -> Observed:
        """Read every table of a family.

        iptables-nft-save passes over a chain or a table of which the kernel did not tell it, and
        ends well. What would be written onto that is a second set of jumps; so where any of ours
        is missing, two saves have to agree.

        Raises:
            BusyError: They did not.
            PrivilegeError: CAP_NET_ADMIN is missing.
            ToolError: The program failed, or cannot show a table we need.
        """
        # iptables-legacy-save takes what it may not read for empty.
        self.namespace.call(require_net_admin)
        found = self._save(family, counters=counters)
        if self.variant is Variant.LEGACY:
            return found
        for _ in range(_SAVE_ATTEMPTS - 1):
            if _has_jumps(found):
                return found
            before, found = found, self._save(family, counters=counters)
            if _without_counters(before) == _without_counters(found):
                return found
        raise BusyError(
            f"{self.program(family, 'save')} shows different rules each time, and not all of ours:"
            " somebody else is writing, or the kernel is short of memory; try again"
        )

    def _save(self, family: Family, *, counters: bool) -> Observed:
        argv = [self.program(family, "save"), *(["-c"] if counters else [])]
        done = run(self.namespace, argv)
        text = done.stdout.decode(errors="replace")
        if done.status != 0:
            raise ToolError(f"{argv[0]} ended with status {done.status}: {_tidy(done.stderr)}")
        # iptables-nft says so in a comment, and leaves the table out.
        unseen = _INCOMPATIBLE.findall(text) if "' is incompatible" in text else ()
        for table in TABLES:
            if table in unseen:
                raise ToolError(
                    f"{argv[0]} cannot show the table {table}: it holds native nft rules. "
                    "Move them to a table of another name, or use --mode nftables"
                )
        return parse_save(text)

    def counted(self, family: Family) -> str:
        """The table nat with counters, as the program prints it, unread.

        Raises:
            PrivilegeError: CAP_NET_ADMIN is missing.
            ToolError: The program failed.
        """
        self.namespace.call(require_net_admin)
        argv = [self.program(family, "save"), "-c", "-t", NAT]
        done = run(self.namespace, argv)
        if done.status != 0:
            raise ToolError(f"{argv[0]} ended with status {done.status}: {_tidy(done.stderr)}")
        return done.stdout.decode(errors="replace")

    def restore(self, family: Family, step: Step) -> None:
        """Write one step; either all of it lands or nothing.

        Raises:
            LockedError: The xtables lock was held for longer than ``lock_wait``.
            PrivilegeError: CAP_NET_ADMIN is missing.
            BusyError: The program could not do its work, whatever it was given.
            RefusedError: The program or the kernel refused it, with the line.
        """
        program = self.program(family, "restore")
        wait = str(math.ceil(self.lock_wait))
        argv = [program, "-w", wait, "--noflush"]
        done = run(self.namespace, argv, stdin=step.text.encode("ascii"))
        if done.status == 0:
            return
        self.namespace.call(require_net_admin)
        if self.variant is Variant.LEGACY and done.status == _RESOURCE_PROBLEM:
            holder = xtables_lock.holder()
            who = f"{holder} holds it" if holder else "its holder has just let go of it"
            raise LockedError(
                f"{program} waited {wait} s in vain for the xtables lock: {who}. Try again"
            )
        if done.status == _RESOURCE_PROBLEM and _LINE.search(done.stderr) is None:
            raise BusyError(f"{program} failed: {_tidy(done.stderr)}; try again")
        raise _refused(program, step, done)


def _has_jumps(observed: Observed) -> bool:
    """Whether everything is there that leads into our chains."""
    jumps = compile_jumps(environment())
    return all(frozenset(jumps[t]) <= frozenset(observed.table(t).references) for t in TABLES)


def _without_counters(observed: Observed) -> list[object]:
    tables = [observed.table(table) for table in TABLES]
    return [(table.chains, table.references, table.shared) for table in tables]


def _refused(program: str, step: Step, done: Completed) -> RefusedError:
    found = _LINE.search(done.stderr)
    number = int(found[1]) if found else 0
    lines = step.text.split("\n")
    at = f" at line {number}, `{lines[number - 1]}`" if 0 < number <= len(lines) else ""
    return RefusedError(
        f"{program} refused the table {step.table}{at} (status {done.status}): "
        f"{_tidy(done.stderr)}",
        line=number,
    )


def _tidy(text: str) -> str:
    """What a program wrote, as one bounded line of printable text."""
    line = "".join(c if c.isprintable() else " " for c in text)
    line = " ".join(line.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 3]}..."
