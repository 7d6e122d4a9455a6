"""Sends a scenario's packets and says which of them did not meet what they must.

A packet with several possible endpoints is repeated until each has been seen and the shares can be
judged. A draw that looks wrong by chance alone (an endpoint missing, lopsided shares) is drawn
again, larger, before it counts: thousands of draws are judged in a run of the tests.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import msgspec

from netplane.core.model.address import canonical_address, join_host_port
from netplane.core.model.service import Protocol
from tests.support.chisquare import even_probability
from tests.support.flow import Flow, Outcome, Place, Verdict
from tests.support.scenario import NodeUnderTest, Packet, split_endpoint
from tests.support.traffic import Traffic

_FLOWS_PER_ENDPOINT = 16
_FLOWS = 3  # where every one must meet the same
_STICKY_FLOWS = 12
_SECOND_DRAW = 4  # times as many flows
_UNLIKELY = 1e-4
_SILENCE = 0.4  # seconds; an answer within one machine takes microseconds
_PATIENCE = 5.0  # seconds for an answer that must come, on a machine with other things to do


class Kept(NamedTuple):
    """Where a client with session affinity was sent last, and when (time.monotonic)."""

    endpoint: str
    seen: float


#: By (source, protocol, destination, port).
Memory: TypeAlias = Mapping[tuple[str, str, str, int], Kept]
_NOTHING_KEPT: Memory = {}


class _Trial(msgspec.Struct):
    """A packet under judgement, and what has become of its flows so far."""

    packet: Packet
    node: NodeUnderTest
    may_stick: bool
    before: Kept | None = None
    outcomes: list[Outcome] = []
    draws: int = 0

    @property
    def expected(self) -> frozenset[str]:
        """The endpoints it may reach, canonical; its own destination where it stays untouched."""
        if self.packet.untouched:
            destination = canonical_address(self.packet.dst)
            assert destination is not None, self.packet.dst
            return frozenset({join_host_port(destination, self.packet.dport)})
        return _canonical(self.packet.endpoints)

    @property
    def spreads(self) -> bool:
        """Whether its flows must spread over all its endpoints."""
        held = self.packet.sport or self.packet.sticky or self.may_stick
        return len(self.expected) > 1 and not held

    def flows(self) -> list[Flow]:
        """The next flows to send."""
        packet = self.packet
        flow = Flow(
            place=Place.NODE if packet.via == "node" else Place.WORLD,
            protocol=Protocol[packet.proto],
            source=packet.source,
            destination=packet.dst,
            port=packet.dport,
            source_port=packet.sport,
            patience=_SILENCE if packet.expect == "drop" else _PATIENCE,
        )
        self.draws += 1
        if packet.sport:
            return [flow]
        if self.spreads:
            again = _SECOND_DRAW if self.draws > 1 else 1
            return [flow] * (_FLOWS_PER_ENDPOINT * len(self.expected) * again)
        if packet.sticky:  # the first alone: it is the one the others must follow
            return [flow] * (1 if self.draws == 1 else _STICKY_FLOWS)
        return [flow] * _FLOWS

    def wants_more(self) -> bool:
        """Whether what was seen so far does not settle it."""
        if self.packet.sticky:
            return self.draws == 1
        return self.draws == 1 and self.spreads and not self.wrong() and bool(self.uneven())

    def wrong(self) -> list[str]:
        """Outcomes that no draw can excuse, each told once, with how often."""
        counts = Counter(filter(None, map(self._fault, self.outcomes)))
        faults = [f"{count} of {len(self.outcomes)} {fault}" for fault, count in counts.items()]
        members = {outcome.endpoint for outcome in self.outcomes}
        if self.packet.sticky and self._is_held():
            members.add(self.before.endpoint if self.before else "")
        if self.packet.sticky and len(members - {""}) > 1:
            faults.append(f"one client was sent to {', '.join(sorted(members))}")
        return faults

    def _is_held(self) -> bool:
        """Whether the client must still be where the step before saw it."""
        kept = self.before
        return (
            kept is not None
            and kept.endpoint in self.expected
            and time.monotonic() - kept.seen < self.packet.stickySeconds
        )

    def uneven(self) -> str:
        """What is wrong with how the flows spread, "" if nothing."""
        counts = Counter(outcome.endpoint for outcome in self.outcomes)
        if any(endpoint in counts for endpoint in _canonical(self.packet.tolerated)):
            return ""
        shares = {endpoint: counts[endpoint] for endpoint in sorted(self.expected)}
        if 0 in shares.values() or even_probability(list(shares.values())) < _UNLIKELY:
            return f"shares are {shares}"
        return ""

    def _fault(self, outcome: Outcome) -> str:
        """What is wrong with one flow's outcome, "" if nothing."""
        packet = self.packet
        if outcome.endpoint in _canonical(packet.tolerated):
            return ""
        if outcome.verdict is not Verdict(packet.expect):
            return str(outcome)
        if outcome.verdict is not Verdict.ACCEPT:
            return ""
        if outcome.endpoint not in self.expected:
            return str(outcome)
        if packet.masquerade:
            rewritten = outcome.source in _canonical_addresses(self.node.addresses)
        else:
            rewritten = outcome.source == canonical_address(packet.source)
        return "" if rewritten else f"{outcome} (masquerade must be {packet.masquerade})"


def judge(
    traffic: Traffic,
    node: NodeUnderTest,
    packets: Sequence[Packet],
    may_stick: Callable[[Packet], bool],
    kept: Memory = _NOTHING_KEPT,
) -> tuple[list[str], Memory]:
    """Send the packets, all at once.

    Args:
        may_stick: Whether the Service behind a packet has session affinity.
        kept: Where clients with session affinity were sent by the call before. They must meet the
            same endpoint again while it is one of the packet's and its time is not over.

    Returns:
        What is wrong, a line for each packet that failed; and ``kept`` for the next call.
    """
    trials = [
        _Trial(
            packet=packet,
            node=node,
            may_stick=may_stick(packet),
            before=kept.get(_client_of(packet)),
        )
        for packet in packets
    ]
    pending = trials
    while pending:
        batches = [trial.flows() for trial in pending]
        outcomes = iter(traffic.send([flow for batch in batches for flow in batch]))
        for trial, batch in zip(pending, batches, strict=True):
            trial.outcomes.extend(next(outcomes) for _ in batch)
        pending = [trial for trial in pending if trial.wants_more()]
    now = time.monotonic()
    return [line for trial in trials for line in _complaints(trial)], {
        _client_of(trial.packet): Kept(trial.outcomes[-1].endpoint, now)
        for trial in trials
        if trial.packet.sticky
    }


def _client_of(packet: Packet) -> tuple[str, str, str, int]:
    return packet.source, packet.proto, packet.dst, packet.dport


def _complaints(trial: _Trial) -> list[str]:
    faults = trial.wrong() or ([trial.uneven()] if trial.spreads else [])
    packet = trial.packet
    wanted: str = packet.expect
    if packet.expect == "accept":
        wanted += f" by {', '.join(sorted(trial.expected))}"
    head = (
        f"{packet.via} {packet.source} -> {packet.proto} {packet.dst}:{packet.dport}"
        f" ({packet.note}): must be {wanted}"
    )
    return [f"{head}; {fault}" for fault in faults if fault]


def _canonical(endpoints: Sequence[str]) -> frozenset[str]:
    return frozenset(join_host_port(*split_endpoint(endpoint)) for endpoint in endpoints)


def _canonical_addresses(addresses: Sequence[str]) -> frozenset[str]:
    return frozenset(filter(None, map(canonical_address, addresses)))
