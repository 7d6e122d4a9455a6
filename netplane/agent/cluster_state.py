"""What a source holds of the cluster: decoded objects, and what of them changed since last told.

Objects come one by one (``upsert``, ``delete``) or as a whole snapshot (``adopt``). What is equal
after decoding is no change: new metadata of a Service, or conditions of a Node, cost nobody
anything. What changes back before it was told is no change either. Pure: no clock, no socket.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from netplane.agent.changes import ClusterChange, ObjectKey
from netplane.agent.health import is_eligible
from netplane.core.model.decoding import ENDPOINT_SLICE, NODE, SERVICE
from netplane.core.model.documents import Manifest
from netplane.core.model.nodes import node_from
from netplane.core.model.problem import Problem
from netplane.core.model.service import EndpointSlice, Node, Service, ServiceName
from netplane.core.model.services import service_from
from netplane.core.model.slices import service_of, slice_of
from netplane.core.model.snapshot import Snapshot

TRIGGER_ANNOTATION = "endpoints.kubernetes.io/last-change-trigger-time"
_K = TypeVar("_K", ServiceName, ObjectKey)
_V = TypeVar("_V")
_NO_SLICES: Mapping[str, EndpointSlice] = {}


class _TriggerAnnotations(msgspec.Struct):
    trigger: str | None = msgspec.field(name=TRIGGER_ANNOTATION, default=None)


class _TriggerMeta(msgspec.Struct):
    annotations: _TriggerAnnotations | None = None


class _Triggered(msgspec.Struct):
    """Of a slice only the annotation."""

    metadata: _TriggerMeta | None = None


class _Taint(msgspec.Struct):
    key: str | None = None


class _DepartureMeta(msgspec.Struct, rename="camel"):
    deletion_timestamp: str | None = None


class _DepartureSpec(msgspec.Struct):
    taints: list[_Taint] | None = None


class _Departure(msgspec.Struct):
    """Of a Node only what says that it is about to go."""

    metadata: _DepartureMeta | None = None
    spec: _DepartureSpec | None = None


class ClusterState:
    """Services, slices by Service, and the own Node.

    Args:
        node_name: Of the own Node; others are passed over.
    """

    def __init__(self, node_name: str) -> None:
        self._node_name = node_name
        self._services: dict[ServiceName, Service] = {}
        self._slices: defaultdict[ServiceName, dict[str, EndpointSlice]] = defaultdict(dict)
        self._feeds: dict[ObjectKey, ServiceName] = {}
        self._node: Node | None = None
        self._eligible: bool | None = None
        self._problems: dict[ObjectKey, tuple[Problem, ...]] = {}
        self._told = _Told()

    @property
    def changed(self) -> bool:
        """Whether anything was touched since the last ``take``; it may have changed back."""
        return self._told.anything

    @property
    def services(self) -> Mapping[ServiceName, Service]:
        """The Services that can be programmed."""
        return self._services

    def slices(self, service: ServiceName) -> tuple[EndpointSlice, ...]:
        """The slices of a Service, sorted by name."""
        held = self._slices.get(service, _NO_SLICES)
        return tuple([held[name] for name in sorted(held)])

    def faulty(self, kind: str) -> set[ObjectKey]:
        """The objects of a kind with which something is wrong."""
        return {key for key in self._problems if key.kind == kind}

    # --- what comes in ------------------------------------------------------------------------

    def upsert(self, manifest: Manifest) -> None:
        """Take in a new or changed object; a bad one is refused, and its former self forgotten."""
        key = key_of(manifest)
        match key.kind:
            case "Service":
                self._upsert_service(key, manifest)
            case "EndpointSlice":
                self._upsert_slice(key, manifest)
            case "Node":
                self._upsert_node(key, manifest)
            case _:
                return

    def delete(self, key: ObjectKey) -> None:
        """Forget an object; an unknown one is forgotten already."""
        match key.kind:
            case "Service":
                self._set_service(ServiceName(key.namespace, key.name), None)
            case "EndpointSlice":
                self._set_slice(key, None, None, None)
            case "Node" if key.name == self._node_name:
                self._set_eligible(eligible=False)
            case _:
                return
        self.set_problems(key, ())

    def adopt(self, snapshot: Snapshot, *, eligible: bool = True) -> None:
        """Become what a snapshot says; only what differs is a change."""
        for name in [*self._services.keys() - snapshot.services.keys(), *snapshot.services]:
            self._set_service(name, snapshot.services.get(name))
        for name in [*self._slices.keys() - snapshot.slices.keys(), *snapshot.slices]:
            self._set_slices(name, snapshot.slices.get(name, ()))
        node = snapshot.nodes.get(self._node_name)
        if node is not None:
            self._set_node(node)
        self._set_eligible(eligible=eligible)
        problems: defaultdict[ObjectKey, list[Problem]] = defaultdict(list)
        for problem in snapshot.problems:
            problems[ObjectKey(problem.kind, problem.namespace, problem.name)].append(problem)
        ours = [key for key in self._problems if key.kind != FILE_KIND]
        for key in {*ours, *problems}:
            self.set_problems(key, tuple(problems.get(key, ())))

    def set_problems(self, key: ObjectKey, problems: tuple[Problem, ...]) -> bool:
        """Say what is wrong with an object now; ``()``: nothing. Returns whether that is new."""
        before = self._problems.get(key, ())
        if problems == before:
            return False
        self._told.problems.setdefault(key, before)
        _put(self._problems, key, problems or None)
        return True

    def _upsert_service(self, key: ObjectKey, manifest: Manifest) -> None:
        problems: list[Problem] = []
        service: Service | None = None
        wired = SERVICE.decode(manifest, problems)
        if wired is not None:
            service, found = service_from(wired)
            problems += found
        self._set_service(ServiceName(key.namespace, key.name), service)
        self.set_problems(key, tuple(problems))

    def _upsert_slice(self, key: ObjectKey, manifest: Manifest) -> None:
        problems: list[Problem] = []
        endpoint_slice: EndpointSlice | None = None
        wired = ENDPOINT_SLICE.decode(manifest, problems)
        service = None if wired is None else service_of(wired)
        if wired is not None and service is not None:
            endpoint_slice, found = slice_of(service, wired)
            problems += found
        self._set_slice(key, service, endpoint_slice, manifest)
        self.set_problems(key, tuple(problems))

    def _upsert_node(self, key: ObjectKey, manifest: Manifest) -> None:
        if key.name != self._node_name:
            return
        problems: list[Problem] = []
        wired = NODE.decode(manifest, problems)
        if wired is not None:
            node, found = node_from(wired)
            problems += found
            if node is not None:
                self._set_node(node)
            self._set_eligible(eligible=eligible_node(manifest))
        self.set_problems(key, tuple(problems))

    # --- what is held -------------------------------------------------------------------------

    def _set_service(self, name: ServiceName, service: Service | None) -> None:
        before = self._services.get(name)
        if service != before:
            self._told.services.setdefault(name, before)
            _put(self._services, name, service)

    def _set_slice(
        self,
        key: ObjectKey,
        service: ServiceName | None,
        endpoint_slice: EndpointSlice | None,
        manifest: Manifest | None,
    ) -> None:
        """Put a slice in the place of its former self, which may have fed another Service."""
        fed = self._feeds.get(key)
        if fed is not None and (fed != service or endpoint_slice is None):
            self._touch(fed)
            self._drop_slice(fed, key.name)
            del self._feeds[key]
        if service is None or endpoint_slice is None:
            return
        if self._slices.get(service, _NO_SLICES).get(key.name) == endpoint_slice:
            return
        self._touch(service)
        self._slices[service][key.name] = endpoint_slice
        self._feeds[key] = service
        if manifest is not None and (moment := _trigger_time(manifest)) is not None:
            self._told.triggered = min(moment, self._told.triggered or moment)

    def _set_slices(self, service: ServiceName, slices: tuple[EndpointSlice, ...]) -> None:
        if slices == self.slices(service):
            return
        self._touch(service)
        for name in self._slices.pop(service, {}):
            key = ObjectKey(ENDPOINT_SLICE.kind, service.namespace, name)
            if self._feeds.get(key) == service:  # else it has moved to another Service already
                del self._feeds[key]
        for piece in slices:
            self._slices[service][piece.name] = piece
            self._feeds[ObjectKey(ENDPOINT_SLICE.kind, piece.namespace, piece.name)] = service

    def _drop_slice(self, service: ServiceName, name: str) -> None:
        held = self._slices[service]
        held.pop(name, None)
        if not held:
            del self._slices[service]

    def _touch(self, service: ServiceName) -> None:
        if service not in self._told.slices:
            self._told.slices[service] = self.slices(service)

    def _set_node(self, node: Node) -> None:
        if node != self._node:
            self._node = node
            self._told.node = True

    def _set_eligible(self, *, eligible: bool) -> None:
        if eligible != self._eligible:
            self._eligible = eligible
            self._told.eligible = True

    # --- what goes out ------------------------------------------------------------------------

    def take(self) -> ClusterChange | None:
        """What differs from what the last ``take`` told; None when nothing does."""
        told, self._told = self._told, _Told()
        slices = {name: self.slices(name) for name in told.slices}
        change = ClusterChange(
            services=_differing(told.services, self._services, None),
            slices={name: now for name, now in slices.items() if now != told.slices[name]},
            node=self._node if told.node else None,
            eligible=self._eligible if told.eligible else None,
            problems=_differing(told.problems, self._problems, ()),
            triggered=told.triggered,
        )
        nothing = not (change.services or change.slices or change.problems)
        if nothing and change.node is None and change.eligible is None:
            return None
        return change


class _Told:
    """What was last told of everything touched since."""

    __slots__ = ("eligible", "node", "problems", "services", "slices", "triggered")

    def __init__(self) -> None:
        self.services: dict[ServiceName, Service | None] = {}
        self.slices: dict[ServiceName, tuple[EndpointSlice, ...]] = {}
        self.problems: dict[ObjectKey, tuple[Problem, ...]] = {}
        self.node = False
        self.eligible = False
        self.triggered: float | None = None

    @property
    def anything(self) -> bool:
        return bool(self.services or self.slices or self.problems or self.node or self.eligible)


#: The kind of the keys under which sources of files say what is wrong with a file.
FILE_KIND = "File"


def key_of(manifest: Manifest) -> ObjectKey:
    """The object's key, with the namespace that an absent one stands for."""
    namespace = "" if manifest.kind == NODE.kind else manifest.namespace or "default"
    return ObjectKey(manifest.kind, namespace, manifest.name)


