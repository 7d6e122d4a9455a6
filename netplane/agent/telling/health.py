"""Whether this node is served as the cluster wants it now, and why not: state, no sockets.

The answers are kube-proxy's (reference section 3.7), and stricter in what makes them healthy:

- what was asked for is written and verified within two periods, in every family;
- nobody damages the rules again and again for that long, as fast as they are repaired;
- the source of changes was heard of within its bound, so that "nothing is asked for" is known;
- the agent's loop turns.

Each of these recovers by itself when its cause is gone. Everything is called on the event loop's
thread, which keeps turning while a write hangs in another.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence

import msgspec

from netplane.agent.clocks import Clocks
from netplane.core.model.address import Family

#: Periods after which what is asked for, and still not there, is a fault (kube-proxy's own bound).
PATIENCE = 2
#: Seconds, or half a period if that is longer: repairs no further apart are of the same pest.
_RESTLESS = 5.0
OK = 200
UNAVAILABLE = 503
_NEVER = "0001-01-01T00:00:00Z"  # Go's zero time, which kube-proxy sends for "not yet"


def family_label(family: Family) -> str:
    """``IPv4`` or ``IPv6``, as kube-proxy's answers and metrics spell it."""
    return f"IPv{family.value}"


class Answer(msgspec.Struct, frozen=True):
    """An HTTP status and the JSON that goes with it."""

    status: int
    body: bytes


class _FamilyDocument(msgspec.Struct, frozen=True, rename="camel"):
    last_updated: str
    healthy: bool


