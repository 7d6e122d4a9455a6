"""When a pass may begin, when it must: told on a clock that stands still until it is moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from netplane.agent.pace import Pace, Pacer


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _pass(pacer: Pacer, clock: Clock, *, look: bool = False, takes: float = 0.0) -> None:
    pacer.begun(look=look)
    clock.now += takes
    pacer.passed(takes, again=False)


def test_the_first_pass_looks_at_once(clock: Clock) -> None:
    pacer = Pacer(Pace(period=30, shortest=5), clock)
    assert pacer.due
    assert pacer.rest() == pacer.rest_from_looking() == pacer.patience == 0
    assert not pacer.retrying


def test_a_look_is_due_a_period_after_the_last(clock: Clock) -> None:
    pacer = Pacer(Pace(period=30), clock)
    _pass(pacer, clock, look=True)
    clock.now += 10
    _pass(pacer, clock)
    assert not pacer.due
    assert pacer.patience == 20, "a change is no look"
    clock.now += 20
    assert pacer.due


@pytest.mark.parametrize(
    ("period", "pauses"),
    [
        (30.0, [0.25, 0.5, 1, 2, 4, 8, 16, 30, 30]),
        (1.0, [0.25, 0.5, 1, 1]),
        (0.1, [0.1, 0.1]),
    ],
)
def test_failures_are_retried_ever_more_slowly(
    clock: Clock, period: float, pauses: Sequence[float]
) -> None:
    pacer = Pacer(Pace(period=period), clock)
    for pause in pauses:
        pacer.begun(look=True)
        assert pacer.failed() == pause
        assert pacer.retrying
        assert pacer.rest() == pacer.patience == pytest.approx(pause)
        clock.now += pause
        assert pacer.due
        assert pacer.rest() == 0
    _pass(pacer, clock, look=True)
    assert not pacer.retrying
    pacer.begun(look=True)
    assert pacer.failed() == pauses[0], "a success begins anew"


def test_what_is_still_owed_is_tried_again(clock: Clock) -> None:
    pacer = Pacer(Pace(period=30), clock)
    pacer.begun(look=True)
    pacer.passed(0.0, again=True)
    assert pacer.retrying
    assert pacer.patience == 0.25


def test_changes_are_gathered_for_the_shortest_time(clock: Clock) -> None:
    pacer = Pacer(Pace(period=30, shortest=2), clock)
    _pass(pacer, clock, look=True, takes=0.5)
    assert pacer.rest() == 1.5
    clock.now += 1.5
    assert pacer.rest() == 0


def test_a_burst_is_free_and_then_bounded(clock: Clock) -> None:
    pacer = Pacer(Pace(period=30), clock)
    free = 0
    while pacer.rest() == 0 and free < 1000:
        _pass(pacer, clock)
        free += 1
    assert free == 50
    begin = clock.now
    for _ in range(100):
        clock.now += pacer.rest()
        _pass(pacer, clock)
    assert clock.now - begin == pytest.approx(2.0, rel=0.05), "50 a second from then on"
    clock.now += 1.0
    assert pacer.rest() == 0
    _pass(pacer, clock)
    assert pacer.rest() == 0, "what was not used comes back"


@pytest.mark.parametrize(("takes", "pause"), [(0.0, 0.2), (0.1, 0.2), (1.0, 1.0), (7.0, 7.0)])
def test_looking_takes_half_the_time_at_most(clock: Clock, takes: float, pause: float) -> None:
    pacer = Pacer(Pace(period=30), clock)
    _pass(pacer, clock, look=True, takes=takes)
    assert pacer.rest_from_looking() == pytest.approx(pause)
    _pass(pacer, clock, takes=0.05)
    assert pacer.rest_from_looking() == pytest.approx(pause - 0.05), "a change is no look"
    clock.now += pause
    assert pacer.rest_from_looking() == 0


@pytest.mark.parametrize("read", [Pacer.rest, Pacer.rest_from_looking])
def test_a_clock_that_stands_still_harms_nobody(
    clock: Clock, read: Callable[[Pacer], float]
) -> None:
    pacer = Pacer(Pace(period=30), clock)
    for _ in range(200):
        _pass(pacer, clock, look=True)
    assert 0 <= read(pacer) <= 1


def test_what_is_owed_in_part_keeps_no_change_waiting_and_is_looked_for_again(
    clock: Clock,
) -> None:
    pacer = Pacer(Pace(period=30), clock)
    _pass(pacer, clock, look=True)
    pauses = []
    for _ in range(6):
        pacer.begun(look=pacer.due)
        pacer.passed(0.0, again=True)
        assert pacer.rest() == 0, "a change may be written at once"
        clock.now += 0.01
        pacer.begun(look=False)
        pacer.passed(0.0, again=True)
        pauses.append(pacer.patience)
        clock.now += pacer.patience
        assert pacer.due
    assert pauses == sorted(pauses), "less and less often"
    assert pauses[0] < 1
    _pass(pacer, clock, look=True)
    assert pacer.patience == 30
    assert not pacer.retrying
