"""The agent's metrics, in a registry of their own.

``kubeproxy_*`` have kube-proxy's names, labels and buckets (reference section 6) where they mean
the same, so that its dashboards and alerts go on working. ``netplane_*`` are ours.
"""

from __future__ import annotations

import heapq
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from netplane.agent.telling.health import family_label
from netplane.config import Mode
from netplane.core.model.address import Family
from netplane.core.model.problem import Problem
from netplane.core.model.reasons import Reason

_SYNC_BUCKETS = tuple(0.001 * 2**k for k in range(15))
_PROGRAMMING_BUCKETS = (
    0.25, 0.5, *range(1, 60), *range(60, 120, 5), *range(120, 301, 30),
)  # fmt: skip
_FAMILY = ("ip_family",)
_OTHER = "other"
RESULTS = ("committed", "refused", "conflict", "failed")


class Page(NamedTuple):
    """An exposition and the media type it is in."""

    body: bytes
    content_type: str


def page_of(registry: CollectorRegistry, accept: str) -> Page:
    """A registry's exposition, in the format that a request's Accept header prefers."""
    encode, content_type = choose_encoder(accept)
    return Page(encode(registry), content_type)


class Metrics:
    """Every metric of the agent; each attribute is one, labelled ``ip_family`` unless said.

    Args:
        mode: Failed writes are counted under the name kube-proxy has for this mode.
        watch_age: Seconds since the source's last sign of life (``Health.watch_age``).
        top_services: Most Services whose new connections are told apart; 0: none is.
    """

    def __init__(
        self, mode: Mode, *, watch_age: Callable[[], float], top_services: int = 0
    ) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._mode = mode
        self._define_kube_proxy()
        self._define_own(watch_age)
        self._begin_at_zero()
        self._connections = _Connections(top_services)
        self.registry.register(self._connections)
        ProcessCollector(registry=self.registry)

    # --- what is told in one call because several metrics follow from it -------------------------

    def synced(self, family: Family, *, seconds: float, full: bool, at: float) -> None:
        """A write is verified: its duration, whether of everything, its end (epoch seconds)."""
        label = family_label(family)
        self.sync_duration.labels(label).observe(seconds)
        part = self.full_sync_duration if full else self.partial_sync_duration
        part.labels(label).observe(seconds)
        self.last_sync.labels(label).set(at)

    def failed(self, family: Family, *, full: bool) -> None:
        """A write failed."""
        label = family_label(family)
        if self._mode == "nftables":
            self.nftables_failures.labels(label).inc()
        else:
            failures = self.restore_failures if full else self.partial_restore_failures
            failures.labels(label).inc()

    def conntrack_deleted(self, family: Family, entries: int, seconds: float) -> None:
        """One pass over the connection tracking table."""
        label = family_label(family)
        self.conntrack_duration.labels(label).observe(seconds)
        self.conntrack_entries.labels(label).inc(entries)
        self.conntrack_deletions.labels(label).inc(entries)

    def refused(self, problems: Iterable[Problem]) -> None:
        """All refusals there are now: so many objects of each kind for each reason."""
        objects = {(p.kind, p.namespace, p.name, reason_name(p)) for p in problems}
        self.refused_objects.clear()
        for (kind, reason), count in Tally((o[0], o[3]) for o in objects).items():
            self.refused_objects.labels(kind, reason).set(count)

    def _begin_at_zero(self) -> None:
        """Let every counter be there from the start: a rate over its first step is none else."""
        for metric in vars(self).copy().values():
            if isinstance(metric, Counter) and metric._labelnames == _FAMILY:  # noqa: SLF001
                for family in Family:
                    metric.labels(family_label(family))
        for family in Family:
            for result in RESULTS:
                self.transactions.labels(family_label(family), result)

    def connections(self, totals: Mapping[str, int]) -> None:
        """New connections by Service (``namespace/name``) since its rules were written."""
        self._connections.totals = totals

    def page(self, accept: str = "") -> Page:
        """The exposition, in the format that a request's Accept header prefers."""
        return page_of(self.registry, accept)

    # --- definitions -----------------------------------------------------------------------------

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, _FAMILY, buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...] = _FAMILY) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = _FAMILY) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _define_kube_proxy(self) -> None:
        proxy = "kubeproxy_sync_proxy_rules_"
        self.sync_duration = self._histogram(
            f"{proxy}duration_seconds", "Duration of a sync, verification included", _SYNC_BUCKETS
        )
        self.full_sync_duration = self._histogram(
            "kubeproxy_sync_full_proxy_rules_duration_seconds",
            "Duration of a sync that looked at everything",
            _SYNC_BUCKETS,
        )
        self.partial_sync_duration = self._histogram(
            "kubeproxy_sync_partial_proxy_rules_duration_seconds",
            "Duration of a sync of what changed",
            _SYNC_BUCKETS,
        )
        self.programming_duration = self._histogram(
            "kubeproxy_network_programming_duration_seconds",
            "From the change of a Service's endpoints in the cluster to verified rules",
            _PROGRAMMING_BUCKETS,
        )
        self.last_sync = self._gauge(
            f"{proxy}last_timestamp_seconds", "When rules were last verified"
        )
        self.last_queued = self._gauge(
            f"{proxy}last_queued_timestamp_seconds", "When a change was last asked for"
        )
        self.endpoint_changes_pending = self._gauge(
            f"{proxy}endpoint_changes_pending", "Changed slices not written yet", ()
        )
        self.endpoint_changes = self._counter(
            f"{proxy}endpoint_changes_total", "Changed slices received", ()
        )
        self.service_changes_pending = self._gauge(
            f"{proxy}service_changes_pending", "Changed Services not written yet", ()
        )
        self.service_changes = self._counter(
            f"{proxy}service_changes_total", "Changed Services received", ()
        )
        self._define_kube_proxy_modes(proxy)

    def _define_kube_proxy_modes(self, proxy: str) -> None:
        self.iptables_rules = self._gauge(
            f"{proxy}iptables_total", "Rules in the kernel", ("ip_family", "table")
        )
        self.iptables_rules_last = self._gauge(
            f"{proxy}iptables_last", "Rules the last sync wrote", ("ip_family", "table")
        )
        self.restore_failures = self._counter(
            f"{proxy}iptables_restore_failures_total", "Failed writes of everything"
        )
        self.partial_restore_failures = self._counter(
            f"{proxy}iptables_partial_restore_failures_total", "Failed writes of what changed"
        )
        self.nftables_failures = self._counter(
            f"{proxy}nftables_sync_failures_total", "Failed nftables transactions"
        )
        self.no_local_endpoints = self._gauge(
            f"{proxy}no_local_endpoints_total",
            "Service ports with a Local traffic policy and no endpoint on this node",
            ("ip_family", "traffic_policy"),
        )
        self.conntrack_duration = self._histogram(
            "kubeproxy_conntrack_reconciler_sync_duration_seconds",
            "Duration of a pass over the connection tracking table",
            _SYNC_BUCKETS,
        )
        self.conntrack_entries = self._counter(
            "kubeproxy_conntrack_reconciler_deleted_entries_total", "Stale UDP entries deleted"
        )
        self.healthz = self._counter(
            "kubeproxy_proxy_healthz_total", "Answers on /healthz", ("code",)
        )
        self.livez = self._counter("kubeproxy_proxy_livez_total", "Answers on /livez", ("code",))
        # client-go's, in every component that asks an API server.
        self.requests = self._counter(
            "rest_client_requests_total",
            "Requests to the API server by what came of them; <error>: no answer",
            ("code", "host", "method"),
        )

    def _define_own(self, watch_age: Callable[[], float]) -> None:
        self.drift_found = self._counter(
            "netplane_drift_found_total", "Times the kernel was found other than written"
        )
        self.drift_repaired = self._counter(
            "netplane_drift_repaired_total", "Repairs that were verified"
        )
        self.repair_duration = self._histogram(
            "netplane_repair_duration_seconds",
            "From finding drift to verified rules",
            _SYNC_BUCKETS,
        )
        self.refused_objects = self._gauge(
            "netplane_refused_objects", "Objects refused now, in whole or part", ("kind", "reason")
        )
        self.conntrack_deletions = self._counter(
            "netplane_conntrack_deletions_total", "Stale connection tracking entries deleted"
        )
        self._gauge(
            "netplane_watch_age_seconds", "Time since the source's last sign of life", ()
        ).set_function(watch_age)
        self.transactions = self._counter(
            "netplane_transactions_total",
            f"Transactions by how they ended: {', '.join(RESULTS)}",
            ("ip_family", "result"),
        )
        self.generation_conflicts = self._counter(
            "netplane_generation_conflicts_total", "Commits begun anew after a foreign commit"
        )
        self.log_messages_dropped = self._counter(
            "netplane_log_messages_dropped_total", "Messages over their kind's rate", ("kind",)
        )
        self.build = self._gauge("netplane_build_info", "Always 1", ("version", "mode"))


def reason_name(problem: Problem) -> str:
    """The reason of a refusal as a label, ``not_an_address``: one of a fixed few words.

    ``other`` are those that name another object, the winner of a contested address.
    """
    fitting = [r for r in Reason if problem.reason.startswith(r.value)]
    if not fitting:
        return _OTHER
    return max(fitting, key=lambda reason: len(reason.value)).name.lower()


class _Connections(Collector):
    """New connections of the busiest Services, so that the number of series is bounded."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.totals: Mapping[str, int] = {}

    def collect(self) -> Iterator[Metric]:
        if not self._limit:
            return
        family = CounterMetricFamily(
            "netplane_service_new_connections",
            "New connections of the busiest Services since their rules were written",
            labels=("namespace", "service"),
        )
        top = heapq.nlargest(self._limit, self.totals.items(), key=lambda item: (item[1], item[0]))
        for name, total in top:
            namespace, _, service = name.partition("/")
            family.add_metric((namespace, service), total)
        yield family
