"""Deltas to the kernel: elements and pick chains by netlink, what only nft can translate by nft.

a table that is not there     nft loads the program, small whatever the cluster; then everything
                              else follows by netlink, data before the verdicts
a change of elements, picks   netlink alone
sticky chains                 nft, before the elements that lead to them by netlink
the program                   nft, with what has to change in its transaction
a layout that is replaced     nft, everything in one transaction
"""

from __future__ import annotations

import contextlib
import platform
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from typing import Final, NamedTuple

from netplane.apply.nfnetlink.commit import Vouch, commit_all, following, still
from netplane.apply.nfnetlink.errors import Refusal
from netplane.apply.nfnetlink.socket import NfnetlinkSocket
from netplane.apply.nftables.tool import NftTool
from netplane.apply.threads import Worker
from netplane.core.model.address import Family
from netplane.core.nftables.diff import Delta, is_elementary, postponed
from netplane.core.nftables.layout import SETS
from netplane.core.nftables.observed import Counts
from netplane.core.nftables.record import NOTHING, Record, Wanted, write_record
from netplane.core.nftables.stages import Stages
from netplane.core.nftables.text import script
from netplane.core.nftables.wire import Message
from netplane.core.nftables.wire_rules import delete_chain, new_chains
from netplane.core.nftables.wire_transactions import transactions
from netplane.errors import BusyError, RefusedError, StaleError

# Before Linux 6.2 a chain stays "busy" for the rest of the transaction that deletes the last
# element leading to it, and until the kernel has freed that element (kube-proxy waits 1 s, too).
_BUSY_CHAINS_BEFORE = (6, 2)
_FREED_WITHIN = 3.0
_FREED_POLL = 0.05
_NO_COUNTS: Final[Mapping[str, Counts]] = {}
_FEW: Final = 4  # transactions; a small change is at most three
_SMALL: Final = 1_000  # elements


class Written(NamedTuple):
    """What became of a write.

    Attributes:
        generation: Of the ruleset afterwards, if nobody else has written meanwhile.
        refused: What the kernel refused; everything else is written.
        transactions: How many were committed.
    """

    generation: int
    refused: tuple[Refusal, ...] = ()
    transactions: int = 0

    def and_then(self, later: Written) -> Written:
        """Both, one after the other."""
        return Written(
            later.generation,
            self.refused + later.refused,
            self.transactions + later.transactions,
        )


