"""``status --watch``: what an interval holds, and how it is shown."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator

import pytest

from netplane.cli.watch import Interval, busiest, intervals, show
from netplane.core.plan.status import EndpointStatus, FrontendStatus, Status
from tests.support.command import run_netplane


def _frontend(number: int, *counts: int | None, total: int | None = None) -> FrontendStatus:
    return FrontendStatus(
        label=f"default/s{number}",
        family="IPv4",
        kind="ClusterIP",
        address=f"172.30.0.{number}",
        protocol="tcp",
        port=80,
        verdict="balance" if counts else "reject",
        endpoints=tuple(EndpointStatus("10.0.0.1", 80 + i, n) for i, n in enumerate(counts)),
        connections=total,
    )


def _status(*frontends: FrontendStatus) -> Status:
    return Status(mode="nftables", installed=True, frontends=frontends)


def _interval(*modes: Status) -> Interval:
    return Interval(time="2026-11-23T12:00:00Z", seconds=2.0, namespace=None, modes=modes)


def test_an_interval_is_what_came_between_two_readings() -> None:
    readings = iter(
        {"nftables": _status(_frontend(1, n, 2 * n, total=3 * n))} for n in (10, 14, 14, 20)
    )
    found = list(intervals(lambda: next(readings), "n", seconds=0.001, count=3))
    assert [i.modes[0].frontends[0].connections for i in found] == [12, 0, 18]
    assert [e.connections for e in found[0].modes[0].frontends[0].endpoints] == [4, 8]
    assert all(interval.seconds >= 0.001 for interval in found)
    assert next(readings, None) is None


def test_a_mode_that_comes_meanwhile_is_new() -> None:
    readings = iter([{}, {"nftables": _status(_frontend(1, 5, total=5))}])
    (interval,) = intervals(lambda: next(readings), None, seconds=0.001, count=1)
    assert interval.modes[0].frontends[0].connections == 5


def test_the_busiest_come_first() -> None:
    status = _status(
        _frontend(1, 1, total=1),
        _frontend(2, total=None),
        _frontend(3, 4, 5),  # counted at its endpoints alone
        _frontend(4, 1, total=2),
    )
    assert [f.label[-1] for f in busiest(status)] == ["3", "4", "1", "2"]


def test_a_table_has_the_busy_ones_and_their_shares(capsys: pytest.CaptureFixture[str]) -> None:
    status = _status(_frontend(1, 1, 3, total=4), _frontend(2, 0, total=0), _frontend(3, total=2))
    show([_interval(status)], json=False, verbose=False)
    title, header, *rows = capsys.readouterr().out.splitlines()
    assert "nftables: 6 new connections in 2.0 s, to 2 of 3 frontends" in title
    assert header.split() == ["SERVICE", "KIND", "FRONTEND", "ENDPOINT", "CONNECTIONS", "SHARE"]
    assert [row.split()[-2:] for row in rows] == [["1", "25%"], ["3", "75%"], ["reject", "2"]]


def test_a_table_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    status = _status(*(_frontend(n, 1, total=1) for n in range(60)))
    show([_interval(status)], json=False, verbose=False)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 1 + 50 + 1
    assert lines[-1] == "... and 10 more frontends (-v shows all)"
    show([_interval(status)], json=False, verbose=True)
    assert len(capsys.readouterr().out.splitlines()) == 1 + 1 + 60


def test_each_interval_is_a_document_of_its_own(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    show([_interval(_status(_frontend(1, 1, total=1)))] * 2, json=True, verbose=False)
    lines = capfdbinary.readouterr().out.splitlines()
    assert len(lines) == 2
    document = json.loads(lines[0])
    assert list(document) == ["time", "seconds", "namespace", "modes"]
    assert document["modes"][0]["frontends"][0]["endpoints"][0]["connections"] == 1


def test_an_interrupt_ends_it_quietly(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> Iterator[Interval]:
        yield _interval(_status())
        raise KeyboardInterrupt

    show(interrupted(), json=False, verbose=False)
    assert "0 new connections" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--count", "3"), "--count goes with --watch"),
        (("--watch", "0"), "0.0 is not in the range"),
        (("--watch", "--count", "0"), "0 is not in the range"),
    ],
)
def test_options_are_checked(arguments: tuple[str, ...], complaint: str) -> None:
    ran = run_netplane("status", *arguments)
    assert ran.status == 2
    assert re.search(complaint, ran.stderr)


def test_intervals_go_on_without_a_count() -> None:
    found = intervals(dict, None, seconds=0.001, count=None)
    assert len(list(itertools.islice(found, 5))) == 5