def eligible_node(manifest: Manifest) -> bool:
    """Whether a Node stays (``health.is_eligible``); what cannot be read says nothing of going."""
    departure = _read(manifest, _Departure)
    if departure is None:
        return True
    meta, spec = departure.metadata, departure.spec
    taints = (spec.taints if spec else None) or ()
    return is_eligible(
        deleting=meta is not None and meta.deletion_timestamp is not None,
        taints=[taint.key or "" for taint in taints],
    )


def _trigger_time(manifest: Manifest) -> float | None:
    """When the change behind a slice happened, in seconds since the epoch, if it says so."""
    slice_ = _read(manifest, _Triggered)
    annotations = slice_.metadata.annotations if slice_ and slice_.metadata else None
    text = annotations.trigger if annotations else None
    try:
        moment = dt.datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return moment.timestamp() if moment is not None and moment.tzinfo is not None else None


_S = TypeVar("_S", bound=msgspec.Struct)


def _read(manifest: Manifest, shape: type[_S]) -> _S | None:
    payload = manifest.payload
    try:
        if isinstance(payload, msgspec.Raw):
            return msgspec.json.decode(payload, type=shape)
        return msgspec.convert(payload, shape)
    except (msgspec.ValidationError, RecursionError):
        return None


def _put(held: dict[_K, _V], key: _K, value: _V | None) -> None:
    if value is None:
        held.pop(key, None)
    else:
        held[key] = value


def _differing(told: Mapping[_K, _V], held: Mapping[_K, _V], absent: _V) -> dict[_K, _V]:
    """What is held now, of what was told otherwise."""
    return {key: now for key, before in told.items() if (now := held.get(key, absent)) != before}
