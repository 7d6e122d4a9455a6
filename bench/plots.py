"""The plots, as SVG: cost and memory against the number of Services, first-packet latency."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from bench.contestants import CONTESTANTS
from bench.results import Results
from bench.runner import Samples, quantile
from bench.templates import template

_WIDTH, _HEIGHT = 900, 480
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 300, 50, 60
_COLOURS = ("#0b6e4f", "#d1495b", "#30638e", "#edae49", "#7a4fa3", "#5c5c5c", "#00a6a6", "#a0522d")
_PLOTTED_ENDPOINTS = 3


class Series(NamedTuple):
    """One line: points (x, y), and for each y the lowest and the highest measured."""

    title: str
    points: Sequence[tuple[float, float]]
    spans: Sequence[tuple[float, float]]


class _Axis(NamedTuple):
    """A logarithmic axis: from where to where in values and in pixels, and its ticks."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """1, 2, 5 of every decade, or the decades alone where those would be too many."""
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = (1, 2, 5) if len(decades) <= 4 else (1,)
        values = (step * 10.0**decade for decade in decades for step in steps)
        return [value for value in values if self.low <= value <= self.high]


def cost(results: Results) -> str:
    """Seconds of a cold load against the number of Services."""
    series = _cold(results, lambda run: run.seconds, lambda run: run.spread)
    return _chart("Cold load: file to kernel", "seconds", series)


def memory(results: Results) -> str:
    """Peak memory of a cold load against the number of Services."""

    def spread(samples: Samples) -> tuple[float, float]:
        peaks = [run.peak_kib / 1024 for run in samples.runs]
        return min(peaks), max(peaks)

    series = _cold(results, lambda samples: samples.peak_mib, spread)
    return _chart("Cold load: peak memory of the largest process", "MiB", series)


def latency(results: Results) -> str:
    """What a TCP connect takes against the number of Services, the median of many."""
    names = dict.fromkeys(connects.contestant for connects in results.connects)
    series = []
    for name in names:
        measured = sorted(
            (c.services, [second * 1e6 for second in c.seconds])
            for c in results.connects
            if c.contestant == name
        )
        title = CONTESTANTS[name].title if name in CONTESTANTS else name
        points = [(services, quantile(values, 0.5)) for services, values in measured]
        spans = [(quantile(values, 0.25), quantile(values, 0.75)) for _, values in measured]
        series.append(Series(title, points, spans))
    return _chart("First packet: TCP connect through the rules, median", "microseconds", series)


def _cold(
    results: Results,
    middle: Callable[[Samples], float],
    spread: Callable[[Samples], tuple[float, float]],
) -> list[Series]:
    """A line per contestant that loaded more than one state with three endpoints."""
    series = []
    for key, contestant in CONTESTANTS.items():
        found = sorted(
            (_services(state), samples[key])
            for state, samples in results.cold.items()
            if state.endswith(f" x {_PLOTTED_ENDPOINTS}") and key in samples and samples[key].runs
        )
        if len(found) > 1:
            points = [(services, middle(samples)) for services, samples in found]
            spans = [spread(samples) for _, samples in found]
            series.append(Series(contestant.title, points, spans))
    return series


def _services(state: str) -> int:
    return int(state.partition(" x ")[0].replace(",", ""))


def _chart(title: str, unit: str, series: Sequence[Series]) -> str:
    if not series:
        return ""
    xs = [x for line in series for x, _ in line.points]
    ys = [y for line in series for span in line.spans for y in span]
    x_axis = _Axis(min(xs) / 1.1, max(xs) * 1.1, _LEFT, _WIDTH - _RIGHT)
    y_axis = _Axis(min(ys) / 1.2, max(ys) * 1.2, _HEIGHT - _BOTTOM, _TOP)
    return template("plot.svg.j2").render(
        title=title,
        unit=unit,
        width=_WIDTH,
        height=_HEIGHT,
        left=_LEFT,
        right=_WIDTH - _RIGHT,
        top=_TOP,
        bottom=_HEIGHT - _BOTTOM,
        x_ticks=[(x_axis.at(x), f"{x:,.0f}") for x in sorted(set(xs))],
        y_ticks=[(y_axis.at(y), f"{y:g}") for y in y_axis.ticks()],
        lines=list(_lines(series, x_axis, y_axis)),
    )


def _lines(series: Iterable[Series], x_axis: _Axis, y_axis: _Axis) -> Iterable[dict[str, object]]:
    for index, line in enumerate(series):
        yield {
            "title": line.title,
            "colour": _COLOURS[index % len(_COLOURS)],
            "points": [(x_axis.at(x), y_axis.at(y)) for x, y in line.points],
            "spans": [
                (x_axis.at(x), y_axis.at(low), y_axis.at(high))
                for (x, _), (low, high) in zip(line.points, line.spans, strict=True)
            ],
        }
