"""The tests' own namespaces: nobody else sees them, and they end with their process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from netplane.apply.netns import Namespace
from tests.support.netns import ip

pytestmark = pytest.mark.kernel

GONE_SECONDS = 30
CHILD = """
import os, threading
from tests.support.netns import new_netns
with new_netns() as namespace:
    thread = namespace.call(threading.get_native_id)
    print(namespace.name, os.path.exists(f"/run/netns/{namespace.name}"), thread, flush=True)
    input()
"""


def _links(netns: Namespace) -> list[str]:
    listing = netns.call(lambda: Path("/proc/thread-self/net/dev").read_text(encoding="ascii"))
    return [line.split(":")[0].strip() for line in listing.splitlines()[2:]]


def test_a_fixture_is_a_namespace_of_its_own(netns: Namespace) -> None:
    assert _links(netns) == ["lo"]


def test_a_kill_leaves_nothing(netns: Namespace) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    with child:
        assert child.stdout is not None
        name, seen_by_child, thread = child.stdout.readline().split()
        assert seen_by_child == "True"
        assert not Path("/run/netns", name).exists()
        ip("-n", str(netns), "link", "add", "canary", "type", "veth", "peer", "netns", thread)
        assert "canary" in _links(netns)
        child.send_signal(signal.SIGKILL)
    # A veth goes when the namespace of its other end goes.
    deadline = time.monotonic() + GONE_SECONDS
    while "canary" in _links(netns):
        assert time.monotonic() < deadline, f"{name} outlived its process"
        time.sleep(0.01)
