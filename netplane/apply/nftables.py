"""The nftables mode in a network namespace: observe with nft, write with netlink or nft.

A change of elements and pick chains goes through netlink. What only nft can translate (the
program, the chains and sets of session affinity) goes through ``nft -f``, all families in one
transaction. Only our own tables are ever listed.
"""

from __future__ import annotations

import platform
import re
import time
from itertools import chain

from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink import NfnetlinkSocket
from netplane.apply.nfnetlink_commit import commit_all
from netplane.apply.privilege import require_net_admin
from netplane.apply.tools import Completed, run
from netplane.core.model.address import Family
from netplane.core.nftables.compile import compile_family
from netplane.core.nftables.diff import Delta, diff, is_elementary, picks_apart, postponed
from netplane.core.nftables.layout import TABLE
from netplane.core.nftables.observed import Observed
from netplane.core.nftables.parse import parse_table
from netplane.core.nftables.report import report
from netplane.core.nftables.status import family_status
from netplane.core.nftables.text import render, script, table_of
from netplane.core.nftables.wire import Message
from netplane.core.nftables.wire_rules import delete_chain, new_chains
from netplane.core.nftables.wire_transactions import transactions
from netplane.core.plan.changes import Changes, merged
from netplane.core.plan.plan import Plan
from netplane.core.plan.status import Status
from netplane.errors import RefusedError, StaleError, ToolError
from netplane.rendering import environment

_OLDEST = (1, 0, 1)  # older ones read the whole ruleset, everybody's, before any command
_TESTED = "1.0.6"
_VERSION = re.compile(r"nftables v([0-9]+)\.([0-9]+)\.([0-9]+)")
_COMPLAINT = re.compile(r"^[^:\n]+:([0-9]+):[0-9]+-[0-9]+: Error: (.*)$", re.MULTILINE)
# Before Linux 6.2 a chain stays "busy" for the rest of the transaction that deletes the last
# element leading to it, and until the kernel has freed that element (kube-proxy waits 1 s, too).
_BUSY_CHAINS_BEFORE = (6, 2)
_FREED_WITHIN = 3.0
_FREED_POLL = 0.05


class NftablesDataplane:
    """The nftables mode in one namespace, which the caller has entered.

    ``postpone`` deletes chains after everything else, in a transaction of their own; None leaves
    that to the kernel's version.
    """

    def __init__(self, namespace: Namespace, *, postpone: bool | None = None) -> None:
        self._namespace = namespace
        self._postpone = _chains_stay_busy() if postpone is None else postpone
        self._checked = False
        self.notes: tuple[str, ...] = ()

    def render(self, plan: Plan) -> str:
        """All families as one script that replaces our tables; see ``core.nftables.text``."""
        return "\n".join(render(compile_family(f, environment())) for f in plan.families)

    def prepare(self, plan: Plan) -> NftablesUpdate:
        """Compile, observe and compare; writes nothing.

        Raises:
            PrivilegeError: CAP_NET_ADMIN is missing.
            ToolError: nft is absent, too old, or fails to list our tables.
        """
        self._require()
        generation = self._generation()
        existing = self._existing()
        parts = []
        changes = []
        for family in plan.families:
            desired = compile_family(family, environment())
            observed = self._observe(family.family, existing)
            delta = diff(desired, observed)
            if delta:
                parts.append(delta)
                changes.append(report(desired, observed, delta))
        return NftablesUpdate(
            self._namespace,
            tuple(parts),
            merged(changes),
            generation,
            postpone=self._postpone,
        )

    def status(self) -> Status:
        """What our tables say."""
        self._require()
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
        self._require()
        existing = self._existing()
        tables = [table_of(family) for family in Family if family in existing]
        if tables:
            text = "".join(f"delete table {table}\n" for table in tables)
            _load(self._namespace, text, written="")
        return tuple(f"table {table}" for table in tables)

    def _observe(self, family: Family, existing: frozenset[Family]) -> Observed:
        """One family's table; a table that does not exist is an empty observation."""
        if family not in existing:
            return Observed(family=family)
        listed = run(self._namespace, ["nft", "list", "table", *table_of(family).split()])
        if listed.status != 0:
            raise ToolError(f"nft cannot list table {table_of(family)}: {_first(listed)}")
        return parse_table(listed.stdout.decode(errors="replace"), family)

    def _existing(self) -> frozenset[Family]:
        """The families we have a table in.

        Asked of the kernel by name: ``nft -j list tables`` reads everybody's chains and sets
        first, 0.9 s where iptables-nft holds 2,000 Services of 5 endpoints.
        """
        with NfnetlinkSocket(self._namespace) as link:
            return frozenset(family for family in Family if link.has_table(family, TABLE))

    def _generation(self) -> int:
        with NfnetlinkSocket(self._namespace) as link:
            return link.generation()

    def _require(self) -> None:
        """Check once that we may, and that nft can, before anything is asked for."""
        require_net_admin()
        if not self._checked:
            require_nft(self._namespace)
            self._checked = True


