"""What a running agent says of each Service: programmed, in part, refused, or pending and why."""

from __future__ import annotations

import functools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from netplane.apply.netns import Namespace
from tests.support.agent_process import AgentProcess, running_agent
from tests.support.command import apply_objects, run_netplane
from tests.support.kernel_state import ruleset
from tests.support.manifests import Object, endpoint_slice, kube_list, node, service
from tests.support.netns import run_tool
from tests.support.owned_table import owned_table

pytestmark = [pytest.mark.kernel, pytest.mark.e2e]

_NAME = b"\0netplane-agent"  # as of netplane.agent.holder
_NOBODY = 65534


@pytest.fixture(params=["iptables", "nftables"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _write(folder: Path, *objects: Object) -> None:
    content = kube_list(node("node-1", ip="192.0.2.1"), *objects)
    fresh = folder / "state.json.new"
    fresh.write_bytes(content)
    fresh.rename(folder / "state.json")


def _states(netns: Namespace) -> dict[str, str]:
    return {s["name"]: s["state"] for s in _agent_of(netns)["services"]}


def _agent_of(netns: Namespace) -> dict[str, Any]:
    ran = run_netplane("status", "--netns", str(netns), "-o", "json")
    assert ran.status == 0, str(ran)
    agent = ran.document()["agent"]
    assert isinstance(agent, dict)
    return agent


def _options(folder: Path, mode: str) -> list[str]:
    return ["-f", str(folder), "--mode", mode, "--sync-period", "1s", "-v"]


_GOOD = (service("web"), endpoint_slice("web"))
_BAD = service("bad", cluster_ips=("172.30.0.256",))
_SECOND = service(
    "second", cluster_ips=("172.30.0.10", "fd00:30::2"), created="2026-02-01T00:00:00Z"
)
_PARTS = (
    service("parts", cluster_ips=("172.30.0.11",)),
    endpoint_slice("parts", ["10.244.1.7", "127.0.0.1"]),
)

_LATE = (service("late", cluster_ips=("172.30.0.12",)), endpoint_slice("late"))


def test_each_state_is_told(netns: Namespace, tmp_path: Path, mode: str) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    _write(folder, *_GOOD, _BAD, _SECOND, *_PARTS)
    with running_agent(netns, tmp_path / "said.log", *_options(folder, mode)) as agent:
        agent.until(lambda: agent.healthy)
        assert _states(netns) == {
            "web": "programmed",
            "bad": "refused",
            "second": "partly programmed",
            "parts": "partly programmed",
        }
        told = _agent_of(netns)
        assert (told["pid"], told["mode"], told["node"]) == (agent.pid, mode, "node-1")
        assert told["healthy"] is True
        assert told["in_sync"] is True
        assert told["fault"] == ""
        text = run_netplane("status", "--netns", str(netns)).stdout
        for words in (
            "default/bad: refused",
            "172.30.0.256",
            "endpoints[1].addresses[0]",
            "healthy",
        ):
            assert words in text
        assert "default/web: " not in text, "what is well is told with -v only"
        assert (
            "default/web: programmed" in run_netplane("status", "--netns", str(netns), "-v").stdout
        )
        _write(folder, *_GOOD)
        agent.until(lambda: _states(netns) == {"web": "programmed"})
        assert _agent_of(netns)["problems"] == []


def test_what_cannot_be_written_is_pending_and_told_why(
    netns: Namespace, tmp_path: Path, mode: str
) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    _write(folder, *_GOOD)
    with running_agent(netns, tmp_path / "said.log", *_options(folder, mode)) as agent:
        agent.until(lambda: agent.healthy)
        with owned_table(netns, mode):
            _write(folder, *_GOOD, *_LATE)
            agent.until(lambda: _states(netns).get("late") == "pending")
            agent.until(lambda: not agent.healthy)
            _is_told_why(agent)
            metrics = agent.metrics()
            assert metrics["kubeproxy_sync_proxy_rules_service_changes_pending"] >= 1
        agent.until(lambda: agent.healthy)
        assert _states(netns) == {"web": "programmed", "late": "programmed"}
        assert "172.30.0.12" in ruleset(netns)
        metrics = agent.metrics()
        assert metrics["kubeproxy_sync_proxy_rules_service_changes_pending"] == 0


def _is_told_why(agent: AgentProcess) -> None:
    reasons = _agent_of(agent.namespace)["reasons"]
    assert any("changes wait since" in reason for reason in reasons), reasons
    assert any("permitted" in reason.lower() or "EPERM" in reason for reason in reasons), reasons
    text = run_netplane("status", "--netns", str(agent.namespace)).stdout
    assert "not healthy" in text
    assert "default/late: pending" in text
    assert json.loads(agent.get("/healthz?verbose").body)["reasons"]


def test_the_xtables_lock_of_somebody_else_is_waited_for(netns: Namespace, tmp_path: Path) -> None:
    """iptables-legacy alone takes it, and a whole host has one; so each test has its own file."""
    folder = tmp_path / "manifests"
    folder.mkdir()
    _write(folder, *_GOOD)
    lock = tmp_path / "xtables.lock"
    environment = {
        "XTABLES_LOCKFILE": str(lock),
        "PATH": f"{_legacy(tmp_path)}:{os.environ['PATH']}",
    }
    options = _options(folder, "iptables")
    said = tmp_path / "said.log"
    with running_agent(netns, said, *options, environment=environment) as agent:
        agent.until(lambda: agent.healthy)
        holding = [sys.executable, "-c", _HOLD, str(lock)]
        with subprocess.Popen(holding, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            _write(folder, *_GOOD, *_LATE)
            agent.until(lambda: _states(netns).get("late") == "pending")
            holder.communicate()
        agent.until(lambda: _states(netns).get("late") == "programmed")


_HOLD = """
import fcntl, sys
with open(sys.argv[1], "w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""


def _legacy(folder: Path) -> Path:
    """A directory in which plain iptables is iptables-legacy."""
    programs = folder / "bin"
    programs.mkdir()
    for family in ("iptables", "ip6tables"):
        for verb in ("", "-save", "-restore"):
            found = Path("/usr/sbin") / f"{family}-legacy{verb}"
            if not found.exists():
                pytest.skip(f"{found.name} is not installed")
            (programs / f"{family}{verb}").symlink_to(found)
    return programs


def test_an_agent_that_does_not_answer_is_an_error_and_hides_nothing(netns: Namespace) -> None:
    apply_objects(netns, "nftables", _GOOD)
    with netns.call(functools.partial(socket.socket, socket.AF_UNIX)) as held:
        netns.call(lambda: held.bind(_NAME))
        held.listen(8)
        ran = run_netplane("status", "--netns", str(netns), "-o", "json")
    assert ran.status == 1
    assert f"the agent, pid {os.getpid()}, does not answer" in ran.stderr
    document = ran.document()
    assert document["agent"] is None
    assert [frontend["label"] for frontend in document["modes"][0]["frontends"]] == [
        "default/web:http"
    ]


def test_an_agent_of_another_kind_is_an_error(netns: Namespace) -> None:
    with netns.call(functools.partial(socket.socket, socket.AF_UNIX)) as held:
        netns.call(lambda: held.bind(_NAME))
        held.listen(8)
        saying = (
            "import socket\n"
            "s = socket.socket(fileno=0); c, _ = s.accept(); c.send(b'[1, 2'); c.close()\n"
        )
        with subprocess.Popen([sys.executable, "-c", saying], stdin=held.fileno()) as other:
            ran = run_netplane("status", "--netns", str(netns), "-o", "json")
            other.wait(timeout=10)
    assert ran.status == 1
    assert "does not answer" in ran.stderr


def test_another_user_is_told_nothing(netns: Namespace, tmp_path: Path) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    _write(folder, *_GOOD)
    asking = (
        "import os, socket\n"
        f"os.setuid({_NOBODY})\n"
        "s = socket.socket(socket.AF_UNIX); s.settimeout(10)\n"
        f"s.connect({_NAME!r})\n"
        "print(len(s.recv(65536)))\n"
    )
    with running_agent(netns, tmp_path / "said.log", *_options(folder, "nftables")) as agent:
        agent.until(lambda: agent.healthy)
        assert run_tool([sys.executable, "-c", asking], inside=netns) == "0\n"
        whole = asking.replace(f"os.setuid({_NOBODY})\n", "")
        assert int(run_tool([sys.executable, "-c", whole], inside=netns)) > 100
