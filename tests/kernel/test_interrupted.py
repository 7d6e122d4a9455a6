"""SIGKILL in the middle of apply: a stable Service serves on, and the next apply converges.

Most of an apply is reading, so the moments are crowded around its writes. At every other one the
programs that netplane has started die with it, as when a control group is killed; at the rest they
run to their end, on what they were given so far.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

from netplane.apply.nfnetlink.socket import NfnetlinkSocket
from netplane.core.model.service import Protocol
from tests.support.command import run_netplane
from tests.support.flow import Flow, Outcome, Place, Verdict
from tests.support.kernel_state import meaning
from tests.support.manifests import Object, endpoint_slice, kube_list, node, service
from tests.support.scenario import MODES, Mode
from tests.support.topology import Addresses, Topology, new_topology
from tests.support.traffic import Traffic, new_traffic

pytestmark = pytest.mark.kernel


class Moment(NamedTuple):
    """When to kill, and whom.

    Attributes:
        after: From when on: the start, or the first transaction in the kernel.
        share: Of the time from then to the first transaction, or to the end.
        alone: Only netplane itself: what it has started runs to its end.
    """

    after: Literal["start", "write"]
    share: float
    alone: bool

    def __str__(self) -> str:
        return f"{self.after}+{self.share}{'-alone' if self.alone else ''}"


MOMENTS = (
    Moment("start", 0.9, alone=True),
    Moment("start", 0.96, alone=False),
    Moment("write", 0.0, alone=False),
    Moment("write", 0.0, alone=True),
    Moment("write", 0.05, alone=True),
    Moment("write", 0.2, alone=False),
)
MORE_MOMENTS = (
    Moment("start", 0.5, alone=False),
    Moment("start", 0.98, alone=True),
    Moment("write", 0.02, alone=False),
    Moment("write", 0.8, alone=True),
)
SERVICES = 150
NODE = "192.0.2.1"
CLIENT = "10.244.1.99"
ADDRESSES = Addresses(node=(NODE,), pods=("10.244.1.0/24",))
STABLE = "172.30.1.1"
ENDPOINTS = ("10.244.1.7", "10.244.2.7")
GONE_SECONDS = 30
SERVE_SECONDS = 0.02  # between two looks at the service
POLL_SECONDS = 0.0005  # between two looks at the moment


def _cluster(*, changed: bool) -> bytes:
    """A stable Service among many; ``changed``, each of the many has lost or gained something."""
    objects: list[Object] = [
        node("node-1", ip=NODE),
        service("stable", cluster_ips=[STABLE]),
        endpoint_slice("stable", ENDPOINTS),
    ]
    for number in range(SERVICES):
        third = number % 3
        if third == 0 and changed:  # some go, ...
            continue
        name = f"svc-{number}"
        objects.append(service(name, cluster_ips=[f"172.30.2.{number + 1}"]))
        if third == 2 and not changed:  # ... some gain their first endpoints, the rest another
            continue
        hosts = (1, 2, 4) if changed else (1, 2, 3)
        objects.append(endpoint_slice(name, [f"10.244.{host}.{number}" for host in hosts]))
    return kube_list(*objects)


def _arguments(netns: str, mode: Mode, manifest: Path) -> list[str]:
    options = ["--mode", mode, "--node", "node-1", "--cluster-cidr", "10.244.0.0/16"]
    return ["apply", "-f", str(manifest), "--netns", netns, *options]


@contextmanager
def _node(mode: Mode, folder: Path) -> Iterator[tuple[Topology, Path]]:
    """A node with the first state applied, and the file of the second."""
    first, second = folder / "first.json", folder / "second.json"
    first.write_bytes(_cluster(changed=False))
    second.write_bytes(_cluster(changed=True))
    with new_topology(ADDRESSES) as topology:
        _apply(topology, mode, first)
        yield topology, second


def _apply(topology: Topology, mode: Mode, manifest: Path) -> str:
    ran = run_netplane(*_arguments(str(topology.node), mode, manifest))
    assert ran.status == 0, str(ran)
    return ran.stdout


@contextmanager
def _started(topology: Topology, mode: Mode, manifest: Path) -> Iterator[subprocess.Popen[bytes]]:
    """An apply in a process group of its own, which has ended afterwards in any case."""
    command = [sys.executable, "-m", "netplane.cli.main"]
    process = subprocess.Popen(
        [*command, *_arguments(str(topology.node), mode, manifest)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class Measured(NamedTuple):
    """How an undisturbed apply goes.

    Attributes:
        writes: Seconds until the first transaction is in the kernel.
        ends: Seconds until the process ends.
        fresh: What the kernel holds when the same state is applied to an empty one.
    """

    writes: float
    ends: float
    fresh: object


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[Mode, Measured]:
    found: dict[Mode, Measured] = {}
    for mode in MODES:
        with (
            _node(mode, tmp_path_factory.mktemp(mode)) as (topology, second),
            NfnetlinkSocket(topology.node) as nfnetlink,
            _started(topology, mode, second) as process,
        ):
            began = time.monotonic()
            before = nfnetlink.generation()
            while nfnetlink.generation() == before:
                assert process.poll() is None, "ended without writing anything"
            writes = time.monotonic() - began
            assert process.wait(GONE_SECONDS) == 0
            ends = time.monotonic() - began
        with new_topology(ADDRESSES) as topology:
            _apply(topology, mode, second)
            found[mode] = Measured(writes, ends, meaning(topology.node))
    return found


@pytest.mark.parametrize(
    "moment",
    [*MOMENTS, *(pytest.param(m, marks=pytest.mark.soak) for m in MORE_MOMENTS)],
    ids=str,
)
@pytest.mark.parametrize("mode", MODES)
def test_killed_apply(
    mode: Mode, moment: Moment, measured: dict[Mode, Measured], tmp_path: Path
) -> None:
    with (
        _node(mode, tmp_path) as (topology, second),
        new_traffic(topology, [80, 8080]) as traffic,
    ):
        with (
            NfnetlinkSocket(topology.node) as nfnetlink,
            _started(topology, mode, second) as process,
        ):
            _serve_until(_due(moment, measured[mode], nfnetlink), traffic)
            if not moment.alone:
                os.killpg(process.pid, signal.SIGKILL)
        _serve_until(lambda: _is_gone(process.pid), traffic)

        _apply(topology, mode, second)
        _assert_serves(traffic)
        assert meaning(topology.node) == measured[mode].fresh
        assert _apply(topology, mode, second) == "no change\n"


def _due(moment: Moment, measured: Measured, nfnetlink: NfnetlinkSocket) -> Callable[[], bool]:
    """Says when the moment has come."""
    before = nfnetlink.generation()
    after = time.monotonic()
    whole = measured.writes if moment.after == "start" else measured.ends - measured.writes
    waiting = moment.after == "write"

    def due() -> bool:
        nonlocal waiting, after
        if waiting and nfnetlink.generation() != before:
            waiting, after = False, time.monotonic()
        return not waiting and time.monotonic() >= after + whole * moment.share

    return due


def _serve_until(done: Callable[[], bool], traffic: Traffic) -> None:
    """Expect service, again and again, until something is so."""
    deadline = time.monotonic() + GONE_SECONDS
    served = 0.0
    while not done():
        now = time.monotonic()
        assert now < deadline, f"waited {GONE_SECONDS} s in vain"
        if now >= served + SERVE_SECONDS:
            _assert_serves(traffic)
            served = now
        time.sleep(POLL_SECONDS)
    _assert_serves(traffic)


def _assert_serves(traffic: Traffic) -> None:
    flow = Flow(Place.WORLD, Protocol.TCP, CLIENT, STABLE, 80, patience=5)
    expected = {Outcome(Verdict.ACCEPT, f"{address}:8080", CLIENT) for address in ENDPOINTS}
    assert set(traffic.send([flow] * 2)) <= expected


def _is_gone(group: int) -> bool:
    """Whether nothing of a process group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False
