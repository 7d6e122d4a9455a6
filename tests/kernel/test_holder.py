"""Two agents on one namespace: the second is refused and told who holds it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from netplane.agent.holder import keeper_of, sole_agent
from netplane.apply.netns import Namespace
from netplane.errors import BusyError
from tests.support.command import run_netplane
from tests.support.manifests import kube_list, service
from tests.support.netns import new_netns

pytestmark = pytest.mark.kernel

_NOBODY = 65534


def test_the_second_agent_is_told_who_the_first_is(netns: Namespace) -> None:
    with (
        sole_agent(netns),
        pytest.raises(BusyError, match=rf"pid {os.getpid()} \("),
        sole_agent(netns),
    ):
        pytest.fail("two agents hold one namespace")


def test_who_takes_the_name_and_can_be_no_agent_is_believed_nothing(netns: Namespace) -> None:
    """Anybody may take a name of an abstract socket: also a user who may do nothing else."""
    saying = (
        "import os, socket, sys\n"
        f"os.setuid({_NOBODY})\n"
        "s = socket.socket(socket.AF_UNIX); s.bind('\\0netplane-agent'); s.listen(8)\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
    )
    argv = [sys.executable, "-c", saying]
    pipe = subprocess.PIPE
    with netns.call(lambda: subprocess.Popen(argv, stdin=pipe, stdout=pipe)) as other:
        assert other.stdout is not None
        other.stdout.readline()
        words = rf"pid {other.pid} \(.*\) of user {_NOBODY} has taken the name"
        with pytest.raises(BusyError, match=words), sole_agent(netns):
            pytest.fail("the name was free")
        status = run_netplane("status", "--netns", str(netns))
        assert status.status == 1
        assert re.search(words, status.stderr)
        assert "holds nothing" in status.stdout
        assert keeper_of(netns) == ""
        other.communicate()


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
