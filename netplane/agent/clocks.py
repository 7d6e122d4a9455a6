"""What the time is, for everything of the agent that asks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple


class Clocks(NamedTuple):
    """``monotonic`` seconds to measure with, ``wall`` ones since the epoch."""

    monotonic: Callable[[], float]
    wall: Callable[[], float]


CLOCKS: Final = Clocks(time.monotonic, time.time)
