"""``netplane status --watch`` on real connections."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from netplane.apply.netns import Namespace
from tests.support.command import apply_objects
from tests.support.eventually import eventually
from tests.support.manifests import endpoint_slice, service
from tests.support.netns import ip

pytestmark = [pytest.mark.kernel, pytest.mark.e2e]

_FRONTEND = ("172.30.0.10", 80)
_ENDPOINTS = ("10.244.1.7", "10.244.1.8")
_DEADLINE = 30.0


@pytest.fixture(params=["iptables", "nftables"])
def served(request: pytest.FixtureRequest, netns: Namespace) -> Namespace:
    """A namespace with a Service of two endpoints, whose addresses are its own."""
    for address in (*_ENDPOINTS, _FRONTEND[0]):
        ip("-n", str(netns), "address", "add", f"{address}/32", "dev", "lo")
    web = service("web", ports=[{"name": "http", "port": 80}])
    apply_objects(netns, str(request.param), [web, endpoint_slice("web", _ENDPOINTS)])
    return netns


def _connect(netns: Namespace) -> None:
    """One connection to the Service, which its endpoint refuses."""

    def call() -> None:
        with socket.socket() as client:
            client.settimeout(5)
            assert client.connect_ex(_FRONTEND) != 0

    netns.call(call)


def _watch(netns: Namespace, *arguments: str) -> list[str]:
    watch = ["status", "--netns", str(netns), "--watch", "0.2", *arguments]
    return [sys.executable, "-m", "netplane", *watch]


def _documents(netns: Namespace, process: subprocess.Popen[str]) -> Iterator[dict[str, object]]:
    """What a watching process prints while connections are made."""
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)
        for _ in range(10):
            _connect(netns)


def test_it_counts_what_came_in_each_interval(served: Namespace) -> None:
    for _ in range(7):
        _connect(served)  # before: in no interval
    argv = _watch(served, "--count", "4", "-o", "json")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        documents = list(_documents(served, process))
    assert process.returncode == 0
    assert len(documents) == 4
    counts = []
    for document in documents:
        (mode,) = msgspec.convert(document["modes"], list[dict[str, object]])
        (frontend,) = msgspec.convert(mode["frontends"], list[dict[str, object]])
        endpoints = msgspec.convert(frontend["endpoints"], list[dict[str, int | str]])
        counts.append(sum(int(endpoint["connections"]) for endpoint in endpoints))
        assert frontend["connections"] in {None, counts[-1]}
    assert counts[0] == 0
    # Those after the last document are in no interval, and a slow machine is late with others.
    assert 0 < sum(counts) <= 30


def test_it_prints_a_table_per_interval(served: Namespace) -> None:
    argv = _watch(served, "--count", "2")
    done = subprocess.run(argv, capture_output=True, check=True, text=True, timeout=_DEADLINE)
    assert done.stdout.count(" 0 new connections in ") == 2
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


def test_on_a_terminal_it_redraws(served: Namespace) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "30"}
    environment.pop("NO_COLOR", None)
    os.set_blocking(ours, False)
    drawn = b""

    def is_all_drawn() -> bool:
        """Read on: the kernel hands over what is written to a terminal in its own time."""
        nonlocal drawn
        with contextlib.suppress(BlockingIOError):
            drawn += os.read(ours, 1 << 16)
        return len(set(re.findall(rb"\S+(?=  \w+: 0 new connections in)", drawn))) == 3

    try:
        argv = _watch(served, "--count", "3")
        with subprocess.Popen(argv, stdout=theirs, env=environment) as process:
            assert process.wait(_DEADLINE) == 0
        eventually(is_all_drawn, last=lambda: drawn)
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"\x1b[1A" in drawn  # the cursor went up, over what had been drawn
    assert b"default/web:http" in drawn


def test_an_interrupt_ends_it_well(served: Namespace) -> None:
    argv = _watch(served, "-o", "json")
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["namespace"] == str(served)
        process.send_signal(signal.SIGINT)
        assert process.wait(_DEADLINE) == 0
        assert process.stderr.read() == ""


def test_a_reader_that_leaves_ends_it(served: Namespace, tmp_path: Path) -> None:
    argv = _watch(served, "-o", "json")
    said = tmp_path / "stderr"
    with (
        said.open("wb") as stderr,
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=stderr) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(_DEADLINE) == 141
    assert said.read_text(encoding="utf-8") == ""
