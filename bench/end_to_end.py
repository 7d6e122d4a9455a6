"""From a change in the cluster to the first connection that its new endpoint answers.

An agent keeps a node, as a process of its own, fed by a directory of manifests or by an API
server. Services change one after the other, fifty a second, each getting all its endpoints anew;
a client connects to those under way in turn, and notes when the answer comes from a new one.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench.results import EndToEnd
from bench.states import (
    CLUSTER_CIDR,
    NODE,
    PORT,
    SERVICE_CIDR,
    BenchService,
    Shape,
    endpoint_slice,
    replaced,
    service_at,
    service_object,
    write_state,
)
from bench.topology import Topology, fresh_topology

DIRECTORY = "a directory"
API_SERVER = "an API server"
SOURCES = (DIRECTORY, API_SERVER)
RATE = 50.0  # changes a second
_STRIDE = 7_919  # meets every Service of a state once before any twice
_READY_SECONDS = 120.0
_CHANGE_SECONDS = 10.0
_SETTLE_SECONDS = 2.0


class _Change(NamedTuple):
    """A change that was made: when (seconds of the monotonic clock), and how to tell it works."""

    at: float
    cluster_ip: str
    addresses: frozenset[str]


def measure(source: str, shape: Shape, count: int, directory: Path) -> EndToEnd:
    """Change so many Services, and return how long each change took to work.

    Args:
        source: One of ``SOURCES``.
        shape: Of the cluster.
        count: How many changes.
        directory: For files of this measurement alone.

    Raises:
        OSError: The agent or the API server does not start, or a change never works.
    """
    services = [service_at(shape, n * _STRIDE % shape.services) for n in range(count)]
    feed = _directory if source == DIRECTORY else _api_server
    with (
        fresh_topology() as topology,
        feed(shape, services, directory) as (words, change),
        _agent(topology.node, words, directory),
    ):
        for service in services[:1]:
            _await(topology, service)
        time.sleep(_SETTLE_SECONDS)
        seconds = _race(topology, services, change)
    return EndToEnd(
        source=source, services=shape.services, endpoints=shape.endpoints, seconds=seconds
    )


def _race(
    topology: Topology,
    services: list[BenchService],
    change: Callable[[BenchService], None],
) -> list[float]:
    """Change at a steady rate in one thread, connect in this one."""
    made: list[_Change] = []
    failure: list[Exception] = []

    def change_all() -> None:
        begin = time.monotonic()
        try:
            for number, service in enumerate(services):
                time.sleep(max(0.0, begin + number / RATE - time.monotonic()))
                fresh = replaced(service, number)
                addresses = frozenset(pod.address for pod in fresh.pods)
                at = time.monotonic()
                change(fresh)
                made.append(_Change(at, service.cluster_ip, addresses))
        except OSError as exc:
            failure.append(exc)

    writer = threading.Thread(target=change_all, name="changes")
    writer.start()
    seconds: list[float] = []
    under_way: list[_Change] = []
    taken = 0
    while len(seconds) < len(services):
        if failure:
            raise failure[0]
        under_way += made[taken:]
        taken += len(made) - taken
        if not under_way:
            time.sleep(0.0005)
        for waiting in under_way[:]:
            if _answers(topology, waiting):
                seconds.append(time.monotonic() - waiting.at)
                under_way.remove(waiting)
            elif time.monotonic() - waiting.at > _CHANGE_SECONDS:
                raise OSError(errno.ETIMEDOUT, f"a change did not work in {_CHANGE_SECONDS} s")
    writer.join()
    return seconds


def _answers(topology: Topology, change: _Change) -> bool:
    return topology.connect(change.cluster_ip, PORT) in change.addresses


def _await(topology: Topology, service: BenchService) -> None:
    """Wait until the agent has programmed the cluster."""
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            topology.connect(service.cluster_ip, PORT)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


@contextmanager
def _agent(netns: str, words: list[str], directory: Path) -> Iterator[None]:
    argv = [sys.executable, "-m", "netplane", "agent", *words, "--mode", "nftables"]
    argv += ["--netns", netns, "--node", NODE, "--cluster-cidr", CLUSTER_CIDR]
    argv += ["--service-cidr", SERVICE_CIDR]
    argv += ["--healthz-bind-address", "", "--metrics-bind-address", ""]
    with (directory / "agent.log").open("wb") as log, _process(argv, log.fileno()):
        yield


@contextmanager
def _process(argv: list[str], stderr: int) -> Iterator[subprocess.Popen[bytes]]:
    root = str(Path(__file__).parent.parent)
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": paths}
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=stderr, env=environment) as done:
        try:
            yield done
        finally:
            done.terminate()
            done.wait(timeout=30)


_Feed = tuple[list[str], Callable[[BenchService], None]]


@contextmanager
def _directory(shape: Shape, services: list[BenchService], directory: Path) -> Iterator[_Feed]:
    """A file of the whole cluster, and one for each Service that changes, which counts more.

    Of two equal objects the one in the later file counts, in the order of names.
    """
    manifests = directory / "manifests"
    manifests.mkdir()
    write_state(shape, manifests / "a-cluster.json")
    for service in services:
        _write(manifests, service)
    yield ["-f", str(manifests)], lambda service: _write(manifests, service)


def _write(manifests: Path, service: BenchService) -> None:
    """Put a new file in the old one's place, as editors and controllers do."""
    document = {
        "apiVersion": "v1",
        "kind": "List",
        "items": [service_object(service), endpoint_slice(service)],
    }
    fresh = manifests / f".{service.name}"
    fresh.write_bytes(msgspec.json.encode(document))
    fresh.rename(manifests / f"b-{service.name}.json")


@contextmanager
def _api_server(shape: Shape, services: list[BenchService], directory: Path) -> Iterator[_Feed]:
    """The tests' API server as a process, told each change by a line."""
    del services
    state = directory / "state.json"
    write_state(shape, state)
    argv = [sys.executable, "-m", "bench.api_process", str(state)]
    with (
        (directory / "api-server.log").open("wb") as log,
        _process(argv, log.fileno()) as server,
    ):
        assert server.stdin is not None
        assert server.stdout is not None
        orders, port = server.stdin, int(server.stdout.readline() or 0)
        kubeconfig = directory / "kubeconfig"
        kubeconfig.write_text(_KUBECONFIG % port, encoding="utf-8")

        def change(service: BenchService) -> None:
            orders.write(msgspec.json.encode(endpoint_slice(service)) + b"\n")
            orders.flush()

        yield ["--kubeconfig", str(kubeconfig)], change


_KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: bench
clusters: [{name: bench, cluster: {server: "http://127.0.0.1:%d"}}]
users: [{name: bench, user: {}}]
contexts: [{name: bench, context: {cluster: bench, user: bench}}]
"""
