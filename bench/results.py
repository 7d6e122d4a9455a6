"""Everything a run measured; what ``bench/report.json`` holds and the report is made from."""

from __future__ import annotations

import msgspec

from bench.runner import Samples
from bench.states import Shape


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What the figures were measured on."""

    processor: str
    processors: int
    memory_gib: int
    kernel: str
    system: str
    tools: dict[str, str]
    revision: str
    load: float


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint changed many times in a loaded table: the seconds of each change."""

    services: int
    endpoints: int
    seconds: list[float]


class EndToEnd(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds from each change of a Service to the first connection a new endpoint answered.

    ``source`` says where the agent had it from.
    """

    source: str
    services: int
    endpoints: int
    seconds: list[float]


class Connects(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds that TCP connects took through one contestant's rules, in turn with the others."""

    contestant: str
    services: int
    seconds: list[float]


class Stages(msgspec.Struct, frozen=True, kw_only=True):
    """One cold load in one process, stage by stage: seconds, and peak memory when it ended."""

    services: int
    endpoints: int
    seconds: dict[str, float]
    peak_mib: dict[str, float]


class Results(msgspec.Struct, kw_only=True):
    """Everything a run measured.

    Attributes:
        plan: The name of what was to be measured.
        seconds: How long all of it took.
        cold: By state (as ``Shape`` prints) and contestant: whole processes that load it.
        idle: By command: a netplane run with nothing to do, and the listing of the same table.
        kube_changes: ``nft -f -`` of kube-proxy's delta.
        engine_changes: netplane's running engine.
        notes: What was left out or went wrong, for people.
    """

    machine: Machine
    command: str
    plan: str
    seconds: float = 0.0
    cold: dict[str, dict[str, Samples]] = {}
    idle: dict[str, Samples] = {}
    kube_changes: list[Changes] = []
    engine_changes: list[Changes] = []
    connects: list[Connects] = []
    end_to_end: list[EndToEnd] = []
    stages: list[Stages] = []
    notes: list[str] = []

    def samples(self, shape: Shape, key: str) -> Samples | None:
        """The cold loads of a state by a contestant, None where there are none."""
        found = self.cold.get(str(shape), {}).get(key)
        return found if found is not None and found.runs else None
