"""The figures netplane must reach, from what was measured: each a ratio within one run."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import NamedTuple

from bench.contestants import (
    CONTESTANTS,
    KUBE_LEGACY,
    KUBE_NFT,
    NETPLANE,
    NETPLANE_IPTABLES,
    NETPLANE_LEGACY,
    OWN_IPTABLES,
    OWN_LEGACY,
    OWN_NFT,
)
from bench.end_to_end import SOURCES
from bench.latency import NO_RULES
from bench.plan import Plan
from bench.results import Results
from bench.runner import Samples, quantile
from bench.running import IDLE_LISTING, IDLE_NETPLANE
from bench.states import Shape

_HUGE_MIB = 1_500_000_000 / 2**20
_HUGE_SECONDS = 10.0
_KEPT_SECONDS = 0.1
_KEPT_AIM = 0.02


class Figure(NamedTuple):
    """One line of the table.

    Attributes:
        title: What is measured against what.
        measured, bound, aim: As people read them; ``measured`` is "" where nothing was.
        verdict: ``aim reached``, ``met``, ``missed`` or ``not measured``.
        detail: The two quantities behind the ratio.
    """

    title: str
    measured: str
    bound: str
    aim: str
    verdict: str
    detail: str


def figures(results: Results, plan: Plan) -> list[Figure]:
    """Every figure of this run, in order."""
    return [
        *_cold_nftables(results, plan),
        *_running(results, plan),
        *_iptables(results, plan),
        *_kept(results, plan),
    ]


def ratio_text(ratio: float) -> str:
    """``1/12.3`` below one, ``1.23`` above."""
    if ratio >= 1:
        return f"{ratio:.3g}"
    inverse = 1 / ratio
    return f"1/{inverse:,.0f}" if inverse >= 100 else f"1/{inverse:.3g}"


def duration_text(seconds: float) -> str:
    """With a unit that leaves three digits."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.0f} ns"


def _cold_nftables(results: Results, plan: Plan) -> Iterator[Figure]:
    for shape, peer, bound, aim in (
        (plan.middle, KUBE_NFT, 1 / 4, 1 / 10),
        (plan.large, KUBE_NFT, 1 / 15, 1 / 40),
        (plan.large, KUBE_LEGACY, 1, 1 / 3),
        (plan.large, OWN_NFT, 1, 1 / 2),
    ):
        yield _loads(results, shape, NETPLANE, peer, bound, aim)
    grown = results.samples(plan.grown, NETPLANE)
    middle = results.samples(plan.middle, NETPLANE)
    title = f"growth, cold: {plan.grown} over {plan.middle}"
    yield _of_seconds(title, _median(grown), _median(middle), 4.5, 4.1)
    netplane = results.samples(plan.large, NETPLANE)
    peer_samples = results.samples(plan.large, OWN_NFT)
    title = f"peak memory, cold, {plan.large}, against {CONTESTANTS[OWN_NFT].title}"
    if netplane is None or peer_samples is None:
        yield _missing(title, 1, 1 / 2)
    else:
        detail = f"{netplane.peak_mib:.0f} MiB, {peer_samples.peak_mib:.0f} MiB"
        yield _judged(title, netplane.peak_mib / peer_samples.peak_mib, 1, 1 / 2, detail)
    yield _huge(results, plan)


def _running(results: Results, plan: Plan) -> Iterator[Figure]:
    engine = {c.services: c.seconds for c in results.engine_changes}
    kube = next((c.seconds for c in results.kube_changes), None)
    at_large = engine.get(plan.large.services)
    for share, name, bound, aim in ((0.5, "p50", 1 / 50, 1 / 500), (0.99, "p99", 1 / 10, None)):
        title = (
            f"one endpoint changed, {plan.large}, {name}, "
            "against nft -f - of kube-proxy's delta on its table"
        )
        ours = quantile(at_large, share) if at_large else None
        theirs = quantile(kube, share) if kube else None
        yield _of_seconds(title, ours, theirs, bound, aim)
    sizes = sorted(engine)
    small, big = (sizes[0], sizes[-1]) if sizes else (0, 0)
    yield _of_seconds(
        f"one endpoint changed, p50: {big:,} Services over {small:,}",
        quantile(engine[big], 0.5) if sizes else None,
        quantile(engine[small], 0.5) if sizes else None,
        1.3,
        1.1,
    )
    yield _of_seconds(
        f"nothing to do, {plan.large}, against nft -j list table of the same table",
        _median(results.idle.get(IDLE_NETPLANE)),
        _median(results.idle.get(IDLE_LISTING)),
        1 / 3,
        1 / 6,
    )
    services = max(plan.latency)
    connects = {c.contestant: c.seconds for c in results.connects if c.services == services}
    ours_and_none = [connects.get(key) for key in (NETPLANE, NO_RULES)]
    through, none = (statistics.median(s) if s else None for s in ours_and_none)
    title = f"first packet, p50, through {services:,} Services, against no rules at all"
    yield _of_seconds(title, through, none, 1.15, 1.05)


