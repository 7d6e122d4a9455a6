"""The agent's servers in a network namespace: health check node ports, health, metrics."""

from __future__ import annotations

import asyncio
import http.client
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

import pytest

from netplane.agent.clocks import Clocks
from netplane.agent.telling.health import Health
from netplane.agent.telling.health_checks import HealthChecks, bind_addresses
from netplane.agent.telling.listening import Place, Server, listen, places, serve
from netplane.agent.telling.metrics import Metrics
from netplane.agent.telling.web import health_port, metrics_port
from netplane.apply.netns import Namespace
from netplane.config import Config
from netplane.core.model.address import Family
from netplane.core.model.service import ServiceName
from netplane.core.plan.node import FamilyView, NodeView
from netplane.core.plan.plan import HealthCheck
from tests.support.netns import ip

pytestmark = pytest.mark.kernel

_ALL = ("0.0.0.0", "::")
_PORT = 30999
_BODY = b"""{
	"service": {
		"namespace": "default",
		"name": "web"
	},
	"localEndpoints": %d,
	"serviceProxyHealthy": %s
}"""


class Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


def _check(count: int = 2, *, port: int = _PORT, name: str = "web") -> HealthCheck:
    return HealthCheck(port, ServiceName("default", name), count)


def _request(place: Place, path: str, method: str, headers: Mapping[str, str]) -> Reply:
    connection = http.client.HTTPConnection(place.address, place.port, timeout=5)
    try:
        connection.request(method, path, headers=dict(headers))
        response = connection.getresponse()
        return Reply(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()


async def _get(
    netns: Namespace, address: str, port: int = _PORT, path: str = "/", method: str = "GET"
) -> Reply:
    """Ask from inside the namespace, while the event loop serves."""
    place = Place(address, port)
    return await asyncio.to_thread(netns.call, lambda: _request(place, path, method, {}))


async def _is_refused(netns: Namespace, address: str, port: int = _PORT) -> bool:
    try:
        await _get(netns, address, port)
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize(
    ("count", "healthy", "status"),
    [(2, True, 200), (0, True, 503), (2, False, 503), (0, False, 503)],
)
def test_the_answer(
    netns: Namespace, address: str, count: int, healthy: bool, status: int
) -> None:
    async def run() -> Reply:
        checks = HealthChecks(netns, healthy=lambda: healthy)
        assert await checks.update([_check(count)], _ALL) == ()
        try:
            return await _get(netns, address)
        finally:
            await checks.close()

    reply = asyncio.run(run())
    assert reply.status == status
    assert reply.body == _BODY % (count, b"true" if healthy else b"false")
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["X-Load-Balancing-Endpoint-Weight"] == str(count)


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/"), ("GET", "/any/path"), ("DELETE", "/x?y=z")]
)
def test_any_method_and_path(netns: Namespace, method: str, path: str) -> None:
    async def run() -> Reply:
        checks = HealthChecks(netns, healthy=lambda: True)
        await checks.update([_check()], _ALL)
        try:
            return await _get(netns, "127.0.0.1", path=path, method=method)
        finally:
            await checks.close()

    assert asyncio.run(run()).status == 200


def test_ports_open_change_hands_and_close(netns: Namespace) -> None:
    async def run() -> None:
        checks = HealthChecks(netns, healthy=lambda: True)
        await checks.update([_check(1)], _ALL)
        await checks.update([_check(7)], _ALL)
        assert (await _get(netns, "127.0.0.1")).body == _BODY % (7, b"true")
        await checks.update([_check(1, name="api"), _check(1, port=31000)], _ALL)
        assert b'"name": "api"' in (await _get(netns, "::1")).body
        assert (await _get(netns, "::1", 31000)).status == 200
        await checks.update([_check(1, port=31000)], _ALL)
        assert await _is_refused(netns, "127.0.0.1")
        assert await _is_refused(netns, "::1")
        await checks.close()
        assert await _is_refused(netns, "127.0.0.1", 31000)

    asyncio.run(run())


