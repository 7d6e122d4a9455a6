"""What a run measures: which states, with whom, how often; ``--quick`` is the smaller choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from bench.contestants import (
    KUBE_IPTABLES,
    KUBE_LEGACY,
    KUBE_NFT,
    KUBE_NFT_1_35,
    KUBE_NFT_1_36,
    NETPLANE,
    NETPLANE_IPTABLES,
    NETPLANE_LEGACY,
    OWN_IPTABLES,
    OWN_LEGACY,
    OWN_NFT,
)
from bench.states import Shape


class Plan(NamedTuple):
    """What a run measures.

    Attributes:
        name: How people call it.
        middle, large, grown: The states the figures are about.
        restored: The state of the iptables-nft figure: that tool's time grows with the square.
        huge: The largest state of all, loaded once.
        cold: Per state who loads it and how often.
        changes: How often one endpoint changes in kube-proxy's table, ``large``.
        engine_changes: How often in the running engine's, per number of Services.
        idle_rounds: How often a run finds nothing to do.
        latency: Per number of Services with five endpoints each, whose rules connections go
            through, besides no rules at all.
        connections: How many, per contestant.
        kept: The cluster an agent keeps while it changes.
        kept_changes: How many changes it gets from each source, fifty a second.
        seconds: The time the whole may take, for parts that can be left out.
    """

    name: str
    middle: Shape
    large: Shape
    grown: Shape
    restored: Shape
    huge: Shape
    cold: Mapping[Shape, Mapping[str, int]]
    changes: int
    engine_changes: Mapping[int, int]
    idle_rounds: int
    latency: Mapping[int, tuple[str, ...]]
    connections: int
    kept: Shape
    kept_changes: int
    seconds: float


_EVERYBODY = (
    NETPLANE,
    OWN_NFT,
    KUBE_NFT,
    KUBE_LEGACY,
    NETPLANE_IPTABLES,
    NETPLANE_LEGACY,
    KUBE_IPTABLES,
)
_MIDDLE = Shape(5_000, 3)
_LARGE = Shape(10_000, 5)
_GROWN = Shape(20_000, 3)
_HUGE = Shape(100_000, 5)
_KEPT = Shape(10_000, 3)

QUICK = Plan(
    name="quick",
    middle=_MIDDLE,
    large=_LARGE,
    grown=_GROWN,
    restored=Shape(2_000, 5),
    huge=_HUGE,
    cold={
        Shape(500, 3): dict.fromkeys(_EVERYBODY[:4], 2) | dict.fromkeys(_EVERYBODY[4:], 1),
        Shape(1_000, 3): dict.fromkeys(_EVERYBODY[:4], 2) | dict.fromkeys(_EVERYBODY[4:], 1),
        Shape(2_000, 3): dict.fromkeys(_EVERYBODY[:4], 2) | dict.fromkeys(_EVERYBODY[4:-1], 1),
        Shape(2_000, 1): {KUBE_NFT_1_36: 2, KUBE_NFT: 2, NETPLANE: 2},
        Shape(2_000, 5): {NETPLANE_IPTABLES: 2, OWN_IPTABLES: 1},
        _MIDDLE: {NETPLANE: 3, KUBE_NFT: 2, OWN_NFT: 2, KUBE_LEGACY: 2},
        _LARGE: {
            NETPLANE: 3,
            KUBE_NFT: 1,
            OWN_NFT: 2,
            KUBE_LEGACY: 1,
            NETPLANE_LEGACY: 1,
            OWN_LEGACY: 1,
        },
        _GROWN: {NETPLANE: 2},
    },
    changes=10,
    engine_changes={500: 2_000, 10_000: 2_000, 20_000: 2_000},
    idle_rounds=2,
    latency={
        100: (NETPLANE, KUBE_NFT, KUBE_LEGACY),
        1_000: (NETPLANE, KUBE_NFT, KUBE_LEGACY),
        10_000: (NETPLANE, KUBE_LEGACY),
    },
    connections=400,
    kept=_KEPT,
    kept_changes=150,
    seconds=285.0,
)

FULL = Plan(
    name="full",
    middle=_MIDDLE,
    large=_LARGE,
    grown=_GROWN,
    restored=_LARGE,
    huge=_HUGE,
    cold={
        Shape(500, 3): dict.fromkeys((*_EVERYBODY, KUBE_NFT_1_35), 5),
        Shape(1_000, 3): dict.fromkeys((*_EVERYBODY, KUBE_NFT_1_35), 3),
        Shape(2_000, 3): dict.fromkeys((*_EVERYBODY, KUBE_NFT_1_35), 2),
        Shape(2_000, 1): {KUBE_NFT_1_36: 5, KUBE_NFT: 5, NETPLANE: 5},
        _MIDDLE: dict.fromkeys(_EVERYBODY[:4], 5) | dict.fromkeys(_EVERYBODY[4:6], 3),
        _LARGE: {
            NETPLANE: 9,
            KUBE_NFT: 3,
            OWN_NFT: 5,
            KUBE_LEGACY: 5,
            NETPLANE_LEGACY: 5,
            OWN_LEGACY: 5,
            NETPLANE_IPTABLES: 3,
            OWN_IPTABLES: 1,
            KUBE_NFT_1_35: 1,
        },
        _GROWN: dict.fromkeys((NETPLANE, OWN_NFT, KUBE_LEGACY), 5) | {KUBE_NFT: 1},
    },
    changes=300,
    engine_changes=dict.fromkeys((500, 2_000, 10_000, 20_000), 10_000),
    idle_rounds=7,
    latency=dict.fromkeys((100, 1_000, 3_000, 10_000), (NETPLANE, KUBE_NFT, KUBE_LEGACY)),
    connections=3_000,
    kept=_KEPT,
    kept_changes=1_000,
    seconds=7_200.0,
)

#: Every part once, on states so small that the figures mean nothing.
SMOKE = Plan(
    name="smoke",
    middle=Shape(100, 3),
    large=Shape(200, 5),
    grown=Shape(400, 3),
    restored=Shape(200, 5),
    huge=Shape(1_000, 5),
    cold={
        Shape(50, 3): dict.fromkeys((*_EVERYBODY, KUBE_NFT_1_35), 1),
        Shape(100, 1): {KUBE_NFT_1_36: 1, KUBE_NFT: 1, NETPLANE: 1},
        Shape(100, 3): dict.fromkeys(_EVERYBODY, 2),
        Shape(200, 5): dict.fromkeys((*_EVERYBODY, OWN_LEGACY, OWN_IPTABLES), 1),
        Shape(400, 3): {NETPLANE: 2},
    },
    changes=5,
    engine_changes={50: 50, 200: 50, 400: 50},
    idle_rounds=1,
    latency={100: (NETPLANE, KUBE_NFT, KUBE_LEGACY), 200: (NETPLANE,)},
    connections=100,
    kept=Shape(100, 3),
    kept_changes=20,
    seconds=600.0,
)
