"""What a pass of the loop means in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from netplane.agent.keeper import Kept
from netplane.agent.telling.health import family_label
from netplane.agent.telling.ledger import Ledger
from netplane.agent.telling.metrics import Metrics
from netplane.core.model.address import Family, of_family
from netplane.core.plan.incremental import ServicePlan

_POLICIES = ("internal", "external")


class Measures:
    """Turns passes into metrics; what is counted over all Services follows their changes."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._without_local: Counter[tuple[str, str]] = Counter()
        self._revision = -1
        self._conflicts = 0

    def queued(self, families: tuple[Family, ...], *, at: float) -> None:
        """A change was received, at a time in seconds since the epoch."""
        for family in families:
            self._metrics.last_queued.labels(family_label(family)).set(at)

    def owed(self, ledger: Ledger) -> None:
        """What waits, and what is refused."""
        self._metrics.service_changes_pending.set(ledger.waiting(slices=False))
        self._metrics.endpoint_changes_pending.set(ledger.waiting(slices=True))
        if ledger.revision != self._revision:
            self._revision = ledger.revision
            self._metrics.refused(ledger.problems)

    def passed(self, kept: Kept, seconds: float, *, at: float) -> None:
        """A pass worked.

        Args:
            kept: What it did.
            seconds: How long it took.
            at: When it ended, in seconds since the epoch.
        """
        metrics = self._metrics
        for index, view in enumerate(kept.node.families):
            family, label = view.family, family_label(view.family)
            metrics.synced(family, seconds=seconds, full=kept.applied.observed, at=at)
            flows = of_family(tuple(flow.destination for flow in kept.after.flows), family)
            if (took := kept.flow_seconds.get(family)) is not None:
                metrics.conntrack_deleted(family, len(flows), took)
            if kept.applied.changes:
                metrics.transactions.labels(label, "committed").inc()
            if kept.applied.refused:
                metrics.transactions.labels(label, "refused").inc()
            if conflicts := kept.conflicts - self._conflicts:
                metrics.transactions.labels(label, "conflict").inc(conflicts)
                metrics.generation_conflicts.labels(label).inc(conflicts)
            for change in kept.applied.replanned:
                self._count(label, change.before, index, -1)
                self._count(label, change.after, index, 1)
            for policy in _POLICIES:
                gauge = metrics.no_local_endpoints.labels(label, policy)
                gauge.set(self._without_local[label, policy])

        self._conflicts = kept.conflicts
        for (family, table), rules in kept.rules.items():
            metrics.iptables_rules.labels(family_label(family), table).set(rules.total)
            metrics.iptables_rules_last.labels(family_label(family), table).set(rules.written)

    def repaired(self, families: Iterable[Family], seconds: float) -> None:
        """The kernel was found other than written in these families, and is mended."""
        for family in families:
            label = family_label(family)
            self._metrics.drift_found.labels(label).inc()
            self._metrics.drift_repaired.labels(label).inc()
            self._metrics.repair_duration.labels(label).observe(seconds)

    def programmed(self, families: tuple[Family, ...], late: Iterable[float]) -> None:
        """Changes of endpoints are verified, so many seconds after they were made."""
        durations = [self._metrics.programming_duration.labels(family_label(f)) for f in families]
        for seconds in late:
            for duration in durations:
                duration.observe(max(0.0, seconds))

    def failed(self, families: tuple[Family, ...], *, full: bool) -> None:
        """A pass failed."""
        for family in families:
            self._metrics.failed(family, full=full)
            self._metrics.transactions.labels(family_label(family), "failed").inc()

    def _count(self, label: str, plan: ServicePlan, index: int, by: int) -> None:
        for port in plan[index]:
            if port.has_endpoints and not port.has_internal:
                self._without_local[label, "internal"] += by
            if port.has_endpoints and port.externally_accessible and not port.has_external:
                self._without_local[label, "external"] += by