class _Document(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The body, in the order of kube-proxy's fields; ``reasons`` is ours, on request only."""

    last_updated: str
    current_time: str
    node_eligible: bool | msgspec.UnsetType
    healthy: bool
    status: dict[str, _FamilyDocument]
    reasons: tuple[str, ...] | msgspec.UnsetType


class _Writes:
    """What is owed to one family, in seconds of the clock.

    Attributes:
        wanted: When the oldest change was asked for that no write has taken up; None: none.
        underway: The same for what the write under way has taken up.
        verified: When the kernel was last found as it should be; None: never yet.
        failure: Why the last write failed; "" where it did not.
    """

    __slots__ = ("failure", "underway", "verified", "wanted")

    def __init__(self, now: float) -> None:
        self.wanted: float | None = now  # a fresh process owes the first verification
        self.underway: float | None = None
        self.verified: float | None = None
        self.failure = ""

    @property
    def owed(self) -> float | None:
        """When the oldest change was asked for that is not verified to be there."""
        return min((t for t in (self.wanted, self.underway) if t is not None), default=None)


class Health:
    """What the loop has told about its work, and what follows from it.

    Args:
        families: Those the node serves.
        period: Seconds (``syncPeriod``); two of them are the patience with every fault.
        last_heard: The source's last sign of life, on the monotonic clock.
        watch_bound: Seconds the source may be silent; two periods unless told.
        fault: Why nothing is heard, "" where no reason is known: with one, two periods are enough.
    """

    def __init__(  # noqa: PLR0913 (all but four have a default)
        self,
        *,
        families: Sequence[Family],
        period: float,
        last_heard: Callable[[], float],
        clocks: Clocks,
        watch_bound: float | None = None,
        fault: Callable[[], str] = str,
    ) -> None:
        self._clock, self._wall = clocks
        self._patience = PATIENCE * period
        self._last_heard = last_heard
        self._watch_bound = self._patience if watch_bound is None else watch_bound
        self._fault = fault
        self._eligible = True
        self._rival = ""
        self._plagued: tuple[float, float] | None = None  # since when, and when last
        self._restless = max(_RESTLESS, period / 2)
        self._turned = self._clock()
        self._families = {family: _Writes(self._turned) for family in families}

    # --- what the loop tells ------------------------------------------------------------------

    def turned(self) -> None:
        """The loop has turned; it does so at least once a period, even with nothing to do."""
        self._turned = self._clock()

    def wanted(self) -> None:
        """Changes were received which the kernel does not have yet."""
        now = self._clock()
        for writes in self._families.values():
            if writes.wanted is None:
                writes.wanted = now

    def begun(self) -> None:
        """A write, or a look at the kernel, has taken up everything wanted so far."""
        for writes in self._families.values():
            writes.underway, writes.wanted = writes.owed, None

    def verified(self, *families: Family) -> None:
        """The kernel is as it should be: all that was taken up is there (all families: none)."""
        for writes in self._chosen(families):
            writes.verified = self._clock()
            writes.underway = None
            writes.failure = ""

    def failed(self, why: str, *families: Family) -> None:
        """A write did not happen; what it had taken up is wanted as before."""
        for writes in self._chosen(families):
            writes.wanted, writes.underway = writes.owed, None
            writes.failure = why

    def repaired(self) -> None:
        """Rules were found damaged by somebody else, and are as they should be for now."""
        now = self._clock()
        since, last = self._plagued or (now, now)
        self._plagued = (since if now - last < self._restless else now, now)

    def undisturbed(self) -> None:
        """A look found nothing amiss."""
        self._plagued = None

    def rival(self, traces: str) -> None:
        """Somebody else programs the same node, as these traces tell; "" for nobody."""
        self._rival = traces

    def node(self, *, eligible: bool) -> None:
        """Our own Node was read; see ``glimpses.is_eligible``."""
        self._eligible = eligible

    def _chosen(self, families: tuple[Family, ...]) -> list[_Writes]:
        return [self._families[family] for family in families or self._families]

    # --- what follows from it -----------------------------------------------------------------

    @property
    def turning(self) -> bool:
        """Whether the loop turns: what a restart of the process can mend."""
        return self._clock() - self._turned < self._patience

    @property
    def healthy(self) -> bool:
        """Whether connections made through this node reach what the cluster wants now."""
        return not self.reasons()

    @property
    def watch_age(self) -> float:
        """Seconds since the last sign of life of the source."""
        return self._clock() - self._last_heard()

    def reasons(self) -> tuple[str, ...]:
        """Everything that is wrong, in words; () where nothing is. The Node's end is not in it."""
        now = self._clock()
        found = []
        if not self.turning:
            found.append(f"the loop has not turned for {now - self._turned:.0f} s")
        fault = self._fault()
        if self.watch_age >= (self._patience if fault else self._watch_bound):
            because = f": {fault}" if fault else ""
            found.append(f"nothing was heard of the source for {self.watch_age:.0f} s{because}")
        if self._plagued is not None:
            since, last = self._plagued
            if last - since >= self._patience:
                found.append(
                    f"somebody damages the rules again and again, for {last - since:.0f} s"
                )
        if self._rival:
            found.append(f"a kube-proxy programs this namespace too (stop one): {self._rival}")
        for family, writes in self._families.items():
            found += [f"{family_label(family)}: {reason}" for reason in self._owing(writes, now)]
        return tuple(found)

    def _owing(self, writes: _Writes, now: float) -> list[str]:
        found = []
        if writes.owed is not None and now - writes.owed >= self._patience:
            because = f": {writes.failure}" if writes.failure else ""
            found.append(f"changes wait since {now - writes.owed:.0f} s{because}")
        return found

    def healthz(self, *, verbose: bool = False) -> Answer:
        """The answer for load balancers: 200 where this node should get new connections.

        Until everything has been verified once it is 503: rules of an earlier life may be stale.
        """
        unverified = [f for f, writes in self._families.items() if writes.verified is None]
        reasons = [f"{family_label(f)}: not verified since the start" for f in unverified]
        if not self._eligible:
            reasons.append("the Node is to go, or is not there")
        return self._answer((*self.reasons(), *reasons), eligible=self._eligible, verbose=verbose)

    def livez(self, *, verbose: bool = False) -> Answer:
        """The same without what is no fault of ours: a start not finished, a Node that goes."""
        return self._answer(self.reasons(), eligible=msgspec.UNSET, verbose=verbose)

    def _answer(
        self, reasons: tuple[str, ...], *, eligible: bool | msgspec.UnsetType, verbose: bool
    ) -> Answer:
        now, current = self._clock(), self._wall()
        status = {}
        oldest: float | None = now
        for family, writes in self._families.items():
            at = writes.verified
            oldest = None if at is None or oldest is None else min(at, oldest)
            whole = not self._owing(writes, now)
            status[family_label(family)] = _FamilyDocument(_time(at, now, current), whole)
        document = _Document(
            # "Now" while all is well, as kube-proxy says it: nothing to do is up to date.
            last_updated=_time(oldest if reasons else now, now, current),
            current_time=_time(now, now, current),
            node_eligible=eligible,
            healthy=not reasons,
            status=status,
            reasons=reasons if verbose else msgspec.UNSET,
        )
        return Answer(UNAVAILABLE if reasons else OK, msgspec.json.encode(document))


def _time(at: float | None, now: float, current: float) -> str:
    """A moment of the clock as RFC 3339 in UTC, given what is now on both clocks."""
    if at is None:
        return _NEVER
    moment = dt.datetime.fromtimestamp(current - (now - at), dt.UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
