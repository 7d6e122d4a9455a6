"""How a command line ends, where no kernel is needed to tell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from netplane.cli import main as main_module
from tests.support.command import run_netplane

_EMPTY = '{"apiVersion": "v1", "kind": "List", "items": []}'
_NODE = ("--node", "node-1")


@pytest.fixture
def empty(tmp_path: Path) -> str:
    path = tmp_path / "empty.json"
    path.write_text(_EMPTY, encoding="utf-8")
    return str(path)


def test_a_render_is_done(empty: str) -> None:
    ran = run_netplane("render", "-f", empty, *_NODE)
    assert ran.status == 0, ran
    assert "KUBE-SERVICES" in ran.stdout


@pytest.mark.parametrize("command", ["render", "diff", "apply"])
def test_no_input_is_a_usage_error(command: str) -> None:
    ran = run_netplane(command)
    assert ran.status == 2
    assert "-f" in ran.stderr
    assert ran.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("frobnicate",), id="command"),
        pytest.param(("render", "--frobnicate"), id="option"),
        pytest.param(("render", "-f", "-", "-f", "-"), id="stdin twice"),
        pytest.param(("render", "-f", ".", "--mode", "ipvs"), id="mode"),
        pytest.param(("render", "-f", ".", "-o", "yaml"), id="output"),
        pytest.param(("apply", "-f", "{}", "--config", "/nowhere.yaml"), id="no such config"),
        pytest.param(("diff", "-f", "{}", "--cluster-cidr", "pods"), id="network"),
        pytest.param(("apply", "-f", "{}", "--netns", "no-such-namespace"), id="namespace"),
        pytest.param(("apply", "-f", "{}", "--netns", "../../proc/1/ns/net"), id="path"),
        pytest.param(("agent", "-f", "-"), id="agent on stdin"),
        pytest.param(("agent", "-f", "{}", "--sync-period", "0"), id="no period"),
    ],
)
def test_usage_errors(arguments: tuple[str, ...], empty: str) -> None:
    ran = run_netplane(*[empty if a == "{}" else a for a in arguments])
    assert ran.status == 2, ran
    assert ran.stdout == ""
    assert ran.stderr


@pytest.mark.parametrize(
    ("content", "part"),
    [
        pytest.param(b"{", "", id="cut off"),
        pytest.param(b"\x80", "", id="no text"),
        pytest.param(b"a: 1\na: 2", "", id="duplicate key"),
    ],
)
@pytest.mark.parametrize(("command", "status"), [("render", 1), ("apply", 1), ("diff", 3)])
def test_unreadable_input(
    command: str, status: int, content: bytes, part: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    ran = run_netplane(command, "-f", str(path), *_NODE)
    assert ran.status == status, ran
    assert "bad.yaml" in ran.stderr
    assert part in ran.stderr


@pytest.mark.parametrize(("command", "status"), [("render", 1), ("apply", 1), ("diff", 3)])
def test_a_file_that_is_not_there(command: str, status: int) -> None:
    ran = run_netplane(command, "-f", "/nowhere.yaml", *_NODE)
    assert ran.status == status
    assert "/nowhere.yaml: No such file" in ran.stderr


def test_a_directory_without_manifests(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("no manifest", encoding="utf-8")
    ran = run_netplane("render", "-f", str(tmp_path), *_NODE)
    assert ran.status == 1
    assert "no manifests" in ran.stderr


def test_a_bug_has_a_status_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise AssertionError("an invariant")

    monkeypatch.setattr(main_module.cli, "main", broken)
    ran = run_netplane("render")
    assert ran.status == 70
    assert "Traceback" in ran.stderr
    assert "an invariant" in ran.stderr


def test_an_interrupt_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main_module.cli, "main", interrupted)
    ran = run_netplane("render")
    assert (ran.status, ran.stderr) == (130, "")


def test_a_reader_that_left_is_no_error(empty: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "netplane", "render", "-f", empty, *_NODE],
            stdout=closed,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (141, b"")