def test_the_addresses_that_serve_node_ports_alone(netns: Namespace) -> None:
    ip("-n", str(netns), "address", "add", "192.0.2.1/32", "dev", "lo")
    ip("-n", str(netns), "address", "add", "192.0.2.2/32", "dev", "lo")

    async def run() -> None:
        checks = HealthChecks(netns, healthy=lambda: True)
        await checks.update([_check()], ["192.0.2.1"])
        assert (await _get(netns, "192.0.2.1")).status == 200
        assert await _is_refused(netns, "192.0.2.2")
        await checks.update([_check()], ["192.0.2.2"])
        assert await _is_refused(netns, "192.0.2.1")
        assert (await _get(netns, "192.0.2.2")).status == 200
        await checks.close()

    asyncio.run(run())


def test_a_taken_port_is_a_warning_and_tried_again(netns: Namespace) -> None:
    taken = netns.call(lambda: listen(Place("0.0.0.0", _PORT)))
    assert taken is not None

    async def run() -> None:
        checks = HealthChecks(netns, healthy=lambda: True)
        warnings = await checks.update([_check(), _check(port=31000)], _ALL)
        assert warnings == (
            f"default/web: cannot listen on 0.0.0.0:{_PORT}: Address already in use",
        )
        assert (await _get(netns, "127.0.0.1", 31000)).status == 200
        assert (await _get(netns, "::1")).status == 200
        taken.close()
        assert await checks.update([_check(), _check(port=31000)], _ALL) == ()
        assert (await _get(netns, "127.0.0.1")).status == 200
        await checks.close()

    try:
        asyncio.run(run())
    finally:
        taken.close()


def test_two_services_with_one_port(netns: Namespace) -> None:
    async def run() -> None:
        checks = HealthChecks(netns, healthy=lambda: True)
        warnings = await checks.update([_check(name="web"), _check(name="api")], _ALL)
        assert warnings == (f"default/web: health check node port {_PORT} is default/api's",)
        assert b'"name": "api"' in (await _get(netns, "127.0.0.1")).body
        await checks.close()

    asyncio.run(run())


def test_nothing_listens_outside_the_namespace(netns: Namespace) -> None:
    async def run() -> None:
        checks = HealthChecks(netns, healthy=lambda: True)
        await checks.update([_check()], _ALL)
        assert checks.places == {Place(address, _PORT) for address in _ALL}
        with socket.socket() as outside:
            assert outside.connect_ex(("127.0.0.1", _PORT)) != 0
        await checks.close()
        assert not checks.places

    asyncio.run(run())


def test_where_the_servers_listen() -> None:
    four = FamilyView(family=Family.IPV4, node_port_addresses=("192.0.2.1", "192.0.2.2"))
    six = FamilyView(family=Family.IPV6)
    assert bind_addresses(NodeView(name="n", families=(four, six))) == (
        "192.0.2.1", "192.0.2.2", "::",
    )  # fmt: skip


