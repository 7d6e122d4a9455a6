"""The agent as a process on a directory of manifests: it programs, follows, repairs, and ends."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from netplane.apply.netns import Namespace
from tests.support.kernel_state import meaning, ruleset
from tests.support.manifests import endpoint_slice, kube_list, node, service
from tests.support.netns import run_tool

pytestmark = [pytest.mark.kernel, pytest.mark.e2e]

_HEALTH = "127.0.0.1:10256"
_DEADLINE = 15.0  # seconds; the product promises far less, a loaded machine does not


@pytest.fixture(params=["iptables", "nftables"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _write(folder: Path, *endpoints: str) -> None:
    """Make default/web have these endpoints, by a new file in the old one's place."""
    content = kube_list(
        node("node-1", ip="192.0.2.1"),
        service("web", ports=[{"name": "http", "port": 80}]),
        endpoint_slice("web", endpoints),
    )
    fresh = folder / "state.json.new"
    fresh.write_bytes(content)
    fresh.rename(folder / "state.json")


@contextlib.contextmanager
def _agent(netns: Namespace, folder: Path, mode: str) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-m", "netplane", "agent", "-f", str(folder), "--mode", mode]
    argv += ["--netns", str(netns.name), "--node", "node-1", "--healthz-bind-address", _HEALTH]
    argv += ["--metrics-bind-address", "", "-v"]
    said = folder / "said.log"
    with said.open("w") as stderr, subprocess.Popen(argv, stderr=stderr) as agent:
        try:
            yield agent
        finally:
            agent.send_signal(signal.SIGTERM)
            agent.wait(timeout=_DEADLINE)
            print(said.read_text())


def _eventually(condition: Callable[[], bool]) -> None:
    """Wait for a condition, _DEADLINE seconds at the most."""
    end = time.monotonic() + _DEADLINE
    while not condition():
        assert time.monotonic() < end, "it did not come to pass in time"
        time.sleep(0.05)


def _health(netns: Namespace) -> tuple[int, dict[str, object]]:
    """Status and body of /healthz; 0 while nobody listens."""
    asked = (
        "import sys, urllib.request, urllib.error\n"
        "direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))\n"
        "try:\n"
        f"    answer = direct.open('http://{_HEALTH}/healthz', timeout=2)\n"
        "except urllib.error.HTTPError as error:\n"
        "    answer = error\n"
        "except OSError:\n"
        "    print('0 {}')\n"
        "    sys.exit()\n"
        "print(answer.status, answer.read().decode())\n"
    )
    status, _, body = run_tool([sys.executable, "-c", asked], inside=netns).partition(" ")
    return int(status), json.loads(body)


def test_it_programs_follows_and_repairs(netns: Namespace, tmp_path: Path, mode: str) -> None:
    _write(tmp_path, "10.244.1.7")
    with _agent(netns, tmp_path, mode) as agent:
        _eventually(lambda: "10.244.1.7" in ruleset(netns))
        _eventually(lambda: _health(netns)[0] == 200)
        _write(tmp_path, "10.244.1.8")
        _eventually(lambda: "10.244.1.8" in ruleset(netns) and "10.244.1.7" not in ruleset(netns))
        whole = meaning(netns)
        if mode == "nftables":
            run_tool(["nft", "flush chain ip netplane balance"], inside=netns)
        else:
            run_tool(["iptables", "-t", "nat", "-F", "KUBE-SERVICES"], inside=netns)
        _eventually(lambda: meaning(netns) == whole)
        assert agent.poll() is None
    assert agent.returncode == 0
    assert meaning(netns) == whole, "on exit the rules stay"


def test_a_broken_file_is_told_and_harms_no_other(
    netns: Namespace, tmp_path: Path, mode: str
) -> None:
    _write(tmp_path, "10.244.1.7")
    other = kube_list(service("other", cluster_ips=("172.30.0.77",)))
    (tmp_path / "other.json").write_bytes(other)
    with _agent(netns, tmp_path, mode):
        _eventually(lambda: "172.30.0.77" in ruleset(netns))
        (tmp_path / "other.json").write_text('{"kind": "List", "items": [', encoding="utf-8")
        _eventually(lambda: "other.json" in (tmp_path / "said.log").read_text())
        _write(tmp_path, "10.244.1.9")
        _eventually(lambda: "10.244.1.9" in ruleset(netns))
        assert "172.30.0.77" in ruleset(netns), "what the broken file said before still holds"


def test_a_second_agent_is_refused(netns: Namespace, tmp_path: Path) -> None:
    _write(tmp_path, "10.244.1.7")
    with _agent(netns, tmp_path, "nftables") as first:
        _eventually(lambda: "10.244.1.7" in ruleset(netns))
        argv = [sys.executable, "-m", "netplane", "agent", "-f", str(tmp_path)]
        argv += ["--netns", str(netns.name), "--node", "node-1"]
        second = subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=_DEADLINE
        )
        assert second.returncode == 1
        assert f"pid {first.pid} " in second.stderr


def test_rules_of_an_earlier_life_are_adopted(netns: Namespace, tmp_path: Path, mode: str) -> None:
    _write(tmp_path, "10.244.1.7")
    with _agent(netns, tmp_path, mode):
        _eventually(lambda: "10.244.1.7" in ruleset(netns))
    before = ruleset(netns)
    with _agent(netns, tmp_path, mode):
        _eventually(lambda: _health(netns)[0] == 200)
        assert ruleset(netns) == before
