"""First-packet latency: what a TCP connect costs through rules, and through none."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence
from contextlib import ExitStack

from bench.contestants import CONTESTANTS, Workspace, load
from bench.namespaces import settle
from bench.results import Connects
from bench.runner import Launcher
from bench.states import PORT, SERVICE_CIDR, TARGET_PORT, Shape, service_at
from bench.topology import Topology, fresh_topology

NO_RULES = "no rules at all"
#: What tracking connections costs by itself: a node does that once any rule asks for it.
TRACKED = "no rules, connections tracked"
#: The least that translating a connection costs, whoever asks for it: connection tracking and NAT.
ONE_RULE = "one dnat rule, one endpoint"
_TRACK = "table ip t { chain c { type filter hook forward priority 0; ct state new accept ; } ; }"
_ENDPOINTS = 5
_WARM_UP = 50
_STRIDE = 7_919  # meets every Service of a state once before any twice
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER, 0 s: no TIME_WAIT to run out of ports


def measure(
    services: int, keys: Sequence[str], count: int, workspace: Workspace
) -> list[Connects]:
    """Connect through the rules of each contestant and through a node without rules, in turn.

    Where nothing is translated a connection goes straight to an endpoint, else to a ClusterIP.

    Args:
        services: In the state the contestants load.
        keys: The contestants.
        count: How many connections each.
        workspace: Has the files.

    Raises:
        FailedError: A contestant did not load the state.
    """
    shape = Shape(services, _ENDPOINTS)
    with ExitStack() as stack:
        topologies = {NO_RULES: stack.enter_context(fresh_topology())}
        for key, text in ((TRACKED, _TRACK), (ONE_RULE, _one_rule(shape))):
            topologies[key] = stack.enter_context(fresh_topology())
            with Launcher(topologies[key].node) as inside:
                inside.run(["nft", text])
        for key in keys:
            topologies[key] = stack.enter_context(fresh_topology())
            with Launcher(topologies[key].node) as inside:
                load(CONTESTANTS[key], shape, workspace, topologies[key].node, inside)
        settle()
        seconds: dict[str, list[float]] = {key: [] for key in topologies}
        for turn in range(_WARM_UP + count):
            service = service_at(shape, turn * _STRIDE % services)
            for key, topology in topologies.items():
                direct = key in {NO_RULES, TRACKED}
                target = (service.pods[0].address, TARGET_PORT)
                frontend = target if direct else (service.cluster_ip, PORT)
                seconds[key].append(_connect(topology, frontend))
    return [
        Connects(contestant=key, services=services, seconds=values[_WARM_UP:])
        for key, values in seconds.items()
    ]


def _one_rule(shape: Shape) -> str:
    """For nft: every ClusterIP leads to the first endpoint of all."""
    endpoint = service_at(shape, 0).pods[0].address
    rule = f"ip daddr {SERVICE_CIDR} tcp dport {PORT} dnat to {endpoint}:{TARGET_PORT}"
    chain = f"chain in {{ type nat hook prerouting priority -100; {rule} ; }}"
    return f"table ip one {{ {chain} ; }}"


def _connect(topology: Topology, frontend: tuple[str, int]) -> float:
    """Seconds from the SYN to the SYN-ACK; the kernel answers before the server accepts."""

    def connect() -> float:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            begin = time.perf_counter()
            client.connect(frontend)
            return time.perf_counter() - begin

    seconds = topology.client.call(connect)
    topology.listener.accept()[0].close()
    return seconds
