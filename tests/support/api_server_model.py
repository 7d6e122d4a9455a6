"""What the API server double stores: objects, their resourceVersions, what happened to them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Object: TypeAlias = dict[str, Any]
Key: TypeAlias = tuple[str, str]

KINDS = {
    "/api/v1/services": ("Service", "v1"),
    "/apis/discovery.k8s.io/v1/endpointslices": ("EndpointSlice", "discovery.k8s.io/v1"),
    "/api/v1/nodes": ("Node", "v1"),
}


@dataclass(frozen=True)
class Past:
    """One change: the object after it (for a deletion, with the deletion's version)."""

    version: int
    type: str
    object: Object


@dataclass
class Collection:
    """All objects of a kind, and their changes since the last compaction."""

    kind: str
    api_version: str
    objects: dict[Key, Object] = field(default_factory=dict)
    past: list[Past] = field(default_factory=list)
    compacted: int = 0
    epoch: int = 0


class Store:
    """The collections under one counter; may be used from any thread."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.version = 1000
        self.collections = {path: Collection(*kind) for path, kind in KINDS.items()}
        self.watchers: list[Callable[[], None]] = []

    def collection(self, kind: str) -> Collection:
        return next(c for c in self.collections.values() if c.kind == kind)

    def put(self, thing: Object) -> None:
        """Create or replace an object."""
        with self.lock:
            collection = self.collection(thing["kind"])
            key = key_of(thing)
            self.version += 1
            stored = json.loads(json.dumps(thing))
            stored["metadata"]["resourceVersion"] = str(self.version)
            change = "MODIFIED" if key in collection.objects else "ADDED"
            collection.objects[key] = stored
            collection.past.append(Past(self.version, change, stored))
        self._notify()

    def delete(self, kind: str, key: Key) -> None:
        with self.lock:
            collection = self.collection(kind)
            last = json.loads(json.dumps(collection.objects.pop(key)))
            self.version += 1
            last["metadata"]["resourceVersion"] = str(self.version)
            collection.past.append(Past(self.version, "DELETED", last))
        self._notify()

    def compact(self) -> None:
        """Forget what happened: watches from before get 410."""
        with self.lock:
            for collection in self.collections.values():
                collection.past.clear()
                collection.compacted = self.version

    def rewind(self, by: int) -> None:
        """Let versions go back, as when etcd was restored from a backup."""
        with self.lock:
            self.version = max(self.version - by, 1)
            for collection in self.collections.values():
                collection.past.clear()
                collection.compacted = self.version
                collection.epoch += 1
                for thing in collection.objects.values():
                    thing["metadata"]["resourceVersion"] = str(self.version)
        self._notify()

    def _notify(self) -> None:
        for watcher in list(self.watchers):
            watcher()


def key_of(thing: Object) -> Key:
    meta = thing["metadata"]
    return meta.get("namespace", ""), meta["name"]


def matches(thing: Object, query: dict[str, str]) -> bool:
    """Whether an object is selected; of the selectors' grammar as much as clients here use."""
    labels = thing["metadata"].get("labels") or {}
    for requirement in filter(None, query.get("labelSelector", "").split(",")):
        assert requirement.startswith("!"), requirement
        if requirement[1:] in labels:
            return False
    for requirement in filter(None, query.get("fieldSelector", "").split(",")):
        path, _, value = requirement.partition("=")
        assert path == "metadata.name", requirement
        if thing["metadata"]["name"] != value:
            return False
    return True


def pages(collection: Collection, query: dict[str, str]) -> Iterator[tuple[Key, Object]]:
    """The selected objects in etcd's order, from where ``continue`` says."""
    after = tuple(json.loads(query["continue"])["after"]) if "continue" in query else None
    for key in sorted(collection.objects):
        if (after is None or key > after) and matches(collection.objects[key], query):
            yield key, collection.objects[key]
