"""Random changes to an API server's store: Services and slices that come, change and go."""

from __future__ import annotations

import random

from tests.support.api_server_model import Store
from tests.support.manifests import Object, endpoint_slice, service

PROXY = "service.kubernetes.io/service-proxy-name"


class Churn:
    """Changes of all kinds that a cluster makes, over a bounded number of names."""

    def __init__(self, store: Store, rng: random.Random, *, names: int = 150) -> None:
        self._store = store
        self._rng = rng
        self._names = names

    def change(self) -> None:
        """One change."""
        number = self._rng.randrange(self._names)
        kind, key = self._rng.choice(
            [("Service", f"web-{number}"), ("EndpointSlice", f"web-{number}-ipv4")]
        )
        known = ("default", key) in self._store.collection(kind).objects
        if known and self._rng.random() < 0.3:
            self._store.delete(kind, ("default", key))
        elif kind == "Service":
            self._store.put(self._service(number))
        else:
            self._store.put(self._slice(number))

    def _service(self, number: int) -> Object:
        chance = self._rng.random()
        address = f"172.30.{number // 250}.{number % 250 + 1}" if chance > 0.05 else "not-an-ip"
        labels = {PROXY: "other"} if chance > 0.95 else {"version": str(self._rng.randrange(3))}
        made = service(
            f"web-{number}",
            cluster_ips=[address],
            ports=[{"name": "http", "port": self._rng.randrange(80, 90)}],
            labels=labels,
        )
        made["metadata"]["annotations"] = {"note": "Grüße, 世界 🌍"}
        return made

    def _slice(self, number: int) -> Object:
        addresses = [f"10.244.{self._rng.randrange(4)}.{i}" for i in range(1, 4)]
        made = endpoint_slice(
            f"web-{number if self._rng.random() < 0.9 else 0}",
            addresses[: self._rng.randrange(4)],
            name=f"web-{number}-ipv4",
        )
        made["metadata"]["annotations"] = {
            "note": "Grüße, 世界 🌍",
            "endpoints.kubernetes.io/last-change-trigger-time": "2026-01-02T03:04:05Z",
        }
        return made
