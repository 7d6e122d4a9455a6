"""The shares judge, against published values."""

from __future__ import annotations

import pytest

from tests.support.chisquare import even_probability, upper_tail


@pytest.mark.parametrize(
    ("statistic", "degrees", "probability"),
    [
        # Abramowitz and Stegun, table 26.8: percentage points of the distribution.
        (3.84146, 1, 0.05),
        (15.1367, 1, 0.0001),
        (9.21034, 2, 0.01),
        (11.3449, 3, 0.01),
        (9.48773, 4, 0.05),
        (20.5150, 5, 0.001),
        (18.3070, 10, 0.05),
    ],
)
def test_tail_agrees_with_the_tables(statistic: float, degrees: int, probability: float) -> None:
    assert upper_tail(statistic, degrees) == pytest.approx(probability, rel=1e-4)


def test_even_counts_are_likely_and_lopsided_ones_are_not() -> None:
    assert even_probability([20, 20, 20]) == pytest.approx(1.0)
    assert even_probability([4]) == pytest.approx(1.0)
    assert even_probability([30, 2]) < 1e-4
