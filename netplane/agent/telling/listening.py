"""Listening sockets in the network namespace acted on, and a small HTTP server over them.

The servers answer whoever reaches the node, and must not let them exhaust the agent: a connection
carries one request, lives ten seconds at most, and a server holds a bounded number of them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from aiohttp import web
from aiohttp.http import HttpProcessingError

from netplane.apply.netns import Namespace
from netplane.errors import UsageError

#: One for each family: with IPV6_V6ONLY neither takes the other's place (reference section 3.6).
WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 (serving every address is what the option asks for)
LIFETIME = 10.0  # seconds
MOST_CONNECTIONS = 128
_BACKLOG = 128
_HIGHEST_PORT = 65535

#: Quick, for it runs on the event loop; what may take longer is awaited.
Respond: TypeAlias = Callable[[web.BaseRequest], web.Response | Awaitable[web.Response]]


class Place(NamedTuple):
    """An address and a port to listen on."""

    address: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"


def places(bind_address: str, *, option: str) -> tuple[Place, ...]:
    """Where a bind address such as ``127.0.0.1:10249`` or ``[::]:10256`` listens.

    Every unspecified address, and none (``:10256``), means all addresses of both families, as in
    Go, whose spelling this is. An empty text listens nowhere.

    Raises:
        UsageError: It is not an IP address and a port; the message names the option.
    """
    if not bind_address:
        return ()
    host, colon, port = bind_address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not colon or not port.isascii() or not port.isdigit() or int(port) > _HIGHEST_PORT:
        raise UsageError(f"{option} {bind_address!r:.80}: not an address and a port")
    try:
        address = ipaddress.ip_address(host or WILDCARDS[0])
    except ValueError as exc:
        raise UsageError(f"{option} {bind_address!r:.80}: {host!r} is no IP address") from exc
    if address.is_unspecified:
        return tuple(Place(wildcard, int(port)) for wildcard in WILDCARDS)
    return (Place(str(address), int(port)),)


def listen(place: Place) -> socket.socket | None:
    """A socket that listens, in the calling thread's namespace; None for a family that is off.

    Raises:
        OSError: The kernel refuses: the port is taken, the address is not there.
    """
    family = socket.AF_INET6 if ":" in place.address else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError:
        if place.address == WILDCARDS[1]:
            return None  # ipv6.disable=1; IPv4's wildcard is there
        raise
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((place.address, place.port))
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


async def listen_inside(namespace: Namespace, place: Place) -> socket.socket | None:
    """``listen``, inside a namespace, whose thread may be busy; the event loop goes on."""
    return await asyncio.to_thread(namespace.call, lambda: listen(place))


class _OwnFaults(logging.Filter):
    """Lets our own faults through: a request that is none is answered so, and is the sender's.

    Anybody may send them as fast as he likes, and each would be a traceback.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_logger = logging.getLogger("http")  # the kind of its messages in the journal
_logger.addFilter(_OwnFaults())


class _Bounded(web.Server):
    """An HTTP server that ends connections which are too old, and the oldest of too many.

    The oldest has had its time to ask; were it the newest, whoever holds all of them and asks
    nothing would keep every load balancer's probe out.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._open: dict[web.RequestHandler, asyncio.Transport] = {}

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._open[handler] = transport
        if len(self._open) > MOST_CONNECTIONS:
            self._open.pop(next(iter(self._open))).abort()
        asyncio.get_running_loop().call_later(LIFETIME, transport.abort)

    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        self._open.pop(handler, None)
        super().connection_lost(handler, exc)


class Server:
    """An HTTP server whose sockets come and go while it serves.

    Args:
        respond: Answers a request, any method and path.
    """

    def __init__(self, respond: Respond) -> None:
        async def once(request: web.BaseRequest) -> web.StreamResponse:
            answer = respond(request)
            response = answer if isinstance(answer, web.Response) else await answer
            response.force_close()
            return response

        self._runner = web.ServerRunner(
            _Bounded(once, access_log=None, logger=_logger),
            handle_signals=False,
            shutdown_timeout=1.0,
        )
        self._sites: dict[Place, web.SockSite] = {}
        self._started = False

    @property
    def places(self) -> frozenset[Place]:
        """Where it listens."""
        return frozenset(self._sites)

    async def open(self, place: Place, sock: socket.socket) -> None:
        """Serve a listening socket, which is ours from here on."""
        if not self._started:
            await self._runner.setup()
            self._started = True
        site = web.SockSite(self._runner, sock, backlog=_BACKLOG)
        await site.start()
        self._sites[place] = site

    async def close(self, place: Place) -> None:
        """Stop listening on a place; requests under way are answered."""
        await self._sites.pop(place).stop()

    async def stop(self) -> None:
        """Stop listening everywhere, and end the connections there are."""
        self._sites.clear()
        if self._started:
            await self._runner.cleanup()
            self._started = False


async def serve(namespace: Namespace, wanted: Sequence[Place], respond: Respond) -> Server:
    """A server on all of these places.

    Raises:
        OSError: One of them cannot be listened on; then it listens on none.
    """
    server = Server(respond)
    try:
        for place in wanted:
            sock = await listen_inside(namespace, place)
            if sock is not None:
                await server.open(place, sock)
    except BaseException:
        await server.stop()
        raise
    return server
