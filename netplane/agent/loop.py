"""The one loop: changes in, rules out, and a look whenever somebody else may have touched them.

    source ──take──> keeper ──keep──> kernel
                        ^                │ notices, the period
                        └──── look <─────┘

One event loop waits; one worker thread does what blocks. So health and metrics answer while the
kernel works. Nothing is written before the source is in sync; changes that come meanwhile are
coalesced; a failure is retried with a growing pause and loses nothing, since the keeper owes it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import msgspec

from netplane.agent.changes import ClusterChange, Source
from netplane.agent.clocks import Clocks
from netplane.agent.keeper import Keeper, Kept
from netplane.agent.lookout import Lookout
from netplane.agent.pace import Pace, Pacer
from netplane.agent.telling.health import Health
from netplane.agent.telling.health_checks import HealthChecks, bind_addresses
from netplane.agent.telling.ledger import Ledger
from netplane.agent.telling.logs import Journal
from netplane.agent.telling.measures import Measures
from netplane.agent.telling.metrics import Metrics
from netplane.agent.telling.systemd import Notifier
from netplane.core.model.problem import Problem
from netplane.errors import ApplyError, ConflictError, WireError

_SHORT = 1.0  # seconds at most in which nobody is told that the loop turns
_MOST_TRIGGERED = 4096  # changes whose way to the kernel is timed, while nothing can be written
_HUNG = 900.0  # seconds after which a pass is thought to hang, which a restart may mend


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What the loop joins."""

    source: Source
    keeper: Keeper
    lookout: Lookout
    ledger: Ledger
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
        self._pacer = Pacer(pace, parts.clocks.monotonic)
        self._measures = Measures(parts.metrics)
        self._touched = asyncio.Event()  # the kernel has to be looked at
        self._passes = 0
        self._failing = False
        self._started = parts.clocks.wall()
        self._triggered: list[float] = []  # when what is not verified yet was changed
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="keeper")

    async def run(self) -> None:
        """Keep the node until cancelled.

        Raises:
            ConflictError: A kube-proxy programs this namespace and is not to be taken over.
        """
        async with self._listening() as listening:
            while True:
                if listening.done():
                    # A source gets over all that the other side does to it: this is a fault of
                    # ours. A process that starts anew serves better than one that hears nothing.
                    listening.result()
                    raise AssertionError("a source listens until it is cancelled")
                self._turned()
                if self._parts.source.in_sync:
                    await self._turn()
                else:
                    self._parts.source.take()  # nothing yet, and from now on only news wakes us
                await self._wait(listening)

    @contextlib.asynccontextmanager
    async def _listening(self) -> AsyncIterator[asyncio.Task[None]]:
        """Listen to the source, by the task that is yielded, and to the kernel meanwhile."""
        listening = asyncio.create_task(self._parts.source.run())
        touched = self._touched.set
        try:
            async with self._parts.lookout.watching(touched, touched):
                yield listening
        finally:
            self._parts.notifier.stopping()
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            await self._parts.checks.close()
            self._worker.shutdown()
            self._parts.journal.report_dropped()

    async def _turn(self) -> None:
        """Take in what changed and make the kernel so, or look whether it still is."""
        change = self._parts.source.take()
        touched = self._touched.is_set() and not self._pacer.rest_from_looking()
        look = touched or self._pacer.due
        if change is None and not look:
            return
        if change is not None:
            self._take(change)
        if look:
            self._touched.clear()
            self._parts.health.wanted()  # until it has been looked at, nobody knows
        self._parts.health.begun()
        self._parts.ledger.begun()
        self._pacer.begun(look=look)
        begin = self._parts.clocks.monotonic()
        try:
            kept = await self._work(look=look)
        except ConflictError:
            raise
        except (ApplyError, WireError) as exc:
            self._failed(exc, full=look)
            return
        await self._succeeded(kept, self._parts.clocks.monotonic() - begin, look=look)

    async def _work(self, *, look: bool) -> Kept:
        """Have one pass done, and turn meanwhile: a large one takes minutes in iptables mode."""
        begin = self._parts.clocks.monotonic()
        work = asyncio.get_running_loop().run_in_executor(
            self._worker, partial(self._keep, look=look)
        )
        try:
            while not (await asyncio.wait({work}, timeout=_SHORT))[0]:
                if self._parts.clocks.monotonic() - begin < _HUNG:
                    self._turned()
        except asyncio.CancelledError:
            work.cancel()
            raise
        return work.result()

    def _turned(self) -> None:
        self._parts.health.turned()
        self._parts.notifier.alive()

    def _keep(self, *, look: bool) -> Kept:
        """One pass, on the worker's thread."""
        with self._parts.lookout.writing():
            return self._parts.keeper.keep(look=look)

    def _take(self, change: ClusterChange) -> None:
        """Hand what changed to everybody who keeps books."""
        parts = self._parts
        parts.keeper.take(change)
        parts.health.wanted()
        self._tell_refused(parts.ledger.take(change))
        parts.metrics.service_changes.inc(len(change.services))
        parts.metrics.endpoint_changes.inc(len(change.slices))
        self._measures.queued(parts.keeper.families, at=parts.clocks.wall())
        self._measures.owed(parts.ledger)
        # Not what was changed before we came: how long that took says nothing about this node.
        fresh = [moment for moment in change.triggered if moment > self._started]
        self._triggered += fresh[: _MOST_TRIGGERED - len(self._triggered)]
        if change.eligible is not None:
            parts.health.node(eligible=change.eligible)

    def _failed(self, exc: Exception, *, full: bool) -> None:
        """Try again soon; what was owed is owed still."""
        parts = self._parts
        again = self._pacer.failed()
        self._failing = True
        parts.health.failed(str(exc))
        parts.ledger.failed()
        parts.journal.error(
            "write-failed", "the rules could not be written", reason=str(exc), again=again
        )
        self._measures.failed(parts.keeper.families, full=full)
        self._measures.owed(parts.ledger)

    async def _succeeded(self, kept: Kept, seconds: float, *, look: bool) -> None:
        parts = self._parts
        now = parts.clocks.wall()
        # The ports first: who is told that all is well may ask them at once.
        ports = await parts.checks.update(kept.health_checks, bind_addresses(kept.node))
        # What failed before is made good by looks, too.
        repaired = bool(kept.applied.mended) and self._passes > 0 and not self._pacer.retrying
        fresh = parts.ledger.settled(kept.applied.refused, kept.collisions)
        parts.health.verified()
        if repaired:
            parts.health.repaired()
        elif look:
            parts.health.undisturbed()
        parts.health.rival(kept.rival)
        if kept.applied.disturbed:
            self._touched.set()
        self._pacer.passed(seconds, again=bool(kept.after.failures or kept.applied.refused))
        self._measures.passed(kept, seconds, at=now)
        self._tell(kept, fresh, seconds, repaired=repaired)
        triggered, self._triggered = self._triggered, []
        self._measures.programmed(parts.keeper.families, [now - at for at in triggered])
        self._measures.owed(parts.ledger)
        self._passes += 1
        self._tell_turn(seconds)
        self._remark(kept.notes, ports)
        if self._passes == 1:
            parts.notifier.ready()
        parts.notifier.status(f"{len(parts.ledger.problems)} refused objects")

    def _tell(
        self, kept: Kept, fresh: tuple[Problem, ...], seconds: float, *, repaired: bool
    ) -> None:
        """Say in words what a pass did."""
        journal = self._parts.journal
        if repaired:
            self._measures.repaired(kept.applied.mended, seconds)
            journal.warning(
                "repaired",
                "rules had been changed by somebody else, and are repaired",
                seconds=seconds,
            )
        if kept.applied.changes and (kept.applied.replanned or not repaired):
            journal.info(
                "written", "rules written", services=len(kept.applied.replanned), seconds=seconds
            )
        # With the first pass this is to be expected; later, somebody has been there.
        also = journal.warning if self._passes > 1 else journal.info
        for line in kept.after.also:
            also("also", line)
        for flow in kept.after.flows:
            journal.info("flow-deleted", "a stale UDP flow was deleted", flow=str(flow))
        for failure in kept.after.failures:
            journal.warning("step-failed", "a step after the rules failed", reason=failure)
        for name, words in kept.applied.refused.items():
            journal.error(
                "kernel-refused", "the kernel refused a Service", service=str(name), reason=words
            )
        if kept.rival:
            journal.error(
                "rival",
                "a kube-proxy programs this namespace too: stop it, or this agent",
                traces=kept.rival,
            )
        self._tell_refused(fresh)

    def _remark(self, notes: tuple[str, ...], ports: tuple[str, ...]) -> None:
        """Note what is not as it should be, and say what of it is new."""
        journal, ledger = self._parts.journal, self._parts.ledger
        for kind, lines in (("remark", notes), ("health-check-port", ports)):
            for line in lines:
                if line not in ledger.remarks:
                    journal.warning(kind, line)
        ledger.remarks = (*notes, *ports)

    def _tell_turn(self, seconds: float) -> None:
        """Say that the rules are written for the first time, or again after failures."""
        parts = self._parts
        if self._passes == 1:
            refused = len(parts.ledger.problems)
            parts.journal.notice(
                "in-step", "the rules are written", refused=refused, seconds=seconds
            )
        elif self._failing:
            parts.journal.notice("written-again", "the rules could be written again")
        self._failing = False

    def _tell_refused(self, problems: tuple[Problem, ...]) -> None:
        for problem in problems:
            self._parts.journal.warning("refused", "refused", object=str(problem))

    async def _wait(self, listening: asyncio.Task[None]) -> None:
        """Until there is something to do: a change, a notice, a pause over, or the period."""
        parts = self._parts
        while (rest := self._pacer.rest()) > 0:
            await asyncio.sleep(min(rest, _SHORT))
            self._turned()
        waiting: set[asyncio.Future[Any]] = {asyncio.ensure_future(parts.source.wait())}
        timeout = self._pacer.patience if parts.source.in_sync else self._pacer.pace.period
        if self._touched.is_set():
            timeout = min(timeout, self._pacer.rest_from_looking())
        else:
            waiting.add(asyncio.ensure_future(self._touched.wait()))
        if parts.notifier.watchdog:
            timeout = min(timeout, parts.notifier.watchdog / 2)
        try:
            anything: set[asyncio.Future[Any]] = {*waiting, listening}
            await asyncio.wait(anything, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
