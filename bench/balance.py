"""Makes sure, before anything is measured, that every contestant's rules really serve.

Whoever loads less than the work would win. Each contestant loads a small state, and connections
to a few of its ClusterIPs must reach all of their endpoints and nobody else.
"""

from __future__ import annotations

from collections.abc import Iterable

from bench.contestants import CONTESTANTS, Workspace, load
from bench.runner import FailedError, Launcher
from bench.states import PORT, Shape, service_at
from bench.topology import Topology, fresh_topology

_SHAPE = Shape(40, 3)
_SINGLE = Shape(40, 1)
_SERVICES = (0, 17, 39)
#: A fair choice among three misses one of them in this many throws once in 10**10 checks.
_CONNECTIONS = 60


def check(keys: Iterable[str], workspace: Workspace) -> dict[str, str]:
    """Check contestants; returns what is wrong, by key, for those that must not take part."""
    faults = {}
    for key in keys:
        for shape in (_SHAPE, _SINGLE):
            try:
                _check_one(key, shape, workspace)
            except (FailedError, OSError) as exc:
                faults[key] = f"does not serve {shape}: {exc}"
                break
    return faults


def _check_one(key: str, shape: Shape, workspace: Workspace) -> None:
    with fresh_topology() as topology, Launcher(topology.node) as inside:
        load(CONTESTANTS[key], shape, workspace, topology.node, inside)
        for index in _SERVICES:
            _check_service(topology, shape, index)


def _check_service(topology: Topology, shape: Shape, index: int) -> None:
    service = service_at(shape, index)
    wanted = {pod.address for pod in service.pods}
    answered = {topology.connect(service.cluster_ip, PORT) for _ in range(_CONNECTIONS)}
    if answered != wanted:
        raise FailedError(
            f"{service.cluster_ip}:{PORT} answers from {sorted(answered)}, not {sorted(wanted)}"
        )
