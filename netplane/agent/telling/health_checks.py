"""The servers on health check node ports: how many endpoints of a Service this node has.

A load balancer asks them which nodes it may send a Service's connections to when its external
traffic policy is Local (reference section 3.6). The answer is kube-proxy's, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from aiohttp import web

from netplane.agent.telling.listening import WILDCARDS, Place, Server, listen_inside
from netplane.apply.netns import Namespace
from netplane.core.plan.node import NodeView
from netplane.core.plan.plan import HealthCheck

_OK = 200
_UNAVAILABLE = 503


def bind_addresses(node: NodeView) -> tuple[str, ...]:
    """Where the servers listen: on all addresses, or on those that serve NodePorts."""
    found: list[str] = []
    for view in node.families:
        wildcard = WILDCARDS[0 if view.family.value == 4 else 1]  # noqa: PLR2004 (IP version)
        addresses = view.node_port_addresses
        found += (wildcard,) if addresses is None else addresses
    return tuple(found)


def body(check: HealthCheck, *, healthy: bool) -> bytes:
    """What a server says, indented with tabs, keys in kube-proxy's order."""
    document = {
        "service": {"namespace": check.service.namespace, "name": check.service.name},
        "localEndpoints": check.local_endpoints,
        "serviceProxyHealthy": healthy,
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=4).replace(b"    ", b"\t")


class HealthChecks:
    """One server per health check node port, as the last ``update`` said.

    Args:
        namespace: Where the ports are opened.
        healthy: Whether what the node does now can be trusted (``Health.healthy``).
    """

    def __init__(self, namespace: Namespace, *, healthy: Callable[[], bool]) -> None:
        self._namespace = namespace
        self._healthy = healthy
        self._checks: dict[int, HealthCheck] = {}
        self._servers: dict[int, Server] = {}

    @property
    def places(self) -> frozenset[Place]:
        """Where anything listens."""
        return frozenset(place for server in self._servers.values() for place in server.places)

    async def update(
        self, checks: Sequence[HealthCheck], addresses: Sequence[str]
    ) -> tuple[str, ...]:
        """Serve exactly these checks on these addresses; call it after a successful sync.

        A port that stays keeps its sockets, whatever Service it is of. What cannot be opened is
        tried again at the next update.

        Returns:
            What could not be opened and why, in words for a warning.
        """
        warnings = []
        wanted: dict[int, HealthCheck] = {}
        for check in sorted(checks):
            first = wanted.setdefault(check.port, check)
            if first is not check:
                warnings.append(
                    f"{check.service}: health check node port {check.port} is {first.service}'s"
                )
        self._checks = wanted
        for port in [port for port in self._servers if port not in wanted]:
            await self._servers.pop(port).stop()
        for check in wanted.values():
            warnings += await self._open(check, addresses)
        return tuple(warnings)

    async def close(self) -> None:
        """Close every port."""
        await self.update((), ())

    async def _open(self, check: HealthCheck, addresses: Sequence[str]) -> list[str]:
        """Make one port listen on these addresses alone; returns what went wrong."""
        server = self._servers.get(check.port)
        if server is None:
            server = self._servers[check.port] = Server(self._respond_on(check.port))
        wanted = {Place(address, check.port) for address in addresses}
        for place in server.places - wanted:
            await server.close(place)
        warnings = []
        for place in sorted(wanted - server.places):
            try:
                sock = await listen_inside(self._namespace, place)
            except OSError as exc:
                warnings.append(f"{check.service}: cannot listen on {place}: {exc.strerror}")
                continue
            if sock is not None:
                await server.open(place, sock)
        return warnings

    def _respond_on(self, port: int) -> Callable[[web.BaseRequest], web.Response]:
        def respond(request: web.BaseRequest) -> web.Response:
            del request  # any method, any path
            check, healthy = self._checks[port], self._healthy()
            return web.Response(
                status=_OK if check.local_endpoints and healthy else _UNAVAILABLE,
                body=body(check, healthy=healthy),
                content_type="application/json",
                headers={
                    "X-Content-Type-Options": "nosniff",
                    "X-Load-Balancing-Endpoint-Weight": str(check.local_endpoints),
                },
            )

        return respond
