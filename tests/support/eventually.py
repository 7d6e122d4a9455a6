"""Waiting for what must come to pass, with a deadline that a loaded machine can keep."""

from __future__ import annotations

import time
from collections.abc import Callable

DEADLINE = 20.0  # seconds; the product promises far less, a loaded machine does not


def eventually(
    condition: Callable[[], object],
    *,
    within: float = DEADLINE,
    poll: float = 0.02,
    last: Callable[[], object] = str,
) -> float:
    """Wait until a condition holds; returns the seconds that took. ``last`` says what was seen.

    Raises:
        AssertionError: It did not in time.
    """
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        assert waited < within, f"it did not come to pass in {within:.0f} s {last()}"
        time.sleep(poll)
    return time.monotonic() - began
