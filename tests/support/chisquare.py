"""Pearson's chi-square test that outcomes fall evenly on their classes."""

from __future__ import annotations

import math
from collections.abc import Sequence


def even_probability(counts: Sequence[int]) -> float:
    """How likely counts as uneven as these, or more so, are if every class is equally likely.

    The approximation is good from about five expected in each class.
    """
    expected = sum(counts) / len(counts)
    statistic = sum((count - expected) ** 2 for count in counts) / expected
    return upper_tail(statistic, len(counts) - 1)


def upper_tail(statistic: float, degrees: int) -> float:
    """The upper tail of the chi-square distribution (Abramowitz and Stegun 26.4.4, 26.4.5)."""
    if degrees == 0:
        return 1.0
    half = statistic / 2
    if degrees % 2 == 0:
        return math.exp(-half) * sum(half**i / math.factorial(i) for i in range(degrees // 2))
    tail = math.erfc(math.sqrt(half))
    for i in range(1, degrees // 2 + 1):
        tail += math.exp(-half) * half ** (i - 0.5) / math.gamma(i + 0.5)
    return tail
