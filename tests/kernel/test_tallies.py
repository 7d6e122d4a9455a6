"""Connections per Service, counted by the kernel, and read only as often as that is worth."""

from __future__ import annotations

import asyncio
import socket

import pytest

from netplane.agent.clocks import Clocks
from netplane.agent.telling.logs import Journal
from netplane.agent.telling.metrics import Metrics
from netplane.agent.telling.tallies import PAUSE, SHARE, Tallies
from netplane.apply.netns import Namespace
from netplane.apply.tallies import new_connections
from netplane.config import Mode
from netplane.core.model.service import ServiceName
from tests.support.command import apply_objects
from tests.support.manifests import endpoint_slice, node, service
from tests.support.netns import ip

pytestmark = pytest.mark.kernel

_WEB, _TWIN = ServiceName("default", "web"), ServiceName("default", "twin")
_NAME = "netplane_service_new_connections_total"


@pytest.fixture(params=["iptables", "nftables"])
def mode(request: pytest.FixtureRequest) -> Mode:
    return "iptables" if request.param == "iptables" else "nftables"


@pytest.fixture
def served(netns: Namespace, mode: Mode) -> Namespace:
    """A namespace with two Services whose endpoint is its own; nobody listens there."""
    lines = ["addr add 10.244.1.7/32 dev lo", "link add out0 type veth peer name out1"]
    lines += ["link set out1 up", "addr add 192.0.2.1/24 dev out0", "link set out0 up"]
    ip("-n", str(netns), batch=[*lines, "route add 172.30.0.0/16 dev out0"])
    objects = [node("node-1", ip="192.0.2.1")]
    for name, address in (("web", "172.30.0.10"), ("twin", "172.30.0.11")):
        ports = [{"name": "http", "port": 80}, {"name": "more", "port": 81, "nodePort": 0}]
        objects += [service(name, cluster_ips=[address], ports=ports)]
        targets = [{"name": "http", "port": 8080}, {"name": "more", "port": 8081}]
        objects += [endpoint_slice(name, ports=targets)]
    apply_objects(netns, mode, objects, "--node", "node-1")
    return netns


def _connect(netns: Namespace, address: str, port: int) -> None:
    """A first packet; that it is answered by a reset makes no difference."""
    with netns.call(socket.socket) as client:
        client.settimeout(5)
        with pytest.raises(ConnectionRefusedError):
            client.connect((address, port))


def test_all_frontends_of_a_service_count_together(served: Namespace, mode: Mode) -> None:
    assert new_connections(mode, served) == {_WEB: 0, _TWIN: 0}
    for port in (80, 80, 81):
        _connect(served, "172.30.0.10", port)
    _connect(served, "172.30.0.11", 80)
    assert new_connections(mode, served) == {_WEB: 3, _TWIN: 1}


def test_a_namespace_without_rules_has_none(netns: Namespace, mode: Mode) -> None:
    assert new_connections(mode, netns) == {}


def test_they_are_read_on_demand_and_seldom(served: Namespace, mode: Mode) -> None:
    now = [1000.0]
    said: list[str] = []

    async def story() -> None:
        with _tallies(1) as tallies:
            assert value() is None, "nobody has asked"
            _connect(served, "172.30.0.10", 80)
            await tallies.refresh()
            assert value() == 1
            assert value("twin") is None, "the busiest alone"
            _connect(served, "172.30.0.10", 80)
            now[0] += PAUSE - 1
            await asyncio.gather(*(tallies.refresh() for _ in range(5)))
            assert value() == 1, "that was read a moment ago"
            now[0] += 1
            await asyncio.gather(*(tallies.refresh() for _ in range(5)))
            assert value() == 2
            tallies._took = PAUSE * SHARE * 2
            _connect(served, "172.30.0.10", 80)
            now[0] += PAUSE
            await tallies.refresh()
            assert value() == 2, "what takes long is done less often"
            now[0] += PAUSE
            await tallies.refresh()
            assert value() == 3

    def _tallies(limit: int) -> Tallies:
        clocks = Clocks(lambda: now[0], lambda: now[0])
        journal = Journal(said.append, clocks)
        return Tallies(mode, served.name, metrics, clocks=clocks, journal=journal, limit=limit)

    def value(name: str = "web") -> float | None:
        labels = {"namespace": "default", "service": name}
        return metrics.registry.get_sample_value(_NAME, labels)

    metrics = Metrics(mode, watch_age=lambda: 0.0, top_services=1)
    asyncio.run(story())

    async def nothing() -> None:
        with _tallies(0) as tallies:
            await tallies.refresh()
            assert tallies._read_at is None, "0 reads no counter"

    asyncio.run(nothing())
    assert said == []
