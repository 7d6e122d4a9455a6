"""UDP flows to every kind of frontend while an agent runs, in both modes and both families.

A flow goes with its endpoint, whichever frontend its first packet was sent to; it stays while the
endpoint does; and one that began before there was an endpoint goes when the first one comes. The
entries are made by hand, as packets would have made them: the world is left out of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from netplane.apply.conntrack import flows
from netplane.apply.netns import Namespace
from netplane.core.model.address import Family
from tests.support.directory_agent import DirectoryAgent, new_agent
from tests.support.eventually import eventually
from tests.support.manifests import Object, endpoint_slice, node, service
from tests.support.netns import run_tool
from tests.support.scenario import MODES, Mode
from tests.support.topology import Addresses, new_topology

pytestmark = [pytest.mark.kernel, pytest.mark.e2e]

NODE, NODE6 = "192.0.2.1", "2001:db8:192::1"
CLIENT = {Family.IPV4: "198.51.100.9", Family.IPV6: "2001:db8:198::9"}
PORT, NODE_PORT = 53, 30053
PORTS = ({"name": "dns", "port": PORT, "protocol": "UDP", "nodePort": NODE_PORT},)
TARGETS = ({"name": "dns", "port": PORT, "protocol": "UDP"},)
FRONTENDS = {
    Family.IPV4: (
        ("172.30.0.53", PORT),
        ("198.51.100.53", PORT),
        ("203.0.113.53", PORT),
        (NODE, NODE_PORT),
    ),
    Family.IPV6: (
        ("fd00:30::53", PORT),
        ("2001:db8:198::53", PORT),
        ("2001:db8:203::53", PORT),
        (NODE6, NODE_PORT),
    ),
}
ALL = {frontend for frontends in FRONTENDS.values() for frontend in frontends}
SOURCE_PORTS = range(4000, 4004)  # one for each


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> Mode:
    found: Mode = request.param
    return found


@pytest.fixture
def netns() -> Iterator[Namespace]:
    with new_topology(Addresses(node=(NODE, NODE6))) as topology:
        yield topology.node


@pytest.fixture
def agent(netns: Namespace, mode: Mode, tmp_path: Path) -> Iterator[DirectoryAgent]:
    with new_agent(netns, tmp_path, mode, "--node-ip", f"{NODE},{NODE6}") as agent:
        agent.write("node", node("node-1", ip=NODE))
        agent.write("dns", _dns(), *_endpoints(7))
        agent.start()
        yield agent
        assert agent.is_alive


def _dns() -> Object:
    addresses = list(zip(*FRONTENDS.values(), strict=True))
    cluster, external, balanced, _ = [[v4[0], v6[0]] for v4, v6 in addresses]
    found = service(
        "dns", type="LoadBalancer", cluster_ips=cluster, ports=PORTS, externalIPs=external
    )
    found["status"] = {"loadBalancer": {"ingress": [{"ip": address} for address in balanced]}}
    return found


def _endpoint(family: Family, host: int) -> str:
    return f"10.244.1.{host}" if family is Family.IPV4 else f"fd00:244:1::{host}"


def _endpoints(*hosts: int) -> list[Object]:
    return [
        endpoint_slice(
            "dns",
            [_endpoint(family, host) for host in hosts],
            ports=TARGETS,
            family=f"IPv{family.value}",
        )
        for family in Family
    ]


def _flow_to_each(netns: Namespace, host: int | None) -> None:
    """A flow to each frontend, answered by an endpoint or, of None, translated by nobody."""
    for family, frontends in FRONTENDS.items():
        for number, (address, port) in zip(SOURCE_PORTS, frontends, strict=True):
            source = CLIENT[family]
            answers = (address, port) if host is None else (_endpoint(family, host), PORT)
            argv = ["conntrack", "-I", "-p", "udp", "--timeout", "600"]
            argv += ["-s", source, "--sport", f"{number}", "-d", address, "--dport", str(port)]
            argv += ["-r", answers[0], "--reply-port-src", str(answers[1])]
            run_tool([*argv, "-q", source, "--reply-port-dst", f"{number}"], inside=netns)


def _reached(netns: Namespace) -> set[tuple[str, int]]:
    """The frontends that have a flow."""
    found = [flow for family in Family for flow in flows(netns, family)]
    return {(flow.destination, flow.port) for flow in found if flow.source_port in SOURCE_PORTS}


def test_flows_go_with_their_endpoint(netns: Namespace, agent: DirectoryAgent) -> None:
    _flow_to_each(netns, 7)
    agent.write("dns", _dns(), *_endpoints(7, 8))
    eventually(lambda: agent.said().count("rules written") == 2)
    assert _reached(netns) == ALL, "an endpoint more is no reason to end a flow"
    agent.write("dns", _dns(), *_endpoints(8))
    eventually(lambda: not _reached(netns), last=lambda: _reached(netns))


def test_flows_go_with_the_last_endpoint_and_come_with_the_first(
    netns: Namespace, agent: DirectoryAgent
) -> None:
    _flow_to_each(netns, 7)
    agent.write("dns", _dns(), *_endpoints())
    eventually(lambda: not _reached(netns), last=lambda: _reached(netns))
    _flow_to_each(netns, None)
    agent.write("dns", _dns(), *_endpoints(9))
    eventually(lambda: not _reached(netns), last=lambda: _reached(netns))


def test_flows_go_with_their_frontend(netns: Namespace, agent: DirectoryAgent) -> None:
    _flow_to_each(netns, 7)
    plain = service("dns", cluster_ips=["172.30.0.53", "fd00:30::53"], ports=TARGETS)
    agent.write("dns", plain, *_endpoints(7))
    stays = {("172.30.0.53", PORT), ("fd00:30::53", PORT)}
    eventually(lambda: _reached(netns) == stays, last=lambda: _reached(netns))
    agent.remove("dns")
    eventually(lambda: not _reached(netns), last=lambda: _reached(netns))