class Writer:
    """Writes to our tables in one namespace.

    Args:
        link: The namespace's nftables.
        tool: Its nft.
        postpone: Delete chains after everything else, in a transaction of their own; None leaves
            that to the kernel's version.
        vouch: See ``commit_all``.
    """

    def __init__(
        self,
        link: NfnetlinkSocket,
        tool: NftTool,
        *,
        postpone: bool | None = None,
        vouch: Vouch | None = None,
    ) -> None:
        self._link = link
        self._tool = tool
        self._vouch = vouch
        self._postpone = _chains_stay_busy() if postpone is None else postpone

    def write(self, deltas: Iterable[Delta], generation: int) -> Written:
        """Write what differs, onto the ruleset that was observed.

        Raises:
            StaleError: Somebody has written to nftables since; what came before that is written,
                and so may be what nft was given.
            RefusedError: nft refused something; ``written`` says what stays.
            ToolError: nft failed.
        """
        deltas = tuple(filter(None, deltas))
        if not self._postpone:
            return self._write(deltas, generation)
        written = self._write([postponed(delta)[0] for delta in deltas], generation)
        later = tuple(filter(None, (postponed(delta)[1] for delta in deltas)))
        deadline = time.monotonic() + _FREED_WITHIN
        while later:
            try:
                return written.and_then(self._write(later, written.generation))
            except RefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_FREED_POLL)
        return written

    def note(self, wanted: Iterable[tuple[Family, Wanted]], written: Written) -> int:
        """Record what has been written; returns the ruleset's generation afterwards.

        Where somebody else has written meanwhile there is nothing to vouch for, and the next run
        looks for itself.
        """
        messages: list[Message] = []
        generation = following(written.generation)
        for family, digests in wanted:
            structure = self._link.structure(family)
            if structure is None:
                continue
            record = Record(
                structure.digest,
                digests.text,
                NOTHING if written.refused else digests.elements,
                generation,
            )
            messages += write_record(family, record, exists=structure.has_record)
        with contextlib.suppress(StaleError, BusyError):
            self._link.commit(messages, generation=written.generation)
            return generation
        return written.generation

    def _write(self, deltas: Sequence[Delta], generation: int) -> Written:
        """Write by netlink what netlink can, the rest by nft."""
        series = [_messages(delta, self._counts(delta)) for delta in deltas]
        said = [messages for messages in series if messages is not None]
        if len(said) == len(series):
            return self._send(said, generation)
        stages = [Stages.of(delta) for delta in deltas]
        written = self._follow([stage.picks for stage in stages], Written(generation))
        told = "new pick chains, which no packet reaches" if written.transactions else ""
        written = self._load([stage.come for stage in stages], written, told)
        told = "new chains, which no packet reaches" if written.transactions else ""
        written = self._load([stage.turn for stage in stages], written, told)
        written = self._follow([stage.lead for stage in stages], written)
        told = "everything but that sets go which nothing uses any more"
        return self._load([stage.gone for stage in stages], written, told)

    def _follow(self, deltas: Sequence[Delta], written: Written) -> Written:
        """Send by netlink what there is, after what was written."""
        some = [_said(delta) for delta in deltas if delta]
        return written.and_then(self._send(some, written.generation)) if some else written

    def _load(self, deltas: Sequence[Delta], written: Written, told: str) -> Written:
        """Have nft write what there is; ``told`` says in words what was written before."""
        text = "".join(map(script, deltas))
        if not text:
            return written
        if not written.transactions:
            self._require(written.generation)
        self._tool.load(text, written=told)
        return written.and_then(Written(self._loaded(written.generation), (), 1))

    def _counts(self, delta: Delta) -> dict[str, Counts]:
        """What elements that move have counted, by set, and by key and slot they move to.

        What is counted between this and the write is lost, and so is everything where nft writes.
        """
        found: dict[str, Counts] = {}
        for layout in SETS:
            change = delta.elements.get(layout.name)
            if change is None or not change.moved:
                continue
            places = [(key, old) for (key, _), old in change.moved.items()]
            try:
                counted = self._link.counts(delta.family, layout, places)
            except RefusedError:
                continue  # somebody has deleted one: the write itself will tell
            found[layout.name] = {
                (key, new): counted[key, old]
                for (key, new), old in change.moved.items()
                if (key, old) in counted
            }
        return found

    def _send(self, series: Sequence[Iterator[list[Message]]], generation: int) -> Written:
        """Commit the transactions of each family by netlink, together where they are few."""
        begun = [_begun(each) for each in series]
        firsts = [first for first, _ in begun]
        merged: Iterator[list[Message]]
        if all(whole for _, whole in begun):
            merged = (list(chain(*each)) for each in zip_longest(*firsts, fillvalue=()))
        else:
            merged = _ahead(chain(*chain.from_iterable(zip(firsts, series, strict=True))))
        outcome = commit_all(self._link, merged, generation=generation, vouch=self._vouch)
        return Written(
            generation if outcome.generation is None else outcome.generation,
            outcome.refused,
            outcome.transactions,
        )

    def _loaded(self, generation: int) -> int:
        """The generation after nft has loaded a script, which it does onto whatever is there."""
        now = self._link.generation()
        # Not from the following one: who was there before nft has had that.
        if now != following(generation) and not still(now, generation, self._vouch):
            raise StaleError("the ruleset was changed while nft loaded a script; observe again")
        return now

    def _require(self, generation: int) -> None:
        """Nobody has written since; nft itself checks that nobody does while it loads."""
        if not still(self._link.generation(), generation, self._vouch):
            raise StaleError("the ruleset was changed after it was read; observe again")


def _begun(series: Iterator[list[Message]]) -> tuple[list[list[Message]], bool]:
    """The first transactions of a series, and whether these few small ones are all of it."""
    begun = []
    for messages in series:
        begun.append(messages)
        if len(begun) == _FEW or sum(message.elements for message in messages) > _SMALL:
            return begun, False
    return begun, True


def _ahead(series: Iterator[list[Message]]) -> Iterator[list[Message]]:
    """The same transactions, each packed while the kernel is at work on the one before."""
    with Worker("packer") as packer:
        coming = packer.submit(next, series, None)
        while (messages := coming.result()) is not None:
            coming = packer.submit(next, series, None)
            yield messages


def _said(delta: Delta) -> Iterator[list[Message]]:
    messages = _messages(delta)
    assert messages is not None, "netlink can say it all"
    return messages


def _messages(
    delta: Delta, counts: Mapping[str, Counts] = _NO_COUNTS
) -> Iterator[list[Message]] | None:
    """The netlink transactions of a delta; None where it takes nft to say it."""
    if not is_elementary(delta):
        return None
    chains = new_chains(delta.family, delta.chains)
    if chains is None:
        return None
    # Chains that go may lead to each other: all of them are emptied before any is deleted.
    rewritten: list[Message] = []
    gone: list[Message] = []
    for name in delta.flush_chains:
        flush, _ = delete_chain(delta.family, name)
        (rewritten if name in delta.chains else gone).append(flush)
    gone += [delete_chain(delta.family, name)[1] for name in delta.delete_chains]
    return transactions(
        delta.family,
        delta.elements,
        before=[*rewritten, *chains],
        after=gone,
        counts=counts,
    )


def _chains_stay_busy() -> bool:
    """Whether this kernel cannot delete a chain together with the elements that lead to it."""
    release = re.match(r"([0-9]+)\.([0-9]+)", platform.release())
    return release is not None and (int(release[1]), int(release[2])) < _BUSY_CHAINS_BEFORE
