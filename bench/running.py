"""What a loaded table costs from then on: one endpoint changes, and nothing changes."""

from __future__ import annotations

from pathlib import Path

from bench.contestants import Workspace, fill, netplane
from bench.peers_nft import delta
from bench.results import Changes
from bench.runner import Launcher, Samples
from bench.states import Shape, service_at, with_replaced_pod

#: Services that change, spread over the state by a step that meets every one of them.
_STRIDE = 7_919

IDLE_NETPLANE = "netplane apply, nothing to do"
IDLE_LISTING = "nft -j list table ip netplane"


def kube_changes(shape: Shape, count: int, inside: Launcher, workspace: Path) -> Changes:
    """Send kube-proxy's delta to kube-proxy's table again and again, each by ``nft -f -``."""
    path = workspace / "delta"
    seconds = []
    for turn in range(count):
        service = service_at(shape, turn * _STRIDE % shape.services)
        path.write_text(delta(with_replaced_pod(service, turn)))
        seconds.append(inside.run(["nft", "-f", "-"], stdin=path).seconds)
    return Changes(services=shape.services, endpoints=shape.endpoints, seconds=seconds)


def idle(
    shape: Shape, rounds: int, workspace: Workspace, netns: str, inside: Launcher
) -> dict[str, Samples]:
    """Apply what is there already, and list the same table, in turn."""
    again = fill(
        netplane("apply", "nftables", "--netns", netns), workspace.file("state", shape), netns
    )
    found = {IDLE_NETPLANE: Samples(), IDLE_LISTING: Samples()}
    with Launcher() as outside:
        for _ in range(rounds):
            found[IDLE_NETPLANE].runs.append(outside.run(again))
            found[IDLE_LISTING].runs.append(
                inside.run(["nft", "-j", "list", "table", "ip", "netplane"])
            )
    return found
