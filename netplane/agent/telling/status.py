"""What an agent says of itself, and how to ask it."""

from __future__ import annotations

from typing import Final

import msgspec

from netplane.agent.holder import is_trusted, other_side, reach_agent, squatted
from netplane.apply.netns import Namespace
from netplane.errors import ConflictError, WireError

TIMEOUT: Final = 5.0
"""Seconds in which either side must have said or heard something."""

_MOST_BYTES: Final = 256 << 20
_CHUNK: Final = 1 << 16


class ServiceStanding(msgspec.Struct, frozen=True):
    """One Service: its ``ledger.State``, and in words what is not as wanted."""

    namespace: str
    name: str
    state: str
    why: tuple[str, ...] = ()


class AgentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent says of itself.

    Attributes:
        healthy: As ``/healthz`` would say, the Node's own end left out; ``reasons`` say why not.
        in_sync: Everything has been read once from its source.
        fault: Why the source is not heard now; "" where it is.
        watch_age: Seconds since the source's last sign of life.
        services: Every Service that has something to program here, or was refused.
        counts: How many of them are in each state.
        problems: Everything that is refused now, of all kinds, in words.
        remarks: What else an operator should know, in words: health check node ports that cannot
            be opened, NodePorts that answer nowhere, kernel parameters.
    """

    pid: int
    version: str
    mode: str
    node: str
    healthy: bool
    reasons: tuple[str, ...]
    in_sync: bool
    fault: str
    watch_age: float
    counts: dict[str, int]
    services: tuple[ServiceStanding, ...]
    problems: tuple[str, ...]
    remarks: tuple[str, ...] = ()


def ask_agent(namespace: Namespace) -> AgentStatus | None:
    """What the namespace's agent says; None where there is none.

    Raises:
        WireError: There is one, and it does not answer as it should.
        ConflictError: Somebody else has taken its name, and would be believed.
    """
    connection = reach_agent(namespace, timeout=TIMEOUT)
    if connection is None:
        return None
    with connection:
        pid, user = other_side(connection)
        if not is_trusted(user):
            raise ConflictError(squatted(pid, user))
        answer = bytearray()
        try:
            while (chunk := connection.recv(_CHUNK)) and len(answer) < _MOST_BYTES:
                answer += chunk
            return msgspec.json.decode(answer, type=AgentStatus)
        except (OSError, msgspec.DecodeError) as exc:
            raise WireError(f"the agent, pid {pid}, does not answer: {exc}", len(answer)) from exc
