"""Random clusters, one after the other over the same kernel state, judged by a second opinion."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.conformance.runner import options_of
from tests.support.command import apply_objects
from tests.support.judge import judge
from tests.support.manifests import Object, clusters
from tests.support.netns import require
from tests.support.scenario import MODES, Extra, Mode, NodeUnderTest, Packet, has_affinity
from tests.support.second_opinion import Caller, frontends, opinion
from tests.support.topology import Addresses, new_topology
from tests.support.traffic import new_traffic

pytestmark = pytest.mark.kernel

NODE = NodeUnderTest(
    name="node-1",
    ip="192.0.2.1",
    podCIDR="10.244.1.0/24",
    extra=Extra(
        ipv6="2001:db8::a",
        podCIDRv6="fd00:244:0:1::/64",
        clusterCIDR="10.244.0.0/16,fd00:244::/56",
        serviceCIDR="172.30.0.0/16,fd00:30::/112",
        nodePortAddresses=("192.0.2.1/32", "2001:db8::a/128"),
    ),
)
ADDRESSES = Addresses(node=NODE.primary_addresses, pods=("10.244.1.0/24", "fd00:244:0:1::/64"))
CALLERS = {
    4: (
        Caller("10.244.1.200", "pod"),
        Caller("10.244.2.200", "external"),
        Caller("203.0.113.5", "external"),
        Caller("203.0.113.205", "external"),
        Caller("192.0.2.1", "node"),
    ),
    6: (
        Caller("fd00:244:0:1::c8", "pod"),
        Caller("fd00:244:0:2::c8", "external"),
        Caller("2001:db8:1::5", "external"),
        Caller("2001:db8:2::5", "external"),
        Caller("2001:db8::a", "node"),
    ),
}
_PACKETS = 30
_states = st.lists(clusters(max_services=3), min_size=2, max_size=3)
_often = settings(
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # shrinking against a kernel takes minutes
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("mode", MODES)
@settings(_often, max_examples=6)
@given(states=_states, seed=st.integers(0, 1 << 30))
def test_random_clusters(mode: Mode, states: list[list[Object]], seed: int) -> None:
    _follow(mode, states, Random(seed))


@pytest.mark.soak
@pytest.mark.parametrize("mode", MODES)
@settings(_often, max_examples=40)
@given(states=_states, seed=st.integers(0, 1 << 30))
def test_many_random_clusters(mode: Mode, states: list[list[Object]], seed: int) -> None:
    _follow(mode, states, Random(seed))


def _follow(mode: Mode, states: list[list[Object]], random: Random) -> None:
    """Apply one state after the other, and send packets to each."""
    require()
    with (
        new_topology(ADDRESSES) as topology,
        new_traffic(topology, {port for state in states for port in _ports(state)}) as traffic,
    ):
        for number, objects in enumerate(states):
            apply_objects(topology.node, mode, objects, *options_of(NODE))
            every = list(_packets(objects, mode))
            packets = random.sample(every, min(_PACKETS, len(every)))
            may_stick = partial(has_affinity, objects=objects)
            wrong, _ = judge(traffic, NODE, packets, may_stick)
            assert not wrong, f"state {number}:\n" + "\n".join(wrong)


def _packets(objects: list[Object], mode: Mode) -> Iterator[Packet]:
    for front in frontends(objects, NODE):
        version = 6 if ":" in front.address else 4
        here = (Caller(address, "pod") for address in _endpoints_here(objects, version))
        for caller in (*CALLERS[version], *here):
            packet = opinion(objects, NODE, caller, front, mode)
            if packet is not None:
                yield packet


def _endpoints_here(objects: list[Object], version: int) -> list[str]:
    """Addresses of endpoints on this node: callers that may meet themselves."""
    return sorted(
        {
            endpoint["addresses"][0]
            for item in objects
            if item["kind"] == "EndpointSlice" and item["addressType"] == f"IPv{version}"
            for endpoint in item["endpoints"]
            if endpoint["nodeName"] == NODE.name
        }
    )


def _ports(objects: list[Object]) -> Iterator[int]:
    for item in objects:
        for port in (*item["spec"].get("ports", ()),) if item["kind"] == "Service" else ():
            yield from filter(None, (port["port"], port.get("nodePort")))
        for port in item["ports"] if item["kind"] == "EndpointSlice" else ():
            yield port["port"]
