"""What the agent may cost: memory that changes do not add to, and next to nothing while idle.

Long, and on a machine with others at work: memory and processor seconds are bounded, times not.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from netplane.apply.netns import Namespace
from tests.support.agent_process import AgentProcess, running_agent
from tests.support.api_server import ApiServer
from tests.support.manifests import Object, endpoint_slice, kube_list, node, service
from tests.support.netns import run_tool

pytestmark = [pytest.mark.kernel, pytest.mark.e2e, pytest.mark.soak]

_EARLY, _LATE = 20_000, 100_000
_SERVICES = 10_000
_MEBIBYTE = 1 << 20
_MOST_MEMORY = 200 * _MEBIBYTE
_WATCHED = 20.0  # seconds
_MOST_IDLE = 0.3 / 60  # processor seconds per second
_START = 240.0  # seconds; with others at work
_FLOOD = 1800.0  # seconds; iptables mode takes some 200 with a machine to itself


@pytest.fixture(params=["nftables", "iptables"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_memory_stays_flat_over_a_hundred_thousand_changes(netns: Namespace, mode: str) -> None:
    marks = [_EARLY, _LATE]
    argv = [sys.executable, "-m", "tests.support.flooded_agent", mode, *map(str, marks)]
    memory = {}
    with netns.call(lambda: subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)) as agent:
        given_up = threading.Timer(_FLOOD, agent.kill)
        given_up.start()
        try:
            assert agent.stdout is not None
            for _ in marks:
                line = agent.stdout.readline()
                assert line, f"it has ended; where by SIGKILL, it was given up after {_FLOOD} s"
                count, size, seconds = line.split()
                memory[int(count)] = int(size)
                print(f"{mode}: {count} changes: {int(size) >> 20} MiB, {seconds} s of processor")
        finally:
            given_up.cancel()
            agent.terminate()
            agent.wait(timeout=60)
    early, late = (memory[mark] for mark in marks)
    assert late <= early * 1.05


def _cluster() -> list[Object]:
    things = [node("node-1", ip="192.0.2.1")]
    for number in range(_SERVICES):
        high, low = divmod(number, 250)
        things.append(service(f"web-{number}", cluster_ips=[f"172.30.{high}.{low + 1}"]))
        ends = [f"10.{host}.{high}.{low + 1}" for host in (240, 241, 242)]
        things.append(endpoint_slice(f"web-{number}", ends))
    return things


@pytest.mark.parametrize("source", ["directory", "api"])
def test_an_idle_agent_is_next_to_nothing(
    netns: Namespace, tmp_path: Path, mode: str, source: str
) -> None:
    # An API server writes a bookmark about once a minute.
    with ApiServer(inside=netns, bookmarks=60.0) as server:
        options = ["--mode", mode]
        if source == "api":
            for thing in _cluster():
                server.store.put(thing)
            options += ["--kubeconfig", str(_kubeconfig(tmp_path, server.url))]
        else:
            (tmp_path / "manifests").mkdir()
            (tmp_path / "manifests" / "state.json").write_bytes(kube_list(*_cluster()))
            options += ["-f", str(tmp_path / "manifests")]
        with running_agent(netns, tmp_path / "said.log", *options) as agent:
            agent.until(lambda: agent.healthy, within=_START)
            started = agent.cpu_seconds()
            idle = _idle_share(agent)
            size = agent.memory()
            print(
                f"{mode}, {source}, {_SERVICES} x 3: started with {started:.1f} s of processor, "
                f"idle {idle * 60:.2f} s a minute, {size >> 20} MiB"
            )
            assert len(_element_lines(netns, mode)) >= _SERVICES
        assert size < _MOST_MEMORY
        assert idle < _MOST_IDLE


def _idle_share(agent: AgentProcess) -> float:
    """Processor seconds per second, of the calmest of a few spans: the machine is shared."""
    time.sleep(3)  # what follows a first pass is no idling
    shares = []
    for _ in range(2):
        before, begin = agent.cpu_seconds(), time.monotonic()
        time.sleep(_WATCHED)
        shares.append((agent.cpu_seconds() - before) / (time.monotonic() - begin))
    return min(shares)


def _element_lines(netns: Namespace, mode: str) -> list[str]:
    """A line, or a part of one, for each Service in the kernel."""
    if mode == "iptables":
        save = run_tool(["iptables-save", "-t", "nat"], inside=netns)
        return [line for line in save.splitlines() if line.startswith("-A KUBE-SERVICES")]
    listing = run_tool(["nft", "-j", "list", "map", "ip", "netplane", "services"], inside=netns)
    return [str(e) for e in json.loads(listing)["nftables"][1]["map"]["elem"]]


def _kubeconfig(folder: Path, url: str) -> Path:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "main",
        "contexts": [{"name": "main", "context": {"cluster": "main", "user": "main"}}],
        "clusters": [{"name": "main", "cluster": {"server": url}}],
        "users": [{"name": "main", "user": {}}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path
