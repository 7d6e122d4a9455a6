"""The tests' own namespaces: nobody else sees them, and they end with their process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from netplane.apply.netns import Namespace
from tests.support.netns import require

pytestmark = pytest.mark.kernel

CHILD = """
import os
from tests.support.netns import new_netns
with new_netns() as namespace:
    print(namespace.name, os.path.exists(f"/run/netns/{namespace.name}"), inode, flush=True)
    input()
"""


def test_a_fixture_is_a_namespace_of_its_own(netns: Namespace) -> None:
    links = netns.call(lambda: Path("/proc/thread-self/net/dev").read_text(encoding="ascii"))
    assert [line.split(":")[0].strip() for line in links.splitlines()[2:]] == ["lo"]


def test_names_are_private_and_a_kill_leaves_nothing() -> None:
    require()
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    with child:
        assert child.stdout is not None
        name, seen_by_child = child.stdout.readline().split()
        assert seen_by_child == "True"
        assert not Path("/run/netns", name).exists()
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert not Path("/run/netns", name).exists()
