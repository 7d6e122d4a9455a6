"""Whether an observation still holds: by its generation, or by who vouches for all since."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from netplane.apply.nfnetlink.commit import still


@pytest.mark.parametrize(
    ("now", "seen", "heard", "holds"),
    [
        pytest.param(7, 7, [], True, id="nothing-happened"),
        pytest.param(8, 7, [8], True, id="vouched-for"),
        pytest.param(8, 7, [9], True, id="vouched-for-and-more"),
        pytest.param(8, 7, [None], False, id="nobody-knows"),
        pytest.param(8, 7, [7, 7, 8], True, id="heard-a-moment-later"),
        pytest.param(8, 7, [7, None], False, id="a-moment-later-it-did-harm"),
        pytest.param(8, 7, [7] * 100, False, id="never-heard-of"),
        pytest.param(1, 0xFFFFFFFF, [1], True, id="around-the-end-of-the-count"),
    ],
)
def test_still(now: int, seen: int, heard: list[int | None], holds: bool) -> None:
    said: Iterator[int | None] = iter(heard)
    assert still(now, seen, lambda _: next(said)) is holds


def test_without_a_voucher_the_generation_decides() -> None:
    assert still(7, 7, None)
    assert not still(8, 7, None)
