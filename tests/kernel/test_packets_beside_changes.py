"""Packets by the hundred thousand while a Service changes: each is translated, whenever it comes.

A packet looks into one set after the other, and a commit may fall between two looks. One packet
for an address that always has endpoints and is not led to one would be refused.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from typing import Any

import pytest

from netplane.apply.netns import Namespace
from netplane.apply.nftables.engine import NftablesEngine
from netplane.core.model.address import Family
from netplane.core.model.snapshot import Snapshot
from netplane.core.plan.node import FamilyView, NodeView
from tests.support.manifests import endpoint_slice, service
from tests.support.netns import ip, run_tool
from tests.support.snapshots import difference, snapshot_of

pytestmark = pytest.mark.kernel

NODE = NodeView(name="node-1", families=tuple(FamilyView(family=f) for f in Family))
ADDRESS = "172.30.0.10"
PORTS = ({"name": "dns", "port": 53, "protocol": "UDP"},)
SECONDS = 3.0
#: Between DNAT (-100) and the chains that refuse (0).
WATCH = (
    f"table ip watch {{ chain c {{ type filter hook output priority -50; ip daddr {ADDRESS} "
    "counter; ip daddr 10.244.1.0/24 counter; }; }"
)
SENDER = f"""
import socket, time
until = time.monotonic() + {SECONDS}
while time.monotonic() < until:
    for _ in range(100):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            try:
                client.sendto(b"?", ("{ADDRESS}", 53))
            except OSError:  # refused: that it came there is counted
                pass
"""


@pytest.fixture
def node(netns: Namespace) -> Namespace:
    """A node whose packets to endpoints go nowhere, which is as good."""
    lines = ["link add out0 type veth peer name out1", "link set out1 up", "link set out0 up"]
    lines += ["addr add 192.0.2.1/24 dev out0", "route add default via 192.0.2.2"]
    lines += ["neigh add 192.0.2.2 lladdr 02:00:00:00:00:01 dev out0"]
    ip("-n", str(netns), batch=lines)
    run_tool(["sysctl", "-qw", "net.netfilter.nf_conntrack_udp_timeout=1"], inside=netns)
    run_tool(["nft", WATCH], inside=netns)
    return netns


def _dns(endpoints: int, **more: Any) -> Snapshot:
    hosts = [f"10.244.1.{host}" for host in range(1, endpoints + 1)]
    return snapshot_of(
        service("dns", cluster_ips=[ADDRESS], ports=PORTS, **more),
        endpoint_slice("dns", hosts, ports=PORTS),
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(_dns(6), _dns(1), id="fewer and more"),
        pytest.param(_dns(2), _dns(24), id="chains that come and go"),
        pytest.param(_dns(6), _dns(6, sessionAffinity="ClientIP"), id="affinity"),
    ],
)
def test_no_packet_sees_half_a_change(node: Namespace, one: Snapshot, other: Snapshot) -> None:
    there, back = difference(one, other), difference(other, one)
    with NftablesEngine(node, NODE) as engine:
        engine.sync(one)
        with node.call(lambda: subprocess.Popen([sys.executable, "-c", SENDER])) as sender:
            changes = 0
            deadline = time.monotonic() + 10 * SECONDS
            while sender.poll() is None and time.monotonic() < deadline:
                engine.change(*there)
                engine.change(*back)
                changes += 2
            sender.kill()
    listed = run_tool(["nft", "list", "table", "ip", "watch"], inside=node)
    missed, led = map(int, re.findall(r"packets (\d+)", listed))
    print(f"{changes} changes, {led} packets")
    assert changes > 10
    assert led > 1000
    assert missed == 0, f"{missed} of {led} packets found no endpoint in {changes} changes"
