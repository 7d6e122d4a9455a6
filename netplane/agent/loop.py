"""The one loop: changes in, rules out, and a look whenever somebody else wrote.

    source ──take──> keeper ──keep──> kernel
                        ^                │ notices of transactions, the period
                        └──── look <─────┘

One event loop waits; one worker thread does what blocks. So health and metrics answer while the
kernel works. Nothing is written before the source is in sync; changes that come meanwhile are
coalesced; a failure is retried with a growing pause and loses nothing, since the keeper holds all.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import msgspec

from netplane.agent.changes import Source
from netplane.agent.health import Clocks, Health, family_label
from netplane.agent.health_checks import HealthChecks, bind_addresses
from netplane.agent.keeper import Keeper, Kept
from netplane.agent.logs import Journal
from netplane.agent.metrics import Metrics
from netplane.agent.systemd import Notifier
from netplane.apply.nft_events import NftEvents
from netplane.errors import ApplyError, ConflictError, WireError

_FIRST_PAUSE = 0.25  # seconds after a first failure; doubled up to the period
_SHORTEST = (
    0.2  # seconds between two looks: somebody who writes all the time must not keep us busy
)


class Pace(msgspec.Struct, frozen=True):
    """How often at least, and at most.

    Attributes:
        period: Seconds after which the kernel is compared though nothing was heard (syncPeriod).
        shortest: Seconds between the beginnings of two passes (minSyncPeriod).
    """

    period: float = 30.0
    shortest: float = 0.0


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What the loop joins."""

    source: Source
    keeper: Keeper
    events: NftEvents
    health: Health
    checks: HealthChecks
    metrics: Metrics
    journal: Journal
    notifier: Notifier
    clocks: Clocks


