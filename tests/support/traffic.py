"""Sends new flows through a topology and says what became of each.

One loop drives all clients and all servers, in both namespaces: a socket belongs to the namespace
it was made in, whoever polls it. Many flows are under way at once, so silence is waited for once
and not once for each.
"""

from __future__ import annotations

import functools
import heapq
import resource
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from tests.support.attempts import ATTEMPTS, Attempt, SctpAttempt
from tests.support.flow import Flow, Outcome, Place, Verdict
from tests.support.listeners import Listeners
from tests.support.sctp import Init
from tests.support.topology import Topology

# Above the NodePort range and below what the kernel never hands out.
_SOURCE_PORTS = range(33000, 61000)


class Traffic:
    """Clients and servers of one topology; ``new_traffic`` makes and ends it."""

    def __init__(self, topology: Topology, ports: Iterable[int], closing: ExitStack) -> None:
        self._places = ((Place.NODE, topology.node), (Place.WORLD, topology.world))
        self._epoll = closing.enter_context(select.epoll())
        self._reactions: dict[int, Callable[[int], None]] = {}
        self._attempts: dict[int, Attempt] = {}
        self._outcomes: dict[int, Outcome] = {}
        listening = sorted(set(ports))
        taken = set(listening)
        self._fresh_ports = iter(port for port in _SOURCE_PORTS if port not in taken)
        for _, namespace in self._places:
            namespace.call(lambda: Listeners(listening, self._watch, self._arrived, closing))

    def send(self, flows: Sequence[Flow]) -> list[Outcome]:
        """Send all the flows, at once, and wait for the outcome of each, in their order."""
        self._outcomes = {}
        self._attempts = {}
        try:
            for place, namespace in self._places:
                indices = [index for index, flow in enumerate(flows) if flow.place is place]
                namespace.call(functools.partial(self._begin, flows, indices))
            self._wait(flows)
        finally:
            for index in self._attempts.keys() - self._outcomes.keys():
                self._finish(index, Outcome(Verdict.DROP))
        return [self._outcomes[index] for index in range(len(flows))]

    def _begin(self, flows: Sequence[Flow], indices: Iterable[int]) -> None:
        for index in indices:
            flow = flows[index]
            source_port = flow.source_port or next(self._fresh_ports, 0)
            assert source_port, "every source port has been used once: lay out a new topology"
            attempt = ATTEMPTS[flow.protocol](flow, source_port)
            self._attempts[index] = attempt
            self._watch(attempt.socket, select.EPOLLIN, self._on_event(index))

    def _wait(self, flows: Sequence[Flow]) -> None:
        began = time.monotonic()
        deadlines = [(began + flow.patience, index) for index, flow in enumerate(flows)]
        heapq.heapify(deadlines)
        while deadlines:
            deadline, index = deadlines[0]
            now = time.monotonic()
            if index in self._outcomes:
                heapq.heappop(deadlines)
            elif not self._react(max(0.0, deadline - now)) and time.monotonic() >= deadline:
                self._finish(index, Outcome(Verdict.DROP))

    def _on_event(self, index: int) -> Callable[[int], None]:
        def react(_events: int) -> None:
            outcome = self._attempts[index].outcome()
            if outcome is not None:
                self._finish(index, outcome)

        return react

    def _arrived(self, init: Init, outcome: Outcome) -> None:
        """An SCTP packet ended at a listener: find the flow that it began."""
        for index, attempt in self._attempts.items():
            if isinstance(attempt, SctpAttempt) and attempt.tag == init.tag:
                self._finish(index, outcome)
                return

    def _finish(self, index: int, outcome: Outcome) -> None:
        if index in self._outcomes:
            return
        self._outcomes[index] = outcome
        sock = self._attempts[index].socket
        self._epoll.unregister(sock)
        del self._reactions[sock.fileno()]
        sock.close()

    def _watch(self, sock: socket.socket, events: int, reaction: Callable[[int], None]) -> None:
        self._reactions[sock.fileno()] = reaction
        self._epoll.register(sock, events)

    def _react(self, seconds: float) -> bool:
        """Wait for events and react to them; whether there were any."""
        events = self._epoll.poll(seconds)
        for descriptor, mask in events:
            # An earlier event of the same round may have finished this one.
            reaction = self._reactions.get(descriptor)
            if reaction is not None:
                reaction(mask)
        return bool(events)


@contextmanager
def new_traffic(topology: Topology, ports: Iterable[int]) -> Iterator[Traffic]:
    """Servers on these ports, in both namespaces, and the means to send flows at them."""
    _allow_descriptors()
    with ExitStack() as closing:
        yield Traffic(topology, ports, closing)


def _allow_descriptors() -> None:
    """A thousand flows at once need as many descriptors, and more than the usual limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
