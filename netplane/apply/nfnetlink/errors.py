"""The kernel's refusals of an nftables transaction, told by message and element.

An error number says what went wrong with one message, or, when it answers BATCH_BEGIN, with the
whole transaction (``nfnetlink_rcv_batch``, net/netfilter/nfnetlink.c). Only the latter are the
environment's fault; the former are the caller's elements, which can be dropped one by one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

import msgspec

from netplane.core.model.address import Family
from netplane.core.nftables.wire import Answer, Message
from netplane.core.nftables.wire_places import Place, locate
from netplane.errors import ApplyError, BusyError, PrivilegeError, RefusedError, StaleError

#: What a message is refused with though nothing is wrong with it: the kernel was short of memory.
_SHORTAGE = frozenset({errno.ENOMEM, errno.ENOBUFS})

# What passes by itself.
_PASSING = _SHORTAGE | {errno.EBUSY, errno.EINTR, errno.EAGAIN}


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """One message that the kernel refused.

    Attributes:
        message: Its index in the transaction.
        errno: The kernel's error number, positive.
        words: The kernel's explanation, or what the number means.
        offset: Of the attribute complained of, from the message's start; 0 where unknown.
        place: The element or chain that is; None where the kernel named neither.
        family: Of the table.
    """

    message: int
    errno: int
    words: str
    offset: int = 0
    place: Place | None = None
    family: Family = Family.IPV4

    def __str__(self) -> str:
        return f"{self.place or f'message {self.message}'}: {self.words}"


class TransactionRefusedError(RefusedError):
    """The kernel refused a transaction, and wrote nothing of it.

    Attributes:
        refusals: One per refused message: the first element of each that it stumbled over.
    """

    def __init__(self, refusals: tuple[Refusal, ...]) -> None:
        first = refusals[0]
        more = f" (and {len(refusals) - 1} more)" if len(refusals) > 1 else ""
        super().__init__(f"the kernel refused {first}{more}", errno=first.errno)
        self.refusals = refusals


def describe(number: int, words: str = "") -> str:
    """The kernel's own words if it had any, else what the error number means."""
    return words or f"{os.strerror(number)} ({errno.errorcode.get(number, number)})"


def batch_error(answer: Answer) -> ApplyError:
    """What an error that answers BATCH_BEGIN means: nothing was written."""
    # ERESTART is the kernel's own number (linux/errno.h) and has no text.
    if answer.errno == errno.ERESTART:
        return StaleError("the ruleset changed since it was observed; observe again")
    return _failure(answer, "the kernel refused the transaction")


def question_error(answer: Answer) -> ApplyError:
    """What an error that answers a question means."""
    return _failure(answer, "the kernel did not tell what nftables holds")


def socket_error(exc: OSError, failure: str) -> ApplyError:
    """What an error of the socket itself means: the call was not made.

    Args:
        exc: Any but a timeout.
        failure: What has not come about by that, as a sentence.
    """
    return _failure(Answer(0, exc.errno or 0), failure)


def _failure(answer: Answer, failure: str) -> ApplyError:
    words = f"{failure}: {describe(answer.errno, answer.words)}"
    if answer.errno == errno.EPERM:
        return PrivilegeError(f"{words}; nftables needs CAP_NET_ADMIN here: run as root")
    if answer.errno in _PASSING:
        return BusyError(f"{words}; try again")
    return RefusedError(words, errno=answer.errno)


def transaction_error(
    messages: Sequence[Message], answers: Sequence[tuple[int, Answer]]
) -> ApplyError:
    """What the errors that answer messages mean.

    Args:
        messages: The transaction.
        answers: At least one, with the index of its message.
    """
    shortage = [answer for _, answer in answers if answer.errno in _SHORTAGE]
    if shortage:
        return batch_error(shortage[0])
    refusals = tuple(
        Refusal(
            message=index,
            errno=answer.errno,
            words=describe(answer.errno, answer.words),
            offset=answer.offset,
            place=locate(messages[index], answer.offset),
            family=messages[index].family,
        )
        for index, answer in answers
    )
    return TransactionRefusedError(refusals)
