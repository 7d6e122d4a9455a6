"""A series of transactions to the kernel, without losing any to an element it refuses.

A refused transaction writes nothing, and names for each refused message the first element it
stumbled over. That element goes into quarantine with the rest of its frontend, and the transaction
is tried again. Messages with a refused element are cut on the way, so that the next attempt names
several more; so the attempts grow with the logarithm of the refusals.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from typing import TypeAlias

import msgspec

from netplane.apply.nfnetlink.errors import Refusal, TransactionRefusedError
from netplane.apply.nfnetlink.socket import NfnetlinkSocket
from netplane.core.nftables.wire import Message, MessageType
from netplane.core.nftables.wire_places import Quarantine, split, without
from netplane.errors import BusyError, StaleError

#: A kernel short of memory is asked again this often; each time it wrote nothing.
_BUSY_ATTEMPTS = 3
#: Harmless foreign commits in a row that may come between; at 1,000 a second, few ever do.
_STALE_ATTEMPTS = 100
#: How often a voucher is asked about a commit that it has not heard of yet.
_HEARINGS = 16

#: Tells the newest generation where all that came after one did no harm, None where it did or
#: where nobody knows (``witness.Witness.vouch``).
Vouch: TypeAlias = Callable[[int], int | None]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a series of transactions.

    Attributes:
        transactions: How many were committed.
        elements: How many elements these added and deleted.
        refused: What the kernel refused, in the order it did; empty when all is done. Their
            frontends are as they were before, and everything else is done.
        generation: Of the ruleset afterwards; None where no generation was asked for.
    """

    transactions: int = 0
    elements: int = 0
    refused: tuple[Refusal, ...] = ()
    generation: int | None = None


def commit_all(
    link: NfnetlinkSocket,
    series: Iterable[list[Message]],
    *,
    generation: int | None,
    vouch: Vouch | None = None,
) -> Outcome:
    """Commit transactions one after the other.

    Args:
        link: The namespace's nftables.
        series: As ``wire_transactions.transactions`` yields them; taken as they are needed.
        generation: What was observed. Each transaction is refused if anybody else committed
            since then; None commits onto whatever is there.
        vouch: Who may know that it did no harm.

    Raises:
        StaleError: Somebody else did, and nobody vouches for it. What came before is written;
            observe again.
        TransactionRefusedError: A message was refused that is no element and makes no chain.
        ApplyError: See ``NfnetlinkSocket.commit``; every transaction before is written.
    """
    quarantine = Quarantine()
    refused: list[Refusal] = []
    count = elements = 0
    for messages in series:
        kept, generation = _commit(link, messages, generation, vouch, quarantine, refused)
        if not kept:
            continue
        count += 1
        elements += sum(message.elements for message in kept)
        if generation is not None:
            generation = following(generation)
    return Outcome(
        transactions=count, elements=elements, refused=tuple(refused), generation=generation
    )


def following(generation: int) -> int:
    """The generation after one commit: a 32-bit count that skips 0 (nf_tables_commit)."""
    return (generation + 1) & 0xFFFFFFFF or 1


def still(now: int, generation: int, vouch: Vouch | None) -> bool:
    """Whether what was observed at a generation holds, with the ruleset at another one now."""
    if now == generation:
        return True
    if vouch is None:
        return False
    # The kernel counts a commit before it tells of it, so a voucher may hear a moment later.
    for _ in range(_HEARINGS):
        heard = vouch(generation)
        if heard is None:
            return False
        if (heard - now) & 0xFFFFFFFF < 1 << 31:
            return True
    return False


def _commit(  # noqa: PLR0913, PLR0917 (one call site)
    link: NfnetlinkSocket,
    messages: list[Message],
    generation: int | None,
    vouch: Vouch | None,
    quarantine: Quarantine,
    refused: list[Refusal],
) -> tuple[list[Message], int | None]:
    """Commit one transaction without what is refused.

    Returns:
        What was committed of it in the end, and the generation it was committed onto.
    """
    kept = quarantine.filter(messages) if quarantine else messages
    while kept:
        try:
            generation = _patiently(link, kept, generation, vouch)
        except TransactionRefusedError as exc:
            kept = _without_refused(kept, exc, quarantine, refused)
        else:
            break
    return kept, generation


def _patiently(
    link: NfnetlinkSocket,
    messages: list[Message],
    generation: int | None,
    vouch: Vouch | None,
) -> int | None:
    """Commit, again where the kernel was short of memory or others were quicker and did no harm.

    Returns:
        The generation it was committed onto.
    """
    busy = stale = 0
    while True:
        try:
            link.commit(messages, generation=generation)
        except BusyError:
            busy += 1
            if busy == _BUSY_ATTEMPTS:
                raise
        except StaleError as exc:
            stale += 1
            if exc.doubtful or vouch is None or generation is None or stale == _STALE_ATTEMPTS:
                raise
            newer = vouch(generation)
            if newer in {None, generation}:
                raise
            generation = newer
        else:
            return generation


def _without_refused(
    messages: list[Message],
    error: TransactionRefusedError,
    quarantine: Quarantine,
    refused: list[Refusal],
) -> list[Message]:
    """What to try next: refused elements left out, refused messages cut."""
    by_message = {refusal.message: refusal for refusal in error.refusals}
    following_attempt: list[Message] = []
    for index, message in enumerate(messages):
        refusal = by_message.get(index)
        if refusal is None:
            following_attempt.append(message)
            continue
        place = refusal.place
        if place is None and message.elements > 1 and not refusal.offset:
            # An older kernel does not say which element: halves tell.
            following_attempt += split(message, 0)
            continue
        if place is None:
            raise error
        refused.append(refusal)
        rest: Message | None = message
        if message.kind == MessageType.NFT_MSG_DELSETELEM and refusal.errno == errno.ENOENT:
            # Gone already: nothing of its frontend needs to wait for that.
            rest = without(message, place)
        else:
            quarantine.add(place)
        if rest is not None:
            following_attempt += split(rest, refusal.offset)
    return quarantine.filter(following_attempt) if quarantine else following_attempt
