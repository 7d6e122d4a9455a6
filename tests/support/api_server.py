"""An API server that misbehaves on demand: list and watch of three kinds, on loopback.

It writes HTTP itself, for a framework would keep to it. Faults come scripted (``script``: each
happens once, at the next occasion that suits it) or at random (``probability`` at each occasion).
It runs in a thread of its own; ``Store`` is its model, and what clients must end up with.
"""

from __future__ import annotations

import asyncio
import enum
import json
import random
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl, urlsplit

from netplane.apply.netns import Namespace
from tests.support.api_server_model import Collection, Object, Past, Store, key_of, matches, pages


class Fault(enum.Enum):
    """What can go wrong; the comment says where."""

    UNAUTHORIZED = 401
    FORBIDDEN = 403
    GONE = 410
    TOO_MANY = 429
    BROKEN = 500
    UNAVAILABLE = 503
    REDIRECT = 307
    HANG = "hang"  # an answer never begins, or a watch never goes on
    DRIBBLE = "a watch goes on for ever, and never gets to the end of an event"
    LIES_LONG = "a Content-Length above what is sent"  # lists
    LIES_SHORT = "a Content-Length below what is sent"  # lists
    CUT = "reset in a list"
    EMPTY = "an empty list"
    EXPIRED = "410 on a page that is continued"
    NOT_A_LIST = "200, but no list"
    RESET_IN_OBJECT = "reset in an object"  # watches, as all below
    RESET_IN_CHARACTER = "reset in a character"
    GONE_EVENT = "410 as an event"
    ERROR_EVENT = "500 as an event"
    GARBAGE = "a line that is not JSON"
    DUPLICATE = "an event twice"
    REORDER = "an event after the next one"
    DROP = "an event not sent"
    BACKWARDS = "resourceVersions go back"


_STATUSES = {fault for fault in Fault if isinstance(fault.value, int)}
LIST_FAULTS = frozenset(
    _STATUSES
    | {Fault.HANG, Fault.LIES_LONG, Fault.LIES_SHORT, Fault.CUT, Fault.EMPTY, Fault.NOT_A_LIST}
    | {Fault.EXPIRED}
)
WATCH_FAULTS = frozenset(_STATUSES | {Fault.HANG, Fault.DRIBBLE})
EVENT_FAULTS = frozenset(Fault) - LIST_FAULTS - WATCH_FAULTS


