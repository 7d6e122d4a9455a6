"""The judge passes what is right, and names what is wrong: with rules written by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.support.judge import Kept, judge
from tests.support.netns import run_tool
from tests.support.scenario import NodeUnderTest, Packet
from tests.support.topology import Addresses, new_topology
from tests.support.traffic import Traffic, new_traffic

pytestmark = pytest.mark.kernel

NODE = NodeUnderTest(name="node-1", ip="192.0.2.1", podCIDR="10.244.1.0/24")
CLIENT = "10.244.1.9"

# Services by port: 80 spreads over two, 81 masquerades as well, 82 sends nine of ten to one
# endpoint, 83 refuses, 84 drops, 85 has one endpoint, 86 remembers the client.
RULES = """
table ip kit {
  set first { type ipv4_addr; flags dynamic; timeout 1m; }
  set second { type ipv4_addr; flags dynamic; timeout 1m; }
  chain to-first { meta l4proto tcp update @first { ip saddr } dnat to 10.244.2.7:8080; }
  chain to-second { meta l4proto tcp update @second { ip saddr } dnat to 10.244.2.8:8080; }
  chain to-endpoint {
    type nat hook prerouting priority dstnat
    tcp dport 81 meta mark set 81
    tcp dport { 80, 81 } dnat to numgen random mod 2 map { 0: 10.244.2.7, 1: 10.244.2.8 }:8080
    tcp dport 82 dnat to numgen random mod 10 map { 0: 10.244.2.7, 1-9: 10.244.2.8 }:8080
    tcp dport 85 dnat to 10.244.2.7:8080
    tcp dport 86 ip saddr @first goto to-first
    tcp dport 86 ip saddr @second goto to-second
    tcp dport 86 numgen random mod 2 vmap { 0: goto to-first, 1: goto to-second }
  }
  chain from-node {
    type nat hook postrouting priority srcnat
    meta mark 81 masquerade
  }
  chain refuse {
    type filter hook forward priority 0
    tcp dport 83 reject
    tcp dport 84 drop
  }
}
"""
BOTH = ("10.244.2.7:8080", "10.244.2.8:8080")

RIGHT = {
    "spread": Packet(
        source=CLIENT, via="pod", proto="TCP", dst="172.30.0.10", dport=80, expect="accept",
        endpoints=BOTH,
    ),
    "masqueraded": Packet(
        source=CLIENT, via="pod", proto="TCP", dst="172.30.0.10", dport=81, expect="accept",
        endpoints=BOTH, masquerade=True,
    ),
    "refused": Packet(
        source=CLIENT, via="pod", proto="TCP", dst="172.30.0.10", dport=83, expect="reject"
    ),
    "dropped": Packet(
        source=CLIENT, via="pod", proto="TCP", dst="172.30.0.10", dport=84, expect="drop"
    ),
    "one": Packet(
        source=CLIENT, via="pod", proto="TCP", dst="172.30.0.10", dport=85, expect="accept",
        endpoints=BOTH[:1],
    ),
    "sticky": Packet(
        source=CLIENT, via="pod", proto="TCP", dst="172.30.0.10", dport=86, expect="accept",
        endpoints=BOTH, sticky=True,
    ),
    "untouched": Packet(
        source="203.0.113.5", via="external", proto="TCP", dst="192.0.2.1", dport=30080,
        expect="accept", untouched=True,
    ),
    "tolerated": Packet(
        source=CLIENT, via="pod", proto="TCP", dst="172.30.0.10", dport=85, expect="reject",
        tolerated=BOTH[:1],
    ),
}  # fmt: skip

WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "a stranger answers": ("spread", {"endpoints": BOTH[:1]}, "answered by 10.244.2.8:8080"),
    "an endpoint never seen": (
        "one",
        {"endpoints": BOTH},
        "shares are {'10.244.2.7:8080': 160, '10.244.2.8:8080': 0}",
    ),
    "lopsided": ("spread", {"dport": 82}, "shares are"),
    "masqueraded without need": ("masqueraded", {"masquerade": False}, "which saw 192.0.2.1"),
    "not masqueraded": ("spread", {"masquerade": True}, "which saw 10.244.1.9"),
    "refused, not dropped": ("refused", {"expect": "drop"}, "3 of 3 refused"),
    "dropped, not refused": ("dropped", {"expect": "reject"}, "3 of 3 silence"),
    "answered, not refused": ("one", {"expect": "reject"}, "answered by 10.244.2.7:8080"),
    "rewritten, not untouched": ("one", {"untouched": True}, "answered by 10.244.2.7:8080"),
    "refused, not untouched": ("refused", {"expect": "accept", "untouched": True}, "refused"),
    "wandering": ("sticky", {"dport": 80}, "one client was sent to"),
}


_DRAWS = 6


@pytest.fixture(scope="module")
def traffic() -> Iterator[Traffic]:
    with new_topology(Addresses(node=(NODE.ip,), pods=(NODE.podCIDR,))) as topology:
        run_tool(["nft", "-f", "-"], stdin=RULES, inside=topology.node)
        with new_traffic(topology, [*range(80, 87), 8080, 30080]) as traffic:
            yield traffic


def test_what_is_right_passes(traffic: Traffic) -> None:
    wrong, _ = judge(traffic, NODE, list(RIGHT.values()), lambda _: False)
    assert wrong == []


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(traffic: Traffic, case: str) -> None:
    name, changes, complaint = WRONG[case]
    packet = msgspec.structs.replace(RIGHT[name], **changes)
    # What is random may look right once in a while: a few draws of endpoints, not their number,
    # are what a case is about.
    wrong: list[str] = []
    for _ in range(_DRAWS):
        wrong, _ = judge(traffic, NODE, [packet], lambda _: False)
        if wrong:
            break
    assert len(wrong) >= 1
    assert complaint in wrong[0]


def test_flows_of_a_service_with_affinity_need_not_spread(traffic: Traffic) -> None:
    packet = msgspec.structs.replace(RIGHT["sticky"], sticky=False)
    wrong, _ = judge(traffic, NODE, [packet], lambda _: True)
    assert wrong == []


def test_a_client_with_affinity_that_moves_between_steps_is_named(traffic: Traffic) -> None:
    packet = RIGHT["sticky"]
    first, kept = judge(traffic, NODE, [packet], lambda _: True)
    again, _ = judge(traffic, NODE, [packet], lambda _: True, kept)
    assert first == again == []
    ((client, place),) = kept.items()
    other = next(endpoint for endpoint in packet.endpoints if endpoint != place.endpoint)
    wrong, _ = judge(
        traffic, NODE, [packet], lambda _: True, {client: place._replace(endpoint=other)}
    )
    assert "one client was sent to" in wrong[0]
    forgotten = {client: Kept(other, place.seen - 2 * packet.stickySeconds)}
    wrong, _ = judge(traffic, NODE, [packet], lambda _: True, forgotten)
    assert wrong == []
