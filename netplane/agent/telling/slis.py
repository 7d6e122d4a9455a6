"""What became of each probe of the process, as every Kubernetes component tells it.

``/metrics/slis`` (KEP-3466) is a page of its own, so that it can be scraped more often than the
rest: a gauge with the last result of each health check, and a counter of all results.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from netplane.agent.telling.metrics import Page, page_of

#: The name that a component's check has which proves no more than that it answers.
PING: Final = "ping"
_HEALTHZ: Final = "healthz"


class Slis:
    """The results of ``/healthz`` on the metrics port."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=True)
        self._last = Gauge(
            "kubernetes_healthcheck",
            "The last result of a health check: 1 for success",
            ("name", "type"),
            registry=self._registry,
        )
        self._results = Counter(
            "kubernetes_healthchecks_total",
            "Results of a health check",
            ("name", "status", "type"),
            registry=self._registry,
        )
        for status in ("success", "error"):
            self._results.labels(PING, status, _HEALTHZ)

    def probed(self, *, well: bool) -> None:
        """Somebody asked, and was told so."""
        self._last.labels(PING, _HEALTHZ).set(int(well))
        self._results.labels(PING, "success" if well else "error", _HEALTHZ).inc()

    def page(self, accept: str = "") -> Page:
        """The exposition, in the format that a request's Accept header prefers."""
        return page_of(self._registry, accept)
