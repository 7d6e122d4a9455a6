"""List/watch: whatever a watch repeats, delays or breaks, and wherever bytes are cut."""

from __future__ import annotations

import json
import random

from hypothesis import given
from hypothesis import strategies as st

from netplane.agent.api.listwatch import Delete, ListWatch, Step, Upsert
from netplane.agent.api.wire import Resource
from netplane.errors import WatchError

RESOURCE = Resource(kind="Service", api_version="v1", path="/api/v1/services")
NAMES = st.sampled_from("abcd")
#: Each change: a name, and whether it is put or deleted.
CHANGES = st.lists(st.tuples(NAMES, st.booleans()), max_size=30)


class Cluster:
    """The truth: versions by name, and all that ever happened."""

    def __init__(self) -> None:
        self.version = 0
        self.held: dict[str, int] = {}
        self.past: list[tuple[int, bytes]] = []

    def change(self, name: str, *, put: bool) -> None:
        if not put and name not in self.held:
            return
        self.version += 1
        kind = ("MODIFIED" if name in self.held else "ADDED") if put else "DELETED"
        if put:
            self.held[name] = self.version
        else:
            del self.held[name]
        event = {"type": kind, "object": {"kind": "Service", **_thing(name, self.version)}}
        self.past.append((self.version, json.dumps(event).encode() + b"\n"))

    def page(self) -> bytes:
        meta = {"resourceVersion": str(self.version or 1)}
        items = [_thing(name, version) for name, version in self.held.items()]
        return json.dumps({"kind": "ServiceList", "metadata": meta, "items": items}).encode()


class Replica:
    """What follows from the machine's steps."""

    def __init__(self) -> None:
        self.machine = ListWatch(RESOURCE, clock=lambda: 0.0, rng=random.Random(0))
        self.held: dict[str, int] = {}

    def take(self, step: Step) -> None:
        if isinstance(step, Upsert):
            payload = json.loads(bytes(step.manifest.payload))  # type: ignore[arg-type]
            self.held[step.manifest.name] = int(payload["metadata"]["resourceVersion"])
        elif isinstance(step, Delete):
            del self.held[step.key.name]

    def feed(self, chunk: bytes) -> None:
        for step in self.machine.received(chunk):
            self.take(step)

    def list(self, cluster: Cluster) -> None:
        self._list(cluster)
        if not self.machine.in_sync:  # the first list is doubted where it is empty
            self._list(cluster)

    def _list(self, cluster: Cluster) -> None:
        self.machine.request()
        self.machine.opened()
        self.feed(cluster.page())
        for step in self.machine.closed():
            self.take(step)


def _thing(name: str, version: int) -> dict[str, object]:
    return {"metadata": {"name": name, "resourceVersion": str(version)}}


@given(before=CHANGES, after=CHANGES, draw=st.data())
def test_repeated_and_swapped_events_in_cut_bytes_end_as_the_cluster(
    before: list[tuple[str, bool]], after: list[tuple[str, bool]], draw: st.DataObject
) -> None:
    cluster, replica = Cluster(), Replica()
    for name, put in before:
        cluster.change(name, put=put)
    replica.list(cluster)
    assert replica.held == cluster.held
    start = len(cluster.past)
    for name, put in after:
        cluster.change(name, put=put)
    lines = [line for _, line in cluster.past[start:]]
    twice = draw.draw(st.lists(st.sampled_from(lines), max_size=5)) if lines else []
    order = draw.draw(st.permutations(lines + twice))
    stream = b"".join(order)
    replica.machine.request()
    replica.machine.opened()
    while stream:
        cut = draw.draw(st.integers(1, len(stream)))
        replica.feed(stream[:cut])
        stream = stream[cut:]
    assert replica.held == cluster.held


@given(before=CHANGES, rest=CHANGES, noise=st.binary(max_size=200))
def test_noise_raises_what_is_ours_or_nothing_and_a_list_mends_all(
    before: list[tuple[str, bool]], rest: list[tuple[str, bool]], noise: bytes
) -> None:
    cluster, replica = Cluster(), Replica()
    for name, put in before:
        cluster.change(name, put=put)
    replica.list(cluster)
    replica.machine.request()
    replica.machine.opened()
    try:
        replica.feed(noise + b"\n")
    except WatchError as exc:
        replica.machine.spoiled(exc)
    for name, put in rest:
        cluster.change(name, put=put)
    replica.machine.silent(WatchError("silence"))
    replica.list(cluster)
    assert replica.held == cluster.held
