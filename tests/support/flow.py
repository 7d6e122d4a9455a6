"""A new connection to try, and what can become of it."""

from __future__ import annotations

import enum
from typing import NamedTuple

from netplane.core.model.service import Protocol


class Place(enum.Enum):
    """Where a flow starts: on the node, or in the world around it."""

    NODE = "node"
    WORLD = "world"


class Verdict(enum.Enum):
    """What became of a flow: it was answered, refused, or met with silence."""

    ACCEPT = "accept"
    REJECT = "reject"
    DROP = "drop"


class Flow(NamedTuple):
    """The first packet of a new flow.

    ``source_port`` 0 takes one that no flow had before, so that no flow inherits what connection
    tracking remembers of another. After ``patience`` seconds of silence it counts as dropped.
    """

    place: Place
    protocol: Protocol
    source: str
    destination: str
    port: int
    source_port: int = 0
    patience: float = 10.0


class Outcome(NamedTuple):
    """What became of a flow; where it was accepted, what the server saw.

    ``endpoint`` is the server's own ``address:port``, ``source`` the address of the peer.
    """

    verdict: Verdict
    endpoint: str = ""
    source: str = ""

    def __str__(self) -> str:
        if self.verdict is Verdict.ACCEPT:
            return f"answered by {self.endpoint}, which saw {self.source}"
        return "refused" if self.verdict is Verdict.REJECT else "silence"