class NftablesUpdate:
    """A sync worked out against what was observed; see netplane.apply.dataplane.Update."""

    def __init__(
        self,
        namespace: Namespace,
        deltas: tuple[Delta, ...],
        changes: Changes,
        generation: int,
        *,
        postpone: bool,
    ) -> None:
        self._namespace = namespace
        self._deltas = deltas
        self._changes = changes
        self._generation = generation
        self._postpone = postpone

    @property
    def changes(self) -> Changes:
        """What commit changes, per service port."""
        return self._changes

    def commit(self) -> None:
        """Write it; a second call writes nothing.

        Raises:
            StaleError: Somebody has written to nftables since ``prepare``; nothing was written.
            RefusedError: The kernel or nft refused something; ``written`` says what stays.
            ToolError: nft failed.
        """
        deltas, self._deltas = self._deltas, ()
        if not deltas:
            return
        if not self._postpone:
            self._write(deltas, self._generation)
            return
        self._write(tuple(postponed(delta)[0] for delta in deltas), self._generation)
        later = tuple(filter(None, (postponed(delta)[1] for delta in deltas)))
        deadline = time.monotonic() + _FREED_WITHIN
        while later:
            try:
                self._write(later, None)
            except RefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_FREED_POLL)
            else:
                return

    def _write(self, deltas: tuple[Delta, ...], generation: int | None) -> None:
        """Write by netlink what netlink can, the rest by nft."""
        series = [_messages(delta) for delta in deltas]
        if all(messages is not None for messages in series):
            self._send(series, generation)
            return
        apart = [picks_apart(delta) for delta in deltas]
        picks = [_messages(first) for first, _ in apart]
        written = ""
        if any(picks):
            self._send(picks, generation)
            written = "new pick chains, which no packet reaches"
        else:
            self._require(generation)
        _load(self._namespace, "".join(script(rest) for _, rest in apart), written=written)

    def _send(self, series: list[list[list[Message]] | None], generation: int | None) -> None:
        """Commit the transactions of each family by netlink, as one where each has one."""
        lists = [messages for messages in series if messages]
        assert len(lists) == len([m for m in series if m is None or m]), "netlink can say it all"
        merged = [*chain.from_iterable(lists)]
        if all(len(messages) == 1 for messages in lists):
            merged = [[*chain.from_iterable(merged)]]
        with NfnetlinkSocket(self._namespace) as link:
            outcome = commit_all(link, merged, generation=generation)
        if outcome.refused:
            first = outcome.refused[0]
            raise RefusedError(
                f"the kernel refused {len(outcome.refused)} elements, the first {first};"
                " their frontends are as they were, everything else is written",
                errno=first.errno,
                written="everything else",
            )

    def _require(self, generation: int | None) -> None:
        """Nobody has written since; nft itself checks that nobody does while it loads."""
        if generation is None:
            return
        with NfnetlinkSocket(self._namespace) as link:
            if link.generation() != generation:
                raise StaleError("the ruleset was changed after it was read; observe again")


def require_nft(namespace: Namespace) -> None:
    """Raise ToolError where nft is absent or too old."""
    answer = run(namespace, ["nft", "--version"])
    found = _VERSION.search(answer.stdout.decode(errors="replace"))
    if found is None:
        raise ToolError(f"nft --version says nothing of a version: {_first(answer)}")
    if tuple(int(part) for part in found.groups()) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise ToolError(
            f"{found[0]} is too old: nftables mode needs {oldest}, and is tested with {_TESTED}"
        )


def _messages(delta: Delta) -> list[list[Message]] | None:
    """The netlink transactions of a delta; None where it takes nft to say it."""
    if not is_elementary(delta):
        return None
    chains = new_chains(delta.family, delta.chains)
    if chains is None:
        return None
    flushed = [delete_chain(delta.family, name)[0] for name in delta.flush_chains]
    gone = [m for name in delta.delete_chains for m in delete_chain(delta.family, name)]
    return list(transactions(delta.family, delta.elements, before=[*flushed, *chains], after=gone))


def _load(namespace: Namespace, text: str, *, written: str) -> None:
    """Load a script with nft, all or nothing.

    Raises:
        RefusedError: nft or the kernel refused a line.
        ToolError: nft failed in some other way.
    """
    if not text:
        return
    done = run(namespace, ["nft", "-f", "-"], stdin=text.encode())
    if done.status == 0:
        return
    complaint = _COMPLAINT.search(done.stderr)
    if complaint is None:
        raise ToolError(f"nft failed (status {done.status}): {_first(done)}")
    number = int(complaint[1])
    lines = text.splitlines()
    line = lines[number - 1].strip() if 0 < number <= len(lines) else ""
    raise RefusedError(
        f"nft refused line {number}, `{line:.200}`: {complaint[2]};"
        f" written: {written or 'nothing'}",
        line=number,
        written=written,
    )


def _chains_stay_busy() -> bool:
    """Whether this kernel cannot delete a chain together with the elements that lead to it."""
    release = re.match(r"([0-9]+)\.([0-9]+)", platform.release())
    return release is not None and (int(release[1]), int(release[2])) < _BUSY_CHAINS_BEFORE


def _first(done: Completed) -> str:
    """The first line a program wrote to stderr."""
    return next(iter(done.stderr.strip().splitlines()), "no message")
