"""Writes what a run measured: report.md for people, report.json for programs, and the plots."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench import plots
from bench.contestants import CONTESTANTS
from bench.figures import duration_text, figures
from bench.plan import Plan
from bench.results import Changes, Connects, EndToEnd, Results
from bench.runner import Samples, quantile
from bench.states import Shape
from bench.templates import template

Row = dict[str, object]


def write(results: Results, plan: Plan, directory: Path) -> None:
    """Write the report's files into a directory."""
    found = figures(results, plan)
    document = {"figures": [figure._asdict() for figure in found], "results": results}
    encoded = msgspec.json.format(msgspec.json.encode(document), indent=1)
    (directory / "report.json").write_bytes(encoded + b"\n")
    for name in ("cost", "memory", "latency"):
        (directory / f"{name}.svg").write_text(getattr(plots, name)(results), encoding="utf-8")
    text = template("report.md.j2").render(
        plan=results.plan,
        command=results.command,
        minutes=f"{results.seconds / 60:.1f} minutes",
        machine=results.machine,
        figures=found,
        notes=results.notes,
        cold=list(_cold(results)),
        stages_tables=list(_stages(results)),
        changes=list(_changes(results)),
        idle=[_idle(title, samples, plan) for title, samples in results.idle.items()],
        connects=[_connects(connects) for connects in results.connects],
        end_to_end=[_end_to_end(measured) for measured in results.end_to_end],
    )
    (directory / "report.md").write_text(text, encoding="utf-8")


def _cold(results: Results) -> Iterator[Row]:
    for state, by_contestant in results.cold.items():
        for key, samples in by_contestant.items():
            row: Row = {"state": state, "title": CONTESTANTS[key].title}
            if samples.runs:
                low, high = samples.spread
                spread = f" ({duration_text(low)} to {duration_text(high)})"
                row["seconds"] = duration_text(samples.seconds) + spread
                row["peak"] = f"{samples.peak_mib:.0f} MiB"
                row["runs"] = len(samples.runs)
            else:
                row |= {"seconds": "failed", "peak": "", "runs": 0}
            yield row


def _stages(results: Results) -> Iterator[Row]:
    for stages in results.stages:
        yield {
            "state": str(Shape(stages.services, stages.endpoints)),
            "names": list(stages.seconds),
            "times": [duration_text(seconds) for seconds in stages.seconds.values()],
            "peaks": [f"{peak:.0f} MiB" for peak in stages.peak_mib.values()],
        }


def _changes(results: Results) -> Iterator[Row]:
    for title, measured in (
        ("nft -f - of kube-proxy's delta", results.kube_changes),
        ("netplane's running engine", results.engine_changes),
    ):
        for changes in measured:
            yield _change(title, changes)


def _change(title: str, changes: Changes) -> Row:
    return {
        "title": title,
        "services": str(Shape(changes.services, changes.endpoints)),
        "count": len(changes.seconds),
        "p50": duration_text(quantile(changes.seconds, 0.5)),
        "p99": duration_text(quantile(changes.seconds, 0.99)),
        "slowest": duration_text(max(changes.seconds)),
    }


def _idle(title: str, samples: Samples, plan: Plan) -> Row:
    return {
        "title": title,
        "services": str(plan.large),
        "count": len(samples.runs),
        "p50": duration_text(samples.seconds),
        "slowest": duration_text(samples.spread[1]),
    }


def _end_to_end(measured: EndToEnd) -> Row:
    return {
        "source": measured.source,
        "services": str(Shape(measured.services, measured.endpoints)),
        "count": len(measured.seconds),
        **_quantiles(measured.seconds),
        "slowest": duration_text(max(measured.seconds)),
    }


def _quantiles(seconds: list[float]) -> dict[str, str]:
    return {f"p{share}": duration_text(quantile(seconds, share / 100)) for share in (50, 90, 99)}


def _connects(connects: Connects) -> Row:
    name = connects.contestant
    return {
        "title": CONTESTANTS[name].title if name in CONTESTANTS else name,
        "services": f"{connects.services:,}",
        "count": len(connects.seconds),
        **_quantiles(connects.seconds),
    }