class Loop:
    """Runs the parts until cancelled; on the way out rules stay as they are."""

    def __init__(self, parts: Parts, pace: Pace) -> None:
        self._parts = parts
        self._pace = pace
        self._touched = asyncio.Event()
        self._owed = True  # the first pass adopts what an earlier process left
        self._pause = 0.0
        self._passes = 0
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="keeper")

    async def run(self) -> None:
        """Keep the node until cancelled.

        Raises:
            ConflictError: A kube-proxy programs this namespace and is not to be taken over.
        """
        async with self._running():
            while True:
                self._parts.health.turned()
                self._parts.notifier.alive()
                if self._parts.source.in_sync:
                    await self._turn()
                await self._wait()

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        """Listen to the source and to the kernel meanwhile."""
        loop = asyncio.get_running_loop()
        listening = asyncio.create_task(self._parts.source.run())
        loop.add_reader(self._parts.events.fileno(), self._hear)
        try:
            yield
        finally:
            self._parts.notifier.stopping()
            loop.remove_reader(self._parts.events.fileno())
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening
            await self._parts.checks.close()
            self._worker.shutdown()

    def _hear(self) -> None:
        """Somebody committed a transaction: look, unless it was this process."""
        notices = self._parts.events.read()
        if notices.lost or any(not commit.ours for commit in notices.commits):
            self._touched.set()

    async def _turn(self) -> None:
        """Take in what changed and make the kernel so, or look whether it still is."""
        change = self._parts.source.take()
        if change is not None:
            self._parts.keeper.take(change)
            self._parts.health.wanted()
            self._parts.metrics.service_changes.inc(len(change.services))
            self._parts.metrics.endpoint_changes.inc(len(change.slices))
            if change.eligible is not None:
                self._parts.health.node(eligible=change.eligible)
            self._owed = True
        wanted = self._owed
        self._touched.clear()
        self._parts.health.begun()
        begin = self._parts.clocks.monotonic()
        try:
            kept = await asyncio.get_running_loop().run_in_executor(
                self._worker, self._parts.keeper.keep
            )
        except ConflictError:
            raise
        except (ApplyError, WireError) as exc:
            self._failed(exc)
            return
        seconds = self._parts.clocks.monotonic() - begin
        await self._succeeded(kept, seconds, wanted=wanted)
        if change is not None and change.triggered is not None:
            late = self._parts.clocks.wall() - change.triggered
            for family in kept.plan.families:
                label = family_label(family.family)
                self._parts.metrics.programming_duration.labels(label).observe(max(0.0, late))

    def _failed(self, exc: Exception) -> None:
        """Try again soon; what was owed is owed still."""
        self._owed = True
        self._pause = min(self._pace.period, self._pause * 2 or _FIRST_PAUSE)
        self._parts.health.failed(str(exc))
        self._parts.journal.error(
            "write-failed", "the rules could not be written", reason=str(exc), again=self._pause
        )
        for view in self._parts.keeper.families:
            self._parts.metrics.failed(view, full=True)

    async def _succeeded(self, kept: Kept, seconds: float, *, wanted: bool) -> None:
        parts = self._parts
        self._owed = bool(kept.outcome.failures)
        self._pause = _FIRST_PAUSE if self._owed else 0.0
        self._measure(kept, seconds)
        if kept.outcome.changes and not wanted:
            self._repaired(seconds)
        elif kept.outcome:
            services = len(kept.outcome.changes.services) if kept.outcome.changes else 0
            parts.journal.info("written", "rules written", services=services, seconds=seconds)
        for failure in kept.outcome.failures:
            parts.journal.warning("step-failed", "a step after the rules failed", reason=failure)
        for problem in kept.plan.problems if wanted else ():
            parts.journal.warning("refused", "refused", object=str(problem))
        parts.health.verified()
        for warning in await parts.checks.update(
            kept.plan.health_checks, bind_addresses(kept.plan.node)
        ):
            parts.journal.warning("health-check-port", warning)
        self._passes += 1
        if self._passes == 1:
            parts.notifier.ready()
        parts.notifier.status(f"{len(kept.plan.problems)} refused objects")

    def _measure(self, kept: Kept, seconds: float) -> None:
        """Say in numbers what a pass did."""
        metrics, outcome = self._parts.metrics, kept.outcome
        for family in kept.plan.families:
            label = family_label(family.family)
            metrics.synced(family.family, seconds=seconds, full=True, at=self._parts.clocks.wall())
            flows = sum((":" in flow.destination) == (label == "IPv6") for flow in outcome.flows)
            metrics.conntrack_deleted(family.family, flows, seconds)
            if outcome.changes:
                metrics.transactions.labels(label, "committed").inc()
            metrics.generation_conflicts.labels(label).inc(outcome.attempts - 1)
            inside = [p for p in family.ports if p.has_endpoints and not p.has_internal]
            outside = [
                p
                for p in family.ports
                if p.has_endpoints and p.externally_accessible and not p.has_external
            ]
            metrics.no_local_endpoints.labels(label, "internal").set(len(inside))
            metrics.no_local_endpoints.labels(label, "external").set(len(outside))
        metrics.refused(kept.plan.problems)

    def _repaired(self, seconds: float) -> None:
        """Somebody had changed our rules, and they are as they were again."""
        for family in self._parts.keeper.families:
            label = family_label(family)
            self._parts.metrics.drift_found.labels(label).inc()
            self._parts.metrics.drift_repaired.labels(label).inc()
            self._parts.metrics.repair_duration.labels(label).observe(seconds)
        self._parts.journal.warning(
            "repaired",
            "rules had been changed by somebody else, and are repaired",
            seconds=seconds,
        )

    async def _wait(self) -> None:
        """Until there is something to do: a change, a notice, a pause over, or the period."""
        parts, pace = self._parts, self._pace
        await asyncio.sleep(max(pace.shortest, _SHORTEST if self._touched.is_set() else 0.0))
        waiting = {
            asyncio.ensure_future(parts.source.wait()),
            asyncio.ensure_future(self._touched.wait()),
        }
        patience = self._pause if self._owed and parts.source.in_sync else pace.period
        watchdog = parts.notifier.watchdog
        timeout = min(patience, watchdog / 2) if watchdog else patience
        try:
            await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
