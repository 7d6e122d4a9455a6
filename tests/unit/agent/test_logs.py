"""Messages: their form, their rate, and that foreign text cannot leave its place."""

from __future__ import annotations

import json
import logging

import pytest

from netplane.agent.clocks import Clocks
from netplane.agent.telling.logs import NOTICE, Bridge, Journal, Rate, bridged

_HOSTILE = 'x"\n\x1b[2J\u202e\\ y\ud800'


class Sink:
    """A log with a clock to turn by hand."""

    def __init__(self, *, as_json: bool = False, level: int = logging.INFO) -> None:
        self.now = 0.0
        self.lines: list[str] = []
        self.dropped: list[str] = []
        self.journal = Journal(
            self.lines.append,
            Clocks(lambda: self.now, lambda: 1_800_000_000.0 + self.now),
            json=as_json,
            level=level,
            rate=Rate(burst=3, interval=10.0),
            on_drop=self.dropped.append,
        )


def test_text() -> None:
    sink = Sink()
    sink.journal.warning("write-failed", "cannot write", error="no such table", attempt=3)
    assert sink.lines == [
        'netplane: warning: cannot write kind=write-failed error="no such table" attempt=3'
    ]


def test_json() -> None:
    sink = Sink(as_json=True)
    sink.journal.error("write-failed", "cannot write", seconds=0.5, service=("a", "b"), ok=False)
    assert json.loads(sink.lines[0]) == {
        "time": "2027-01-15T08:00:00.000Z",
        "level": "error",
        "kind": "write-failed",
        "message": "cannot write",
        "seconds": 0.5,
        "service": "('a', 'b')",
        "ok": False,
    }


@pytest.mark.parametrize("as_json", [False, True])
def test_foreign_text_stays_in_its_place(as_json: bool) -> None:
    sink = Sink(as_json=as_json)
    sink.journal.info("refused", "a Service is refused", name=_HOSTILE)
    (line,) = sink.lines
    assert line.isprintable()
    line.encode()
    if as_json:
        assert json.loads(line)["name"] == _HOSTILE
    else:
        assert line.endswith(r'name="x\"\n\x1b[2J\u202e\\ y\ud800"')


def test_a_notice_is_said_where_no_detail_is_wanted() -> None:
    sink = Sink(level=NOTICE)
    sink.journal.info("written", "rules written")
    sink.journal.notice("started", "the agent has started", mode="nftables")
    assert sink.lines == ["netplane: notice: the agent has started kind=started mode=nftables"]


def test_a_message_less_than_the_level_costs_nothing() -> None:
    sink = Sink(level=logging.WARNING)
    for _ in range(100):
        sink.journal.info("turn", "the loop turned")
    assert sink.lines == sink.dropped == []


def test_a_kind_has_a_rate_and_says_what_it_dropped() -> None:
    sink = Sink()
    for _ in range(10):
        sink.journal.warning("write-failed", "cannot write")
    assert len(sink.lines) == 3
    assert sink.dropped == ["write-failed"] * 7
    sink.journal.warning("watch-silent", "nothing heard")
    assert len(sink.lines) == 4, "another kind has tokens of its own"
    sink.now = 10.0
    sink.journal.warning("write-failed", "cannot write")
    sink.journal.warning("write-failed", "cannot write")
    assert sink.lines[4:] == ["netplane: warning: cannot write kind=write-failed dropped=7"]


def test_rest_fills_the_bucket_and_no_more() -> None:
    sink = Sink()
    sink.journal.info("turn", "turned")
    sink.now = 1e6
    for _ in range(10):
        sink.journal.info("turn", "turned")
    assert len(sink.lines) == 1 + 3


def test_what_was_dropped_is_told_at_the_end() -> None:
    sink = Sink()
    for _ in range(5):
        sink.journal.error("write-failed", "cannot write")
    sink.journal.report_dropped()
    sink.journal.report_dropped()
    assert sink.lines[3:] == [
        "netplane: error: there were more of these kind=write-failed dropped=2"
    ]


def test_libraries_speak_through_it() -> None:
    sink = Sink()
    bridge = Bridge(sink.journal)
    error = ValueError("why")
    source = ("aiohttp.server", logging.ERROR, "server.py", 1)
    bridge.handle(logging.LogRecord(*source, "odd request from %s", ("192.0.2.1\n",), None))
    bridge.handle(logging.LogRecord(*source, "failed", (), (ValueError, error, None)))
    assert sink.lines == [
        r"netplane: error: odd request from 192.0.2.1\n kind=aiohttp.server",
        r'netplane: error: failed kind=aiohttp.server traceback="ValueError: why\n"',
    ]


def test_they_do_so_while_an_agent_runs(capfd: pytest.CaptureFixture[str]) -> None:
    sink = Sink()
    library = logging.getLogger("asyncio")
    with bridged(sink.journal):
        library.error("a callback failed")
    library.error("elsewhere")
    assert sink.lines == ["netplane: error: a callback failed kind=asyncio"]
    assert "a callback failed" not in capfd.readouterr().err