@dataclass(frozen=True)
class Request:
    """What a client asked."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]

    @property
    def watches(self) -> bool:
        return self.query.get("watch") == "true"


class ApiServer:
    """The server; a context manager.

    Args:
        probability: Of a fault at each list, each watch and each event.
        token: What clients must bring; "" for none.
        elsewhere: Where redirects lead.
        inside: The namespace on whose loopback it listens; None for ours.

    Attributes:
        retry_after: What 429 asks for.
        dribbled: How many bytes were sent that never came to anything.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        probability: float = 0.0,
        token: str = "",
        tls: ssl.SSLContext | None = None,
        bookmarks: float = 0.05,
        elsewhere: str = "http://127.0.0.1:9/elsewhere",
        inside: Namespace | None = None,
    ) -> None:
        self.store = Store()
        self.requests: list[Request] = []
        self.happened: list[Fault] = []
        self.probability = probability
        self.token = token
        self.page_limit = 500
        self.retry_after = "0"
        self.dribbled = 0
        self._inside = inside or Namespace()
        self._elsewhere = elsewhere
        self._bookmarks = bookmarks
        self._tls = tls
        self._rng = random.Random(seed)
        self._script: list[tuple[str, Fault]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="api-server", daemon=True)
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def script(self, kind: str, *faults: Fault) -> None:
        """Let these happen, in this order, to requests for this kind."""
        self._script += [(kind, fault) for fault in faults]

    @property
    def pending(self) -> list[Fault]:
        """What was scripted and has not happened yet."""
        return [fault for _, fault in self._script]

    @property
    def watches(self) -> int:
        """How many watches stand."""
        return len(self.store.watchers)

    def asked(self, kind: str, *, watches: bool) -> list[Request]:
        """The requests for a kind so far."""
        path = next(p for p, c in self.store.collections.items() if c.kind == kind)
        return [r for r in self.requests if r.path == path and r.watches == watches]

    # --- serving ------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        await self._open()
        self._ready.set()
        await self._stop.wait()
        await self._close()

    async def _open(self) -> None:
        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = self._loop.create_task(self._connection(reader, writer))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

        def listening() -> socket.socket:
            return socket.create_server(("127.0.0.1", self.port), backlog=128)

        # Not by Namespace.call from here: its thread may be waiting for an answer of ours.
        sock = await asyncio.to_thread(self._inside.call, listening)
        self.port = sock.getsockname()[1]
        self._server = await asyncio.start_server(connected, sock=sock, ssl=self._tls)

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Be gone meanwhile: every connection reset, and nobody listening."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        try:
            yield
        finally:
            asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Do nothing at all meanwhile; the kernel keeps the connections, and takes new ones."""
        goes_on = threading.Event()
        self._loop.call_soon_threadsafe(goes_on.wait, 60)
        try:
            yield
        finally:
            goes_on.set()

    async def _connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, _Abort):
            try:
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    await self._answer(_parse(head), writer)
            finally:
                writer.transport.abort()

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        self.requests.append(request)
        collection = self.store.collections.get(request.path)
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            await _send(writer, 401, _status(401))
            return
        if collection is None:
            await _send(writer, 404, _status(404))
            return
        fault = self._fault(collection.kind, _possible(request))
        if fault in _STATUSES:
            extra = {"Retry-After": self.retry_after} if fault is Fault.TOO_MANY else {}
            if fault is Fault.REDIRECT:
                extra["Location"] = self._elsewhere
            await _send(writer, fault.value, _status(fault.value), extra)
        elif request.watches:
            await _Watch(self, collection, request, writer).run(fault)
        else:
            await self._list(collection, request, writer, fault)

    async def _list(
        self,
        collection: Collection,
        request: Request,
        writer: asyncio.StreamWriter,
        fault: Fault | None,
    ) -> None:
        body = self._page(collection, request.query, empty=fault is Fault.EMPTY)
        match fault:
            case Fault.HANG:
                await self._stop.wait()
            case Fault.LIES_LONG:
                await _send(writer, 200, body, length=len(body) + 100)
                raise _Abort
            case Fault.LIES_SHORT:
                await _send(writer, 200, body, length=len(body) // 2)
                raise _Abort
            case Fault.CUT:
                await _send(writer, 200, body[: len(body) // 2], length=len(body))
                raise _Abort
            case Fault.NOT_A_LIST:
                await _send(writer, 200, b"{}")
            case Fault.EXPIRED:
                await _send(writer, 410, _status(410))
            case _:
                await _send(writer, 200, body)

    def _page(self, collection: Collection, query: dict[str, str], *, empty: bool) -> bytes:
        with self.store.lock:
            limit = min(int(query.get("limit", 1 << 30)), self.page_limit)
            if "limit" not in query:
                limit = 1 << 30
            found = [] if empty else list(pages(collection, query))
            meta = {"resourceVersion": str(self.store.version)}
            if len(found) > limit:
                found = found[:limit]
                meta["continue"] = json.dumps({"after": found[-1][0]})
            items = [_bare(thing) for _, thing in found]
        return _json(
            {
                "kind": f"{collection.kind}List",
                "apiVersion": collection.api_version,
                "metadata": meta,
                "items": items,
            }
        )

    def _fault(self, kind: str, possible: frozenset[Fault]) -> Fault | None:
        """The next scripted fault, if it is possible here, or one by chance."""
        mine = [fault for of, fault in self._script if of == kind]
        fault: Fault | None = None
        if mine and mine[0] in possible:
            fault = mine[0]
            self._script.remove((kind, fault))
        elif not mine and self._rng.random() < self.probability:
            fault = self._rng.choice(sorted(possible, key=lambda f: f.name))
        if fault is not None:
            self.happened.append(fault)
        return fault


class _Watch:
    """One watch: what happened since its version, and what happens, until its time is over."""

    def __init__(
        self,
        server: ApiServer,
        collection: Collection,
        request: Request,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._server = server
        self._collection = collection
        self._query = request.query
        self._writer = writer
        self._sent = int(request.query.get("resourceVersion", "0"))
        self._epoch = collection.epoch
        self._late: Past | None = None
        self._news = asyncio.Event()

    async def run(self, fault: Fault | None) -> None:
        loop, store = asyncio.get_running_loop(), self._server.store
        await _head(self._writer, 200, {"Transfer-Encoding": "chunked"})

        def notify() -> None:
            with suppress(RuntimeError):  # the loop is closed: the test is over
                loop.call_soon_threadsafe(self._news.set)

        if fault is Fault.HANG:
            await self._server._stop.wait()
        while fault is Fault.DRIBBLE:
            await self._chunk(b" ")
            self._server.dribbled += 1
            await asyncio.sleep(self._server._bookmarks / 5)
        if self._sent < self._collection.compacted or self._sent > store.version:
            code = 410 if self._sent < self._collection.compacted else 504
            await self._chunk(_event("ERROR", json.loads(_status(code))))
        else:
            store.watchers.append(notify)
            try:
                await self._follow(loop.time() + float(self._query["timeoutSeconds"]))
            finally:
                store.watchers.remove(notify)
        await self._chunk(b"")

    async def _follow(self, until: float) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < until and not self._server._stop.is_set():
            self._news.clear()
            for past in self._due():
                await self._tell(past)
            try:
                async with asyncio.timeout(self._server._bookmarks):
                    await self._news.wait()
            except TimeoutError:
                await self._bookmark()

    def _due(self) -> list[Past]:
        with self._server.store.lock:
            if self._epoch != self._collection.epoch:
                self._epoch = self._collection.epoch
                self._sent = self._collection.compacted
            due = [past for past in self._collection.past if past.version > self._sent]
            if due:
                self._sent = due[-1].version
        return due

    async def _tell(self, past: Past) -> None:
        event = self._seen(past)
        line = _event(event.type, event.object)
        late, self._late = self._late, None
        fault = self._server._fault(self._collection.kind, EVENT_FAULTS)
        match fault:
            case Fault.RESET_IN_OBJECT:
                await self._chunk(line[: len(line) * 2 // 3])
                raise _Abort
            case Fault.RESET_IN_CHARACTER:
                cut = next((i for i, byte in enumerate(line) if byte >= 0xC0), len(line) // 2)
                await self._chunk(line[: cut + 1])
                raise _Abort
            case Fault.REORDER:
                self._late = event
            case Fault.DROP:
                pass
            case Fault.BACKWARDS:
                self._server.store.rewind(self._server._rng.randrange(1, 500))
                await self._chunk(_event("MODIFIED", self._now(past)))
            case None:
                cut = self._server._rng.randrange(1, len(line))
                await self._chunk(line[:cut])
                await self._chunk(line[cut:])
            case _:
                await self._chunk(_INSTEAD[fault](line))
        if late is not None:
            await self._chunk(_event(late.type, late.object))

    def _seen(self, past: Past) -> Past:
        """The change as the selectors show it: what no longer matches is deleted."""
        if matches(past.object, self._query):
            return past
        return Past(past.version, "DELETED", past.object)

    def _now(self, past: Past) -> Object:
        """The object as it is now, after its version went back."""
        with self._server.store.lock:
            return self._collection.objects.get(key_of(past.object), past.object)

    async def _bookmark(self) -> None:
        if self._late is not None:
            late, self._late = self._late, None
            await self._chunk(_event(late.type, late.object))
        meta = {"resourceVersion": str(self._sent)}
        if self._query.get("allowWatchBookmarks") == "true":
            kind = {"kind": self._collection.kind, "apiVersion": self._collection.api_version}
            await self._chunk(_event("BOOKMARK", {**kind, "metadata": meta}))

    async def _chunk(self, piece: bytes) -> None:
        if piece:
            self._writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        else:
            self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()


class _Abort(Exception):  # noqa: N818 (not an error: the connection is to end here)
    """End the connection without a word."""


def _possible(request: Request) -> frozenset[Fault]:
    """What can go wrong as a request is answered."""
    if request.watches:
        return WATCH_FAULTS
    return LIST_FAULTS if "continue" in request.query else LIST_FAULTS - {Fault.EXPIRED}


def _parse(head: bytes) -> Request:
    line, *fields = head.decode("latin-1").split("\r\n")
    target = urlsplit(line.split(" ")[1])
    pairs = [field.split(":", 1) for field in fields if field]
    headers = {name.lower(): value.strip() for name, value in pairs}
    return Request(
        target.path, dict(parse_qsl(target.query, strict_parsing=bool(target.query))), headers
    )


async def _head(writer: asyncio.StreamWriter, status: int, headers: dict[str, str]) -> None:
    lines = [f"HTTP/1.1 {status} Because", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    await writer.drain()


async def _send(
    writer: asyncio.StreamWriter,
    status: int,
    body: bytes,
    headers: dict[str, str] | None = None,
    *,
    length: int | None = None,
) -> None:
    said = str(len(body) if length is None else length)
    await _head(writer, status, {"Content-Length": said, **(headers or {})})
    writer.write(body)
    await writer.drain()


def _bare(thing: Object) -> Object:
    """The items of a typed list do not say their kind."""
    return {key: value for key, value in thing.items() if key not in {"kind", "apiVersion"}}


def _event(kind: str, thing: Object) -> bytes:
    return _json({"type": kind, "object": thing}) + b"\n"


def _status(code: int) -> bytes:
    return _json({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code})


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


_INSTEAD: dict[Fault, Callable[[bytes], bytes]] = {
    Fault.GONE_EVENT: lambda _: _event("ERROR", json.loads(_status(410))),
    Fault.ERROR_EVENT: lambda _: _event("ERROR", json.loads(_status(500))),
    Fault.GARBAGE: lambda _: b'{"type": "ADDED", "object": {]}\n',
    Fault.DUPLICATE: lambda line: line + line,
}
"""What is sent instead of an event's line."""