def _iptables(results: Results, plan: Plan) -> Iterator[Figure]:
    for shape, ours, peer, bound, aim in (
        (plan.restored, NETPLANE_IPTABLES, OWN_IPTABLES, 1 / 4, 1 / 8),
        (plan.large, NETPLANE_LEGACY, OWN_LEGACY, 1.5, 1.2),
    ):
        yield _loads(results, shape, ours, peer, bound, aim)


def _kept(results: Results, plan: Plan) -> Iterator[Figure]:
    """From a change to the first connection that works: times, for there is no peer to compare."""
    for source in SOURCES:
        title = f"agent fed by {source}, {plan.kept}, 50 changes/s: change to first answer, p99"
        seconds = next((e.seconds for e in results.end_to_end if e.source == source), None)
        bound, aim = duration_text(_KEPT_SECONDS), duration_text(_KEPT_AIM)
        if seconds is None:
            yield Figure(title, "", bound, aim, "not measured", "")
            continue
        late = quantile(seconds, 0.99)
        verdict = (
            "aim reached" if late <= _KEPT_AIM else "met" if late <= _KEPT_SECONDS else "missed"
        )
        detail = f"p50 {duration_text(quantile(seconds, 0.5))}"
        yield Figure(title, duration_text(late), bound, aim, verdict, detail)


def _loads(  # noqa: PLR0913, PLR0917 (the columns of a table)
    results: Results, shape: Shape, ours: str, peer: str, bound: float, aim: float | None
) -> Figure:
    """A cold load by one contestant against the same by another."""
    title = f"{CONTESTANTS[ours].title}, cold, {shape}, against {CONTESTANTS[peer].title}"
    seconds, theirs = (_median(results.samples(shape, key)) for key in (ours, peer))
    return _of_seconds(title, seconds, theirs, bound, aim)


def _huge(results: Results, plan: Plan) -> Figure:
    title = f"{plan.huge}, whole process, JSON to kernel"
    samples = results.samples(plan.huge, NETPLANE)
    bound, aim = "finishes, under 1.5 GB", "under 10 s"
    if samples is None:
        return Figure(title, "", bound, aim, "not measured", "")
    met = samples.peak_mib < _HUGE_MIB
    reached = met and samples.seconds < _HUGE_SECONDS
    verdict = "aim reached" if reached else "met" if met else "missed"
    measured = f"{samples.seconds:.1f} s, {samples.peak_mib * 2**20 / 1e9:.2f} GB"
    return Figure(title, measured, bound, aim, verdict, "")


def _of_seconds(
    title: str, ours: float | None, theirs: float | None, bound: float, aim: float | None
) -> Figure:
    if ours is None or theirs is None:
        return _missing(title, bound, aim)
    detail = f"{duration_text(ours)}, {duration_text(theirs)}"
    return _judged(title, ours / theirs, bound, aim, detail)


def _judged(title: str, ratio: float, bound: float, aim: float | None, detail: str) -> Figure:
    """``aim`` is None where there is none beyond the bound."""
    reached = aim is not None and ratio <= aim
    verdict = "aim reached" if reached else "met" if ratio <= bound else "missed"
    return Figure(title, ratio_text(ratio), ratio_text(bound), _aim_text(aim), verdict, detail)


def _missing(title: str, bound: float, aim: float | None) -> Figure:
    return Figure(title, "", ratio_text(bound), _aim_text(aim), "not measured", "")


def _aim_text(aim: float | None) -> str:
    return "-" if aim is None else ratio_text(aim)


def _median(samples: Samples | None) -> float | None:
    return samples.seconds if samples is not None and samples.runs else None
