"""The agent as a process on a directory of manifests: it programs, follows, repairs, and ends."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from netplane.apply.netns import Namespace
from tests.support.agent_process import HEALTH_PORT
from tests.support.directory_agent import DirectoryAgent, new_agent
from tests.support.eventually import DEADLINE, eventually
from tests.support.kernel_state import meaning, ruleset
from tests.support.manifests import endpoint_slice, node, service
from tests.support.netns import run_tool

pytestmark = [pytest.mark.kernel, pytest.mark.e2e]


@pytest.fixture(params=["iptables", "nftables"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _write(agent: DirectoryAgent, *endpoints: str) -> None:
    """Make default/web have these endpoints, by a new file in the old one's place."""
    agent.write(
        "state",
        node("node-1", ip="192.0.2.1"),
        service("web", ports=[{"name": "http", "port": 80}]),
        endpoint_slice("web", endpoints),
    )


def test_it_programs_follows_and_repairs(netns: Namespace, tmp_path: Path, mode: str) -> None:
    with new_agent(netns, tmp_path, mode) as agent:
        _write(agent, "10.244.1.7")
        agent.start()
        assert "10.244.1.7" in ruleset(netns)
        _write(agent, "10.244.1.8")
        eventually(lambda: "10.244.1.8" in ruleset(netns) and "10.244.1.7" not in ruleset(netns))
        whole = meaning(netns)
        if mode == "nftables":
            run_tool(["nft", "flush chain ip netplane balance"], inside=netns)
        else:
            run_tool(["iptables", "-t", "nat", "-F", "KUBE-SERVICES"], inside=netns)
        eventually(lambda: meaning(netns) == whole)
        assert agent.is_alive
        assert agent.end() == 0
    assert meaning(netns) == whole, "on exit the rules stay"


def test_a_broken_file_is_told_and_harms_no_other(
    netns: Namespace, tmp_path: Path, mode: str
) -> None:
    with new_agent(netns, tmp_path, mode) as agent:
        _write(agent, "10.244.1.7")
        agent.write("other", service("other", cluster_ips=("172.30.0.77",)))
        agent.start()
        assert "172.30.0.77" in ruleset(netns)
        agent.write_raw("other", b'{"kind": "List", "items": [')
        eventually(lambda: "other.json" in agent.said())
        _write(agent, "10.244.1.9")
        eventually(lambda: "10.244.1.9" in ruleset(netns))
        assert "172.30.0.77" in ruleset(netns), "what the broken file said before still holds"


def test_a_second_agent_is_refused(netns: Namespace, tmp_path: Path) -> None:
    with new_agent(netns, tmp_path, "nftables") as first:
        _write(first, "10.244.1.7")
        first.start()
        argv = [sys.executable, "-m", "netplane", "agent", "-f", str(first.manifests)]
        argv += ["--netns", str(netns.name), "--node", "node-1"]
        second = subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=DEADLINE
        )
        assert second.returncode == 1
        assert f"pid {first.pid} " in second.stderr


def test_a_port_that_somebody_has_ends_it_with_a_guess_at_who(
    netns: Namespace, tmp_path: Path
) -> None:
    """Before it has written anything: the one most likely there is a kube-proxy."""
    before = ruleset(netns)
    with (
        contextlib.closing(netns.call(lambda: socket.create_server(("", HEALTH_PORT)))),
        new_agent(netns, tmp_path, "nftables") as agent,
    ):
        _write(agent, "10.244.1.7")
        agent.start(healthy=False)
        eventually(lambda: not agent.is_alive)
        assert "Address already in use; a kube-proxy that goes on?" in agent.said()
    assert ruleset(netns) == before


def test_rules_of_an_earlier_life_are_adopted(netns: Namespace, tmp_path: Path, mode: str) -> None:
    with new_agent(netns, tmp_path, mode) as agent:
        _write(agent, "10.244.1.7")
        agent.start()
        agent.end()
        before = ruleset(netns)
        assert "10.244.1.7" in before
        agent.start()
        assert ruleset(netns) == before
