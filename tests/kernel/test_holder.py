"""Two agents on one namespace: the second is refused and told who holds it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from netplane.agent.holder import sole_agent
from netplane.apply.netns import Namespace
from netplane.errors import BusyError
from tests.support.command import run_netplane
from tests.support.manifests import kube_list, service
from tests.support.netns import new_netns

pytestmark = pytest.mark.kernel


def test_the_second_agent_is_told_who_the_first_is(netns: Namespace) -> None:
    with (
        sole_agent(netns),
        pytest.raises(BusyError, match=rf"pid {os.getpid()} \("),
        sole_agent(netns),
    ):
        pytest.fail("two agents hold one namespace")


def test_when_the_first_ends_another_may_begin(netns: Namespace) -> None:
    with sole_agent(netns):
        pass
    with sole_agent(netns):
        pass


@pytest.mark.parametrize("command", ["apply", "cleanup"])
def test_who_writes_beside_an_agent_is_told(
    netns: Namespace, tmp_path: Path, command: str
) -> None:
    argv = [command, "--netns", str(netns)]
    if command == "apply":
        (tmp_path / "web.json").write_bytes(kube_list(service("web")))
        argv += ["-f", str(tmp_path), "--mode", "nftables"]
    with sole_agent(netns):
        beside = run_netplane(*argv)
    alone = run_netplane(*argv)
    assert (beside.status, alone.status) == (0, 0), str(beside)
    assert f"pid {os.getpid()} (" in beside.stderr
    assert "Stop it first" in beside.stderr
    assert "agent" not in alone.stderr


def test_each_namespace_has_its_own(netns: Namespace) -> None:
    with new_netns() as other, sole_agent(netns), sole_agent(other):
        pass
