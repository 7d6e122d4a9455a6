"""What is printed: for people, for machines, and never a foreign control sequence."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from netplane.apply.flows import Flow
from netplane.apply.sync import Outcome
from netplane.cli import log
from netplane.cli.report import Report, Setting, print_outcome, service_line
from netplane.cli.safe import clean
from netplane.cli.terminal import Line, Screen, plain
from netplane.core.model.problem import Problem
from netplane.core.plan.changes import Action, Changes, ServiceChange
from netplane.errors import InputError
from tests.support.command import run_netplane
from tests.support.story import told

_HOSTILE = "evil\x1b[2Jname\r\n\u202e[red]$(reboot)\x9b0m\ud800"


def _setting(*, verbose: bool = False, json: bool = False) -> Setting:
    return Setting(
        mode="iptables",
        node="node-1",
        namespace=None,
        verbose=verbose,
        json=json,
        problems=(),
        skipped={},
    )


_CHANGE = ServiceChange(
    label="default/web:http",
    family="IPv4",
    action=Action.CHANGED,
    protocol="tcp",
    endpoints_added=("10.244.1.8:8080", "10.244.1.9:8080"),
    endpoints_removed=("10.244.1.7:8080",),
    rules=("- -A KUBE-SVC-X -j KUBE-SEP-Y", "+ -A KUBE-SVC-X -j KUBE-SEP-Z"),
)
_OUTCOME = Outcome(
    changes=told(_CHANGE, base=("+ -A PREROUTING -j KUBE-SERVICES",)),
    also=("set a parameter",),
    flows=(Flow("10.244.1.1", 4000, "10.96.0.10", 53, "10.244.1.7", 53),),
)


def test_a_line_speaks_of_the_service() -> None:
    assert plain(service_line(_CHANGE)) == (
        "~ default/web:http tcp  +2 endpoints (10.244.1.8:8080, 10.244.1.9:8080)"
        "  10.244.1.7:8080 gone"
    )


def test_a_line_counts_where_there_are_many() -> None:
    many = tuple(f"10.244.1.{n}:80" for n in range(1, 10))
    change = msgspec.structs.replace(
        _CHANGE, family="IPv6", endpoints_added=many, endpoints_removed=many
    )
    text = plain(service_line(change))
    assert text.startswith("~ default/web:http tcp IPv6  +9 endpoints (10.244.1.1:80, ")
    assert text.endswith("10.244.1.4:80 gone  and 5 more gone")


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_outcome(_OUTCOME, _setting(), written=True, same="no change")
    out = capsys.readouterr().out
    assert out.splitlines() == [
        plain(service_line(_CHANGE)),
        "~ what Services share: +1 -0 lines (-v shows them)",
        "* set a parameter",
        (
            "* deleted the UDP flow of 10.244.1.1:4000 to 10.96.0.10:53: "
            "10.244.1.7:53 must not answer it"
        ),
        "service ports: 0 added, 0 removed, 1 changed",
    ]


def test_verbose_text_has_the_rules(capsys: pytest.CaptureFixture[str]) -> None:
    print_outcome(_OUTCOME, _setting(verbose=True), written=True, same="no change")
    lines = capsys.readouterr().out.splitlines()
    assert "    + -A KUBE-SVC-X -j KUBE-SEP-Z" in lines
    assert "    + -A PREROUTING -j KUBE-SERVICES" in lines


def test_nothing_changed(capsys: pytest.CaptureFixture[str]) -> None:
    print_outcome(Outcome(changes=Changes()), _setting(), written=True, same="no change")
    assert capsys.readouterr().out == "no change\n"


def test_the_document_has_a_stable_shape(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    print_outcome(_OUTCOME, _setting(json=True), written=True, same="")
    document = json.loads(capfdbinary.readouterr().out)
    assert list(document) == [
        "mode", "node", "namespace", "changed", "written", "services", "base", "also", "flows",
        "problems", "skipped", "failures",
    ]  # fmt: skip
    assert list(document["services"][0]) == [
        "label", "family", "action", "protocol", "frontends_added", "frontends_removed",
        "endpoints_added", "endpoints_removed", "notes", "rules",
    ]  # fmt: skip
    assert document["services"][0]["rules"] == []  # they are there with -v
    assert document["flows"] == [
        {"client": "10.244.1.1:4000", "frontend": "10.96.0.10:53", "endpoint": "10.244.1.7:53"}
    ]
    assert msgspec.convert(document, Report).changed


def test_nothing_written_is_never_called_written(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    print_outcome(Outcome(changes=Changes()), _setting(json=True), written=True, same="")
    document = json.loads(capfdbinary.readouterr().out)
    assert (document["changed"], document["written"]) == (False, False)


def test_hostile_text_stays_text(capsys: pytest.CaptureFixture[str]) -> None:
    change = msgspec.structs.replace(
        _CHANGE, label=_HOSTILE, notes=(_HOSTILE,), rules=(_HOSTILE,), endpoints_added=(_HOSTILE,)
    )
    outcome = Outcome(changes=told(change), also=(_HOSTILE,))
    print_outcome(outcome, _setting(verbose=True), written=True, same="")
    log.start()
    log.error(InputError(_HOSTILE))
    log.warn(str(Problem("Service", "a", _HOSTILE, "spec", _HOSTILE, "no")))
    captured = capsys.readouterr()
    for text in (captured.out, captured.err):
        assert text
        assert all(line.isprintable() for line in text.splitlines())
        assert r"evil\x1b[2Jname\r\n\u202e[red]$(reboot)\x9b0m\ud800" in text


def test_clean_keeps_what_is_printable() -> None:
    assert clean("Dienst für Ä[b]") == "Dienst für Ä[b]"


def test_messages_can_be_json(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text("{", encoding="utf-8")
    ran = run_netplane("render", "-f", str(path), "--log-format", "json")
    (message,) = [json.loads(line) for line in ran.stderr.splitlines()]
    assert list(message) == ["time", "level", "message"]
    assert message["level"] == "error"
    assert "bad.json" in message["message"]


def test_colour_is_for_terminals_that_want_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    Screen().print(("off", "green"), " a")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    Screen().print(("on", "bold green"), " b")
    monkeypatch.setenv("NO_COLOR", "1")
    Screen().print(("off", "green"), " c")
    assert capsys.readouterr().out == "off a\n\x1b[1;32mon\x1b[0m b\noff c\n"


def test_a_table_has_columns(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[Line] = [("a", ("reject", "yellow"), "7"), ("long name", "b\x1b", "12")]
    Screen().print_table(("NAME", "VERDICT", "N"), rows, right=("N",))
    assert capsys.readouterr().out.splitlines() == [
        "NAME       VERDICT   N",
        "a          reject    7",
        r"long name  b\x1b    12",
    ]


def test_refused_objects_are_named_and_the_rest_is_rendered(tmp_path: Path) -> None:
    def service(name: str, address: str) -> dict[str, object]:
        spec = {"clusterIP": address, "ports": [{"port": 80}]}
        meta = {"namespace": "default", "name": name}
        return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}

    items = [service("good", "10.96.0.1"), service(_HOSTILE[:-1], "not an address")]
    path = tmp_path / "list.json"
    path.write_text(
        json.dumps({"apiVersion": "v1", "kind": "List", "items": items}), encoding="utf-8"
    )
    ran = run_netplane("render", "-f", str(path), "--node", "n", "-o", "json")
    assert ran.status == 0, ran
    document = ran.document()
    assert "default/good has no endpoints" in document["rules"]
    assert "evil" not in document["rules"]
    assert {p["namespace"] for p in document["problems"]} == {"default"}
    assert "refused: Service" in ran.stderr
    assert "\x1b" not in ran.stderr
