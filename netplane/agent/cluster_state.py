"""What a source holds of the cluster: decoded objects, and what of them changed since last told.

Objects come one by one (``upsert``, ``delete``) or as a whole snapshot (``adopt``). What is equal
after decoding is no change: new metadata of a Service, or conditions of a Node, cost nobody
anything. What changes back before it was told is no change either. Pure: no clock, no socket.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from netplane.agent.changes import ClusterChange, ObjectKey
from netplane.agent.glimpses import eligible_node, fed_by, trigger_time
from netplane.core.model.decoding import ENDPOINT_SLICE, NODE, SERVICE
from netplane.core.model.documents import Manifest
from netplane.core.model.nodes import node_from
from netplane.core.model.problem import Problem, shown
from netplane.core.model.service import EndpointSlice, Node, Service, ServiceName
from netplane.core.model.services import service_from
from netplane.core.model.slices import service_of, slice_of
from netplane.core.model.snapshot import Snapshot

_K = TypeVar("_K", ServiceName, ObjectKey)
_V = TypeVar("_V")
_NO_SLICES: Mapping[str, EndpointSlice] = {}


class _Fault(NamedTuple):
    """What is wrong with an object, and the Service it says it feeds, where it is a slice."""

    problems: tuple[Problem, ...]
    about: ServiceName | None = None


_FINE = _Fault(())


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
        self._faults: dict[ObjectKey, _Fault] = {}
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
        return {key for key in self._faults if key.kind == kind}

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
        """Forget an object; of the own Node, which was never there or is gone, say so."""
        match key.kind:
            case "Service":
                self._set_service(ServiceName(key.namespace, key.name), None)
            case "EndpointSlice":
                self._set_slice(key, None, None, None)
            case "Node" if key.name == self._node_name:
                self._set_eligible(eligible=False)
                self.set_problems(key, (_no_such_node(key.name),))
                return
            case _:
                return
        self.set_problems(key, ())

    def adopt(
        self,
        snapshot: Snapshot,
        *,
        eligible: bool = True,
        concerns: Callable[[ObjectKey], ServiceName | None] | None = None,
    ) -> None:
        """Become what a snapshot says; only what differs is a change.

        Where it has Nodes, but not our own, that is told as ``delete`` does.

        Args:
            snapshot: Everything there is.
            eligible: See ``ClusterChange.eligible``.
            concerns: Tells which Service a slice says it feeds, though it was refused.
        """
        for name in [*self._services.keys() - snapshot.services.keys(), *snapshot.services]:
            self._set_service(name, snapshot.services.get(name))
        for name in [*self._slices.keys() - snapshot.slices.keys(), *snapshot.slices]:
            self._set_slices(name, snapshot.slices.get(name, ()))
        problems: defaultdict[ObjectKey, list[Problem]] = defaultdict(list)
        for problem in snapshot.problems:
            problems[ObjectKey(problem.kind, problem.namespace, problem.name)].append(problem)
        node = snapshot.nodes.get(self._node_name)
        own = ObjectKey(NODE.kind, "", self._node_name)
        if node is not None:
            self._set_node(node)
        elif snapshot.nodes and own not in problems:  # without any, nobody means to tell of them
            problems[own].append(_no_such_node(self._node_name))
            eligible = False
        self._set_eligible(eligible=eligible)
        ours = [key for key in self._faults if key.kind != FILE_KIND]
        for key in {*ours, *problems}:
            about = concerns(key) if concerns and key.kind == ENDPOINT_SLICE.kind else None
            self.set_problems(key, tuple(problems.get(key, ())), about)

    def set_problems(
        self, key: ObjectKey, problems: tuple[Problem, ...], about: ServiceName | None = None
    ) -> bool:
        """Say what is wrong with an object now; ``()``: nothing. Returns whether that is new.

        Args:
            key: Which object.
            problems: All that is wrong with it.
            about: The Service it says it feeds, where it is a slice.
        """
        before = self._faults.get(key, _FINE)
        now = _Fault(problems, about) if problems else _FINE
        if now == before:
            return False
        self._told.faults.setdefault(key, before)
        _put(self._faults, key, now if problems else None)
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
        self.set_problems(key, tuple(problems), fed_by(manifest) if problems else None)

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
        if manifest is not None and (moment := trigger_time(manifest)) is not None:
            self._told.triggered.setdefault(key, moment)

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
        faults = _differing(told.faults, self._faults, _FINE)
        change = ClusterChange(
            services=_differing(told.services, self._services, None),
            slices={name: now for name, now in slices.items() if now != told.slices[name]},
            node=self._node if told.node else None,
            eligible=self._eligible if told.eligible else None,
            problems={key: fault.problems for key, fault in faults.items()},
            concerns={key: f.about for key, f in faults.items() if f.about is not None},
            triggered=tuple(told.triggered.values()),
        )
        nothing = not (change.services or change.slices or change.problems)
        if nothing and change.node is None and change.eligible is None:
            return None
        return change


class _Told:
    """What was last told of everything touched since."""

    __slots__ = ("eligible", "faults", "node", "services", "slices", "triggered")

    def __init__(self) -> None:
        self.services: dict[ServiceName, Service | None] = {}
        self.slices: dict[ServiceName, tuple[EndpointSlice, ...]] = {}
        self.faults: dict[ObjectKey, _Fault] = {}
        self.node = False
        self.eligible = False
        self.triggered: dict[ObjectKey, float] = {}

    @property
    def anything(self) -> bool:
        return bool(self.services or self.slices or self.faults or self.node or self.eligible)


#: The kind of the keys under which sources of files say what is wrong with a file.
FILE_KIND = "File"


def key_of(manifest: Manifest) -> ObjectKey:
    """The object's key, with the namespace that an absent one stands for."""
    namespace = "" if manifest.kind == NODE.kind else manifest.namespace or "default"
    return ObjectKey(manifest.kind, namespace, manifest.name)


def _no_such_node(name: str) -> Problem:
    """What an operator has to know: most often the name is wrong, and nothing else tells."""
    return Problem(
        kind=NODE.kind,
        namespace="",
        name=shown(name),
        field="metadata.name",
        value="",
        reason="there is no such Node in the cluster; is --node right?",
    )


def _put(held: dict[_K, _V], key: _K, value: _V | None) -> None:
    if value is None:
        held.pop(key, None)
    else:
        held[key] = value


def _differing(told: Mapping[_K, _V], held: Mapping[_K, _V], absent: _V) -> dict[_K, _V]:
    """What is held now, of what was told otherwise."""
    return {key: now for key, before in told.items() if (now := held.get(key, absent)) != before}
