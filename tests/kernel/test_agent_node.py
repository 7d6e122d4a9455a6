"""What the node is may change while an agent runs: its addresses, its zone, its pods' network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from netplane.core.model.service import Protocol
from tests.support.agent_process import get_inside
from tests.support.directory_agent import DirectoryAgent, new_agent
from tests.support.eventually import eventually
from tests.support.flow import Flow, Outcome, Place, Verdict
from tests.support.manifests import endpoint, endpoint_slice, node, service
from tests.support.netns import ip
from tests.support.scenario import MODES, Mode
from tests.support.topology import UPLINK, Addresses, Topology, new_topology
from tests.support.traffic import Traffic, new_traffic

pytestmark = [pytest.mark.kernel, pytest.mark.e2e]

NODE = "192.0.2.1"
LATER = "198.51.100.5"
CLUSTER_IP, NODE_PORT, CHECK_PORT = "172.30.0.10", 30080, 32000
IN_A, IN_B = "10.244.1.7", "10.244.2.7"
POD, CLIENT = "10.244.1.99", "203.0.113.9"
POD_NETWORK = "10.244.1.0/24"


class Stage(NamedTuple):
    """A node, its agent, and who calls it."""

    topology: Topology
    agent: DirectoryAgent
    traffic: Traffic

    def call(self, source: str, address: str, port: int) -> Outcome:
        """What becomes of a connection from the world."""
        (outcome,) = self.traffic.send([Flow(Place.WORLD, Protocol.TCP, source, address, port)])
        return outcome

    def calls(self, source: str, address: str, port: int) -> set[Outcome]:
        """What becomes of several."""
        flow = Flow(Place.WORLD, Protocol.TCP, source, address, port)
        return set(self.traffic.send([flow] * 12))


@contextmanager
def _stage(mode: Mode, folder: Path, *options: str) -> Iterator[Stage]:
    with (
        new_topology(Addresses(node=(NODE,), pods=(POD_NETWORK,))) as topology,
        new_traffic(topology, [80, 8080]) as traffic,
        new_agent(topology.node, folder, mode, *options) as agent,
    ):
        agent.write(
            "web",
            service(
                "web",
                type="LoadBalancer",
                cluster_ips=[CLUSTER_IP],
                ports=[{"name": "http", "port": 80, "nodePort": NODE_PORT}],
                externalTrafficPolicy="Local",
                healthCheckNodePort=CHECK_PORT,
            ),
            endpoint_slice(
                "web",
                [
                    endpoint(IN_A, node="node-1", zone="zone-a", zones=["zone-a"]),
                    endpoint(IN_B, node="node-2", zone="zone-b", zones=["zone-b"]),
                ],
            ),
        )
        yield Stage(topology, agent, traffic)
        assert agent.is_alive


@pytest.mark.parametrize("mode", MODES)
def test_node_port_addresses_follow_the_node(mode: Mode, tmp_path: Path) -> None:
    network = "198.51.100.0/24"
    with _stage(mode, tmp_path, "--nodeport-addresses", network) as stage:
        netns = stage.topology.node
        stage.agent.write("node", node("node-1", ip=NODE))
        stage.agent.start()
        assert stage.call(CLIENT, NODE, NODE_PORT).verdict is Verdict.REJECT
        assert get_inside(netns, CHECK_PORT, address=NODE).status == 0

        ip("-n", str(netns), "address", "add", f"{LATER}/32", "dev", UPLINK)
        answered = Outcome(Verdict.ACCEPT, f"{IN_A}:8080", CLIENT)
        seconds = eventually(lambda: stage.call(CLIENT, LATER, NODE_PORT) == answered)
        eventually(lambda: get_inside(netns, CHECK_PORT, address=LATER).status == 200)
        print(f"{mode}: NodePorts answered on a new address after {seconds:.2f} s")

        ip("-n", str(netns), "address", "delete", f"{LATER}/32", "dev", UPLINK)
        ip("-n", str(netns), "address", "add", f"{LATER}/32", "dev", "lo", "preferred_lft", "0")
        eventually(lambda: stage.call(CLIENT, LATER, NODE_PORT) == answered)
        ip("-n", str(netns), "address", "delete", f"{LATER}/32", "dev", "lo")
        eventually(lambda: get_inside(netns, CHECK_PORT, address=LATER).status == 0)
        stage.agent.await_health(200)
        assert "are repaired" not in stage.agent.said(), "nobody else has written"


def _is_answered_by(stage: Stage, endpoints: set[str]) -> bool:
    return {outcome.endpoint for outcome in stage.calls(POD, CLUSTER_IP, 80)} == endpoints


@pytest.mark.parametrize("mode", MODES)
def test_hints_follow_the_nodes_zone(mode: Mode, tmp_path: Path) -> None:
    with _stage(mode, tmp_path) as stage:
        stage.agent.write("node", node("node-1", ip=NODE, zone="zone-a"))
        stage.agent.start()
        for zone, near in (("zone-b", IN_B), ("zone-a", IN_A)):
            stage.agent.write("node", node("node-1", ip=NODE, zone=zone))
            wanted = {f"{near}:8080"}
            eventually(partial(_is_answered_by, stage, wanted))
        stage.agent.write("node", node("node-1", ip=NODE))
        both = {f"{IN_A}:8080", f"{IN_B}:8080"}
        eventually(partial(_is_answered_by, stage, both))


@pytest.mark.parametrize("mode", MODES)
def test_the_pods_network_arrives(mode: Mode, tmp_path: Path) -> None:
    """Until it does nobody is known for a pod of this node; then the others are masqueraded."""
    config = tmp_path / "config.yaml"
    config.write_text(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
        "detectLocalMode: NodeCIDR\n",
        encoding="utf-8",
    )
    with _stage(mode, tmp_path, "--config", str(config)) as stage:
        stage.agent.write("node", node("node-1", ip=NODE))
        stage.agent.start()
        assert {o.source for o in stage.calls(CLIENT, CLUSTER_IP, 80)} == {CLIENT}

        stage.agent.write("node", node("node-1", ip=NODE, pod_cidr=POD_NETWORK))
        eventually(lambda: {o.source for o in stage.calls(CLIENT, CLUSTER_IP, 80)} == {NODE})
        assert {o.source for o in stage.calls(POD, CLUSTER_IP, 80)} == {POD}
        stage.agent.await_health(200)
