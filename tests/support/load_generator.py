"""Makes connections, one after the other without end, and keeps books: a process of its own.

    python -m tests.support.load_generator '{"targets": [...], ...}'

It plays both sides in its namespace, the world: servers on every address, which answer a
connection with what they saw of it and go on to answer each line, and clients. Each line on
standard input asks for the books, as one line of JSON; its end is the end.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator

import msgspec

from netplane.core.model.address import join_host_port
from netplane.core.model.service import Protocol
from tests.support.attempts import TcpAttempt
from tests.support.flow import Flow, Outcome, Place, Verdict
from tests.support.listeners import encode_answer

_PORTS = range(33000, 61000)
_PATIENCE = 5.0  # seconds for an answer, on a machine with other things to do
_LITTLE_PATIENCE = 0.2  # where perhaps nobody is there, and packets are dropped
_TICK = 0.05
_TOLD = 20  # failures told in words
_TCP_INFO_RETRANSMITS = struct.Struct("=100xI")  # tcpi_total_retrans in struct tcp_info
_PING_SECONDS = 0.1  # between two lines on a connection that is held


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where connections are made to.

    Attributes:
        name: For the books.
        endpoints: ``address:port`` of everybody who may answer.
        certain: A connection that nobody answers is a failure.
        held: Connections to make at the start and to hold from then on.
    """

    name: str
    source: str
    address: str
    port: int
    endpoints: frozenset[str]
    certain: bool = True
    held: int = 0


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to do: ``width`` connections at a time, ``rate`` a second at the most."""

    targets: tuple[Target, ...]
    ports: tuple[int, ...]
    width: int = 8
    rate: float = 1000.0


class Books(msgspec.Struct, kw_only=True):
    """What has happened since the start.

    Attributes:
        made: Connections that were made, answered and closed, per target.
        unanswered: Those that nobody answered, per target.
        failures: The first failures, in words.
        failed: How many failures there were.
        seen: How often each endpoint has answered, as ``target > address:port``.
        held: Connections that are held now.
        pings: Answers that came on them.
    """

    made: dict[str, int] = msgspec.field(default_factory=dict)
    unanswered: dict[str, int] = msgspec.field(default_factory=dict)
    failures: list[str] = msgspec.field(default_factory=list)
    failed: int = 0
    seen: dict[str, int] = msgspec.field(default_factory=dict)
    held: int = 0
    pings: int = 0

    def fail(self, what: str) -> None:
        self.failed += 1
        if len(self.failures) < _TOLD:
            self.failures.append(what)


class _Held(msgspec.Struct):
    """A connection that lives on: ``since`` the last line sent, ``waits`` for its answer."""

    target: Target
    attempt: TcpAttempt
    endpoint: str
    since: float
    waits: bool = False


class Generator:
    """The loop; see the module."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._epoll = select.epoll()
        self._reactions: dict[int, Callable[[], None]] = {}
        self._books = Books()
        self._underway: dict[int, tuple[Target, TcpAttempt, float, bool]] = {}
        self._held: list[_Held] = []
        self._held_ports: set[int] = set()
        self._ports = itertools.cycle(_PORTS)
        self._turns = itertools.cycle(order.targets)
        self._started = 0
        self._ended = False
        self._listeners = [self._listen(port) for port in order.ports]

    def run(self) -> None:
        os.set_blocking(0, False)
        self._watch(0, self._asked)
        for target in self._order.targets:
            for _ in range(target.held):
                self._begin(target, hold=True)
        began = time.monotonic()
        while not self._ended:
            now = time.monotonic()
            allowed = (now - began) * self._order.rate
            while len(self._underway) < self._order.width and self._started < allowed:
                self._started += 1
                self._begin(next(self._turns), hold=False)
            idle = 1 / self._order.rate if len(self._underway) < self._order.width else _TICK
            for descriptor, _ in self._epoll.poll(min(idle, _TICK)):
                reaction = self._reactions.get(descriptor)
                if reaction is not None:
                    reaction()
            self._grow_impatient(time.monotonic())

    # --- clients ------------------------------------------------------------------------------

    def _begin(self, target: Target, *, hold: bool) -> None:
        flow = Flow(Place.WORLD, Protocol.TCP, target.source, target.address, target.port)
        attempt = TcpAttempt(flow, next(p for p in self._ports if p not in self._held_ports))
        descriptor = attempt.socket.fileno()
        self._underway[descriptor] = (target, attempt, time.monotonic(), hold)
        self._watch(descriptor, lambda: self._concluded(descriptor))

    def _concluded(self, descriptor: int) -> None:
        target, attempt, _, hold = self._underway[descriptor]
        try:
            outcome = attempt.outcome()
        except OSError as exc:
            outcome = Outcome(Verdict.REJECT, source=str(exc))
        if outcome is None:
            return
        del self._underway[descriptor]
        lost = _retransmits(attempt.socket)
        self._judge(target, outcome, lost)
        if hold and outcome.verdict is Verdict.ACCEPT:
            held = _Held(target, attempt, outcome.endpoint, time.monotonic())
            self._held.append(held)
            self._held_ports.add(attempt.source_port)
            self._watch(descriptor, lambda: self._pinged(held), again=True)
        else:
            self._close(attempt.socket)

    def _judge(self, target: Target, outcome: Outcome, lost: int) -> None:
        books = self._books
        if outcome.verdict is not Verdict.ACCEPT:
            _count(books.unanswered, target.name)
            if target.certain:
                books.fail(f"{target.name}: {outcome} {outcome.source}")
            return
        _count(books.made, target.name)
        _count(books.seen, f"{target.name} > {outcome.endpoint}")
        if outcome.endpoint not in target.endpoints:
            books.fail(f"{target.name}: answered by {outcome.endpoint}, which is not its endpoint")
        if lost and target.certain:
            books.fail(f"{target.name}: {lost} packets had to be sent again")

    def _pinged(self, held: _Held) -> None:
        try:
            answer = held.attempt.socket.recv(512)
        except BlockingIOError:
            return
        except OSError as exc:
            answer = str(exc).encode()
        if answer.partition(b"|")[0].decode() == held.endpoint:
            self._books.pings += 1
            held.waits = False
            return
        self._lose(held, f"got {answer!r}")

    def _lose(self, held: _Held, why: str) -> None:
        name = held.target.name
        self._books.fail(f"{name}: the connection held to {held.endpoint} is lost: {why}")
        self._held.remove(held)
        self._close(held.attempt.socket)

    def _grow_impatient(self, now: float) -> None:
        for target, attempt, began, _ in list(self._underway.values()):
            if now - began < (_PATIENCE if target.certain else _LITTLE_PATIENCE):
                continue
            del self._underway[attempt.socket.fileno()]
            self._judge(target, Outcome(Verdict.DROP), 0)
            self._close(attempt.socket)
        for held in list(self._held):
            if held.waits and now - held.since > _PATIENCE:
                self._lose(held, "silence")
            elif not held.waits and now - held.since > _PING_SECONDS:
                held.since, held.waits = now, True
                with contextlib.suppress(OSError):  # a reset is read as one
                    held.attempt.socket.send(b"?")

    # --- servers ------------------------------------------------------------------------------

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("0.0.0.0", port), backlog=4096)
        listener.settimeout(0)
        self._watch(listener.fileno(), lambda: self._accept(listener))
        return listener

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, peer = listener.accept()
                connection.settimeout(0)
                host, port = connection.getsockname()[:2]
                answer = encode_answer(join_host_port(host, port), peer[0])
                reaction = functools.partial(self._serve, connection, answer)
                self._watch(connection.fileno(), reaction)
                with contextlib.suppress(OSError):
                    connection.send(answer)

    def _serve(self, connection: socket.socket, answer: bytes) -> None:
        """Answer a line, or notice that the client has gone."""
        try:
            if connection.recv(512):
                connection.send(answer)
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._close(connection)

    # --- the loop's own -----------------------------------------------------------------------

    def _asked(self) -> None:
        try:
            lines = os.read(0, 512)
        except BlockingIOError:
            return
        self._ended = not lines
        for _ in range(lines.count(b"\n")):
            self._books.held = len(self._held)
            sys.stdout.buffer.write(msgspec.json.encode(self._books) + b"\n")
            sys.stdout.flush()

    def _watch(
        self, descriptor: int, reaction: Callable[[], None], *, again: bool = False
    ) -> None:
        self._reactions[descriptor] = reaction
        if not again:
            self._epoll.register(descriptor, select.EPOLLIN)

    def _close(self, sock: socket.socket) -> None:
        del self._reactions[sock.fileno()]
        self._epoll.unregister(sock)
        sock.close()


def _count(books: dict[str, int], name: str) -> None:
    books[name] = books.get(name, 0) + 1


def _retransmits(sock: socket.socket) -> int:
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_RETRANSMITS.size)
    return int(_TCP_INFO_RETRANSMITS.unpack(info)[0])


def totals(books: Books) -> Iterator[str]:
    """The books in words, for whoever reads a failed test."""
    yield f"{sum(books.made.values())} made, {books.failed} failed, {books.held} held"
    yield from books.failures


if __name__ == "__main__":
    Generator(msgspec.json.decode(sys.argv[1], type=Order)).run()
