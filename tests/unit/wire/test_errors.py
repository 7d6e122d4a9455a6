"""What the kernel's error numbers become."""

from __future__ import annotations

import errno

import pytest

from netplane.apply.nfnetlink.errors import (
    TransactionRefusedError,
    batch_error,
    transaction_error,
)
from netplane.core.model.address import Family
from netplane.core.nftables.layout import Verdict
from netplane.core.nftables.wire import Answer
from netplane.core.nftables.wire_elements import add_elements
from netplane.core.nftables.wire_rules import new_chain
from netplane.errors import ApplyError, BusyError, PrivilegeError, RefusedError, StaleError
from tests.unit.wire.elements import LAYOUTS


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        pytest.param(errno.EPERM, PrivilegeError, id="EPERM"),
        pytest.param(errno.ERESTART, StaleError, id="ERESTART"),
        pytest.param(errno.ENOMEM, BusyError, id="ENOMEM"),
        pytest.param(errno.ENOBUFS, BusyError, id="ENOBUFS"),
        pytest.param(errno.EBUSY, BusyError, id="EBUSY"),
        pytest.param(errno.EINTR, BusyError, id="EINTR"),
        pytest.param(errno.EINVAL, RefusedError, id="EINVAL"),
        pytest.param(errno.EOPNOTSUPP, RefusedError, id="EOPNOTSUPP"),
    ],
)
def test_an_error_of_the_whole_transaction(number: int, kind: type[ApplyError]) -> None:
    error = batch_error(Answer(1, number, "the kernel's words"))
    assert type(error) is kind
    assert error.retryable is (kind in {BusyError, StaleError})


def test_errors_of_messages_are_refusals_with_their_places() -> None:
    (elements,) = add_elements(
        LAYOUTS["services"], Family.IPV4, [(("10.96.0.1", 6, 80), Verdict("nowhere"))]
    )
    messages = [new_chain(Family.IPV4, "pick-1"), elements]
    error = transaction_error(
        messages,
        [(0, Answer(2, errno.EEXIST)), (1, Answer(3, errno.ENOENT, "no such chain", 64))],
    )
    assert isinstance(error, TransactionRefusedError)
    assert [str(refusal) for refusal in error.refusals] == [
        "chain pick-1: File exists (EEXIST)",
        "services { 10.96.0.1 . 6 . 80 }: no such chain",
    ]
    assert str(error) == "the kernel refused chain pick-1: File exists (EEXIST) (and 1 more)"


def test_a_shortage_is_nobodys_element() -> None:
    messages = [new_chain(Family.IPV4, "pick-1"), new_chain(Family.IPV4, "pick-2")]
    answers = [(0, Answer(2, errno.EEXIST)), (1, Answer(3, errno.ENOMEM))]
    assert isinstance(transaction_error(messages, answers), BusyError)
