"""Both modes do the same to a packet: random states, random packets, the kernel as the judge.

Left out is what the modes are meant to do differently (the table in the scenarios' README, and the
last row of reference section 3.4): packets to what no Service declares, loopback NodePorts, how a
load balancer's address without endpoints turns strangers away, and what the node itself sends to
an external address without endpoints: iptables mode, like kube-proxy, has no rule for that in
OUTPUT (reference section 1.2, rows 1 and 2).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from netplane.core.model.address import join_host_port
from netplane.core.model.service import Protocol
from tests.support.command import apply_objects
from tests.support.flow import Flow, Outcome, Place, Verdict
from tests.support.manifests import Object, clusters
from tests.support.netns import require
from tests.support.scenario import MODES, Mode
from tests.support.topology import Addresses, new_topology
from tests.support.traffic import new_traffic

pytestmark = pytest.mark.kernel

NODE = ("192.0.2.1", "2001:db8::a")
ADDRESSES = Addresses(node=NODE, pods=("10.244.1.0/24", "fd00:244:0:1::/64"))
OPTIONS = (
    "--node=node-1",
    f"--node-ip={','.join(NODE)}",
    f"--nodeport-addresses={NODE[0]}/32,{NODE[1]}/128",
    "--cluster-cidr=10.244.0.0/16,fd00:244::/56",
    "--service-cidr=172.30.0.0/16,fd00:30::/112",
)
# Pods on this node; outside clients within and without the source ranges that states draw from.
WORLD = {
    4: ("10.244.1.200", "203.0.113.5", "203.0.113.205"),
    6: ("fd00:244:0:1::c8", "2001:db8:1::5", "2001:db8:2::5"),
}
PACKETS = 24
FLOWS = 12
MORE_FLOWS = 300
SILENCE, PATIENCE = 0.4, 3.0  # seconds


class Frontend(NamedTuple):
    """Where a Service is reached.

    Attributes:
        external: It is an external IP or a load balancer's address.
        restricted: It is a load balancer's address with source ranges.
        sticky: The Service has session affinity.
    """

    protocol: Protocol
    address: str
    port: int
    external: bool = False
    restricted: bool = False
    sticky: bool = False


class Seen(NamedTuple):
    """What became of a flow; ``source`` is what the endpoint saw, or "kept"."""

    verdict: str
    endpoint: str = ""
    source: str = ""


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # shrinking against a kernel takes minutes
    suppress_health_check=list(HealthCheck),
)
@given(objects=clusters(max_services=3), random=st.randoms(use_true_random=False))
def test_modes_agree(objects: list[Object], random: Any) -> None:
    require()
    every = [(front, flow) for front in _frontends(objects) for flow in _flows(front, objects)]
    packets = random.sample(every, min(PACKETS, len(every)))
    seen = {mode: _observe(mode, objects, packets, FLOWS, SILENCE) for mode in MODES}
    # Few flows need not have met every endpoint, and a busy machine answers late: where the modes
    # differ, send many more and wait longer.
    doubtful = [
        packet for packet, one, other in zip(packets, *seen.values(), strict=True) if one != other
    ]
    if doubtful:
        one, other = (_observe(mode, objects, doubtful, MORE_FLOWS, PATIENCE) for mode in MODES)
        for (front, flow), left, right in zip(doubtful, one, other, strict=True):
            assert left == right, (
                f"{flow} to {front}: {dict(zip(MODES, (left, right), strict=True))}"
            )


def _observe(
    mode: Mode,
    objects: list[Object],
    packets: list[tuple[Frontend, Flow]],
    times: int,
    patience: float,
) -> list[frozenset[Seen]]:
    """What becomes of several flows of each packet, on a fresh kernel."""
    ports = {front.port for front, _ in packets} | {p["port"] for p in _target_ports(objects)}
    with new_topology(ADDRESSES) as topology, new_traffic(topology, ports) as traffic:
        apply_objects(topology.node, mode, objects, *OPTIONS)
        flows = [flow._replace(patience=patience) for _, flow in packets for _ in range(times)]
        outcomes = iter(traffic.send(flows))
        return [
            frozenset(_seen(front, flow, next(outcomes)) for _ in range(times))
            for front, flow in packets
        ]


def _seen(front: Frontend, flow: Flow, outcome: Outcome) -> Seen:
    untouched = outcome.endpoint == join_host_port(flow.destination, flow.port)
    if front.external and flow.place is Place.NODE and (untouched or not outcome.endpoint):
        return Seen("not served")
    if outcome.verdict is not Verdict.ACCEPT:
        return Seen("refused or dropped" if front.restricted else outcome.verdict.value)
    kept = "kept" if outcome.source == flow.source else outcome.source
    # A client with affinity meets one of the endpoints, and nothing says which.
    return Seen("accept", "" if front.sticky else outcome.endpoint, kept)


def _frontends(objects: list[Object]) -> Iterator[Frontend]:
    for item in objects:
        if item["kind"] != "Service":
            continue
        spec, status = item["spec"], item["status"]
        sticky = spec.get("sessionAffinity") == "ClientIP"
        balancer = [i["ip"] for i in status["loadBalancer"].get("ingress", [])]
        for port in spec["ports"]:
            protocol = Protocol[port["protocol"]]
            front = Frontend(protocol, "", port["port"], sticky=sticky)
            for address in spec["clusterIPs"]:
                yield front._replace(address=address)
            for address in spec.get("externalIPs", []):
                yield front._replace(address=address, external=True)
            for address in balancer:
                restricted = bool(spec.get("loadBalancerSourceRanges"))
                yield front._replace(address=address, external=True, restricted=restricted)
            if "nodePort" in port:
                for address in NODE:
                    yield front._replace(address=address, port=port["nodePort"])


def _flows(front: Frontend, objects: list[Object]) -> Iterator[Flow]:
    """Every way to a frontend: from pods, from outside, from the node, from endpoints.

    Not from endpoints where there is affinity: whether one meets itself would be chance.
    """
    version = 6 if ":" in front.address else 4
    endpoints = [] if front.sticky else _endpoints_here(objects, version)
    for source in (*WORLD[version], *endpoints):
        yield Flow(Place.WORLD, front.protocol, source, front.address, front.port)
    own = NODE[version == 6]
    yield Flow(Place.NODE, front.protocol, own, front.address, front.port)


def _endpoints_here(objects: list[Object], version: int) -> list[str]:
    """Addresses of endpoints on this node."""
    return sorted(
        {
            endpoint["addresses"][0]
            for item in objects
            if item["kind"] == "EndpointSlice" and item["addressType"] == f"IPv{version}"
            for endpoint in item["endpoints"]
            if endpoint["nodeName"] == "node-1"
        }
    )


def _target_ports(objects: list[Object]) -> Iterator[dict[str, Any]]:
    for item in objects:
        if item["kind"] == "EndpointSlice":
            yield from item["ports"]