@contextmanager
def _silent_clients(netns: Namespace, count: int) -> Iterator[list[socket.socket]]:
    """Connections that ask nothing."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                netns.call(lambda: socket.create_connection(("127.0.0.1", _PORT), 5))
            )
            for _ in range(count)
        ]


def test_silent_clients_are_hung_up_on(netns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netplane.agent.telling.listening.LIFETIME", 0.2)

    async def run() -> None:
        checks = HealthChecks(netns, healthy=lambda: True)
        await checks.update([_check()], _ALL)
        with _silent_clients(netns, 10) as clients:
            for client in clients:
                assert await asyncio.to_thread(client.recv, 1) == b""
        await checks.close()

    asyncio.run(run())


def test_the_number_of_clients_is_bounded_and_who_comes_last_is_served(
    netns: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("netplane.agent.telling.listening.MOST_CONNECTIONS", 3)

    async def run() -> None:
        checks = HealthChecks(netns, healthy=lambda: True)
        await checks.update([_check()], _ALL)
        with _silent_clients(netns, 4) as clients:
            with suppress(ConnectionResetError):
                assert await asyncio.to_thread(clients[0].recv, 1) == b""
            for client in clients[1:]:
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                assert await asyncio.to_thread(client.recv, 12) == b"HTTP/1.0 200"
        await checks.close()

    asyncio.run(run())


def _servers(netns: Namespace) -> tuple[Health, Metrics, Config]:
    health = Health(
        families=(Family.IPV4,),
        period=30.0,
        last_heard=lambda: 0.0,
        clocks=Clocks(lambda: 0.0, lambda: 1_800_000_000.0),
    )
    config = Config(mode="nftables", node_name=str(netns))
    return health, Metrics("nftables", watch_age=lambda: 0.0), config


def test_the_health_port(netns: Namespace) -> None:
    health, metrics, _ = _servers(netns)

    async def run() -> None:
        wanted = places(":10256", option="--healthz-bind-address")
        server: Server = await serve(netns, wanted, health_port(health, metrics))
        assert (await _get(netns, "::1", 10256, "/healthz")).status == 503
        assert (await _get(netns, "127.0.0.1", 10256, "/livez")).status == 200
        assert b"not verified" in (await _get(netns, "::1", 10256, "/healthz?verbose")).body
        health.verified()
        reply = await _get(netns, "127.0.0.1", 10256, "/healthz")
        assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
        assert (await _get(netns, "::1", 10256, "/metrics")).status == 404
        await server.stop()

    asyncio.run(run())
    for name, code, count in (("healthz", "503", 2), ("healthz", "200", 1), ("livez", "200", 1)):
        sample = f"kubeproxy_proxy_{name}_total"
        assert metrics.registry.get_sample_value(sample, {"code": code}) == count


def test_the_metrics_port(netns: Namespace) -> None:
    health, metrics, config = _servers(netns)

    async def run() -> None:
        wanted = places("127.0.0.1:10249", option="--metrics-bind-address")
        server = await serve(netns, wanted, metrics_port(health, metrics, config))
        page = await _get(netns, "127.0.0.1", 10249, "/metrics")
        assert page.status == 200
        assert b"netplane_watch_age_seconds 0.0" in page.body
        assert page.headers["Content-Type"].startswith("text/plain")
        assert (await _get(netns, "127.0.0.1", 10249, "/proxyMode")).body == b"nftables"
        assert (await _get(netns, "127.0.0.1", 10249, "/healthz")).body == b"ok"
        slis = (await _get(netns, "127.0.0.1", 10249, "/metrics/slis")).body.decode()
        assert 'kubernetes_healthcheck{name="ping",type="healthz"} 1.0' in slis
        counted = 'kubernetes_healthchecks_total{name="ping",status="%s",type="healthz"} %s'
        assert counted % ("success", 1.0) in slis
        assert counted % ("error", 0.0) in slis
        assert b'"mode":"nftables"' in (await _get(netns, "127.0.0.1", 10249, "/configz")).body
        assert (await _get(netns, "127.0.0.1", 10249, "/metrics", "POST")).status == 405
        assert (await _get(netns, "127.0.0.1", 10249, "/")).status == 404
        assert (await _get(netns, "127.0.0.1", 10249, "/metrics", "HEAD")).body == b""
        await server.stop()

    asyncio.run(run())


def test_a_server_that_cannot_listen_says_so_and_leaves_nothing(netns: Namespace) -> None:
    health, metrics, _ = _servers(netns)

    async def run() -> None:
        wanted = (Place("127.0.0.1", 10256), Place("192.0.2.77", 10256))
        with pytest.raises(OSError, match="assign requested address"):
            await serve(netns, wanted, health_port(health, metrics))
        assert await _is_refused(netns, "127.0.0.1", 10256)

    asyncio.run(run())
