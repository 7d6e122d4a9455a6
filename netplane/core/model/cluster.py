"""Manifests into the snapshot: each object decoded and validated on its own, then joined."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from netplane.core.model.decoding import (
    ENDPOINT_SLICE,
    ENDPOINTS,
    NODE,
    POD,
    SERVICE,
    json_text,
)
from netplane.core.model.documents import Manifest
from netplane.core.model.mirror import mirrored_slices, opts_out
from netplane.core.model.nodes import node_from
from netplane.core.model.pods import (
    PodIndex,
    Selection,
    computed_slices,
    pod_from,
)
from netplane.core.model.problem import Problem, shown
from netplane.core.model.readings import (
    ServiceReading,
    SliceReading,
    read_service,
    read_slice,
)
from netplane.core.model.reasons import Reason, Refusals
from netplane.core.model.service import EndpointSlice, Node, Service, ServiceName
from netplane.core.model.snapshot import Snapshot

_SHAPES = {shape.kind: shape for shape in (SERVICE, ENDPOINT_SLICE, ENDPOINTS, NODE, POD)}


def build_snapshot(manifests: Iterable[Manifest]) -> Snapshot:
    """The snapshot that the manifests describe; the same for them in any order.

    Where an object (kind, namespace, name) occurs twice the later one counts, as if both had been
    applied one after the other. A bad object is a problem and nothing else; nothing is raised.
    Endpoints, and then Pods, stand in for the slices of a Service that has none, not even a
    refused one: see the modules ``mirror`` and ``pods``. What stands in for nothing is not read.
    """
    objects = _Objects(manifests)
    slices, fed = objects.slices()
    nodes = objects.nodes()
    services: dict[ServiceName, Service] = {}
    unfed: dict[ServiceName, Selection | None] = {}
    for reading in objects.services():
        service = reading.service
        if service is None:
            continue
        services[service.key] = service
        if service.key not in fed:
            unfed[service.key] = reading.selection
    selecting = {}
    for name, selection in unfed.items():
        mirrored = objects.mirrored(name, slices_exported=bool(fed))
        if mirrored is not None:
            slices[name].extend(mirrored)
        elif selection is not None:
            selecting[name] = selection
    if selecting:
        pods = objects.pods({name.namespace for name in selecting})
        for name, selection in selecting.items():
            selected = pods.select(name.namespace, selection.selector)
            slices[name].extend(computed_slices(services[name], selection, selected, nodes))
    return Snapshot(
        services=_by_key(services),
        slices={name: _by_name(slices[name]) for name in sorted(slices) if slices[name]},
        nodes=_by_key(nodes),
        problems=tuple(sorted(objects.problems)),
        skipped=_by_key(objects.skipped),
    )


class _Objects:
    """The manifests of the kinds that count, the last of each name; the problems met so far."""

    def __init__(self, manifests: Iterable[Manifest]) -> None:
        self.problems: list[Problem] = []
        self.skipped: Counter[str] = Counter()
        self._named: dict[str, dict[tuple[str, str], Manifest]] = {kind: {} for kind in _SHAPES}
        for manifest in manifests:
            self._take(manifest)

    def _take(self, manifest: Manifest) -> None:
        kind, api_version = manifest.kind, manifest.api_version
        shape = _SHAPES.get(kind)
        if shape is not None and manifest.name and api_version in shape.api_versions:
            namespace = (manifest.namespace or "default") if shape.namespaced else ""
            self._named[kind][namespace, manifest.name] = manifest
            return
        if not kind and not manifest.is_object:
            self._refuse(manifest, "items", json_text(manifest.payload), Reason.NOT_AN_OBJECT)
            return
        if not kind or not api_version:
            self._refuse(manifest, "apiVersion" if kind else "kind", None, Reason.MISSING)
            return
        group = api_version.rpartition("/")[0]
        if shape is None or group != shape.api_versions[0].rpartition("/")[0]:
            # "Service" is also a kind of Knative's: other groups' kinds are named with the group.
            self.skipped[shown(f"{kind}.{group}" if shape else kind)] += 1
        elif api_version not in shape.api_versions:
            expected = " or ".join(shape.api_versions)
            self._refuse(manifest, "apiVersion", api_version, Reason.UNKNOWN_VERSION, expected)
        elif shape.decode(manifest, self.problems) is not None:
            self._refuse(manifest, "metadata.name", None, Reason.MISSING)

    def _refuse(
        self, manifest: Manifest, field: str, value: object, reason: Reason, detail: str = ""
    ) -> None:
        refusals = Refusals(manifest.kind, manifest.namespace, manifest.name)
        refusals.add(field, value, reason, detail or f"(in {manifest.origin})")
        self.problems.extend(refusals.problems)

    def _taken(self, kind: str) -> Iterator[Manifest]:
        """The objects of a kind, in their order.

        Each is let go once it has been taken, so that it need not be in memory together with
        all that is made of the others.
        """
        waiting = [*self._named.pop(kind).values()]
        waiting.reverse()
        while waiting:
            yield waiting.pop()

    def services(self) -> Iterator[ServiceReading]:
        """Every Service that decodes, as it was read with its list or is read now."""
        for manifest in self._taken(SERVICE.kind):
            reading = manifest.payload
            if not isinstance(reading, ServiceReading):
                wired = SERVICE.decode(manifest, self.problems)
                if wired is None:
                    continue
                reading = read_service(wired)
            if reading.problems:
                self.problems.extend(reading.problems)
            yield reading

    def slices(self) -> tuple[defaultdict[ServiceName, list[EndpointSlice]], set[ServiceName]]:
        """The good slices by Service, and the Services that any slice feeds, good or not."""
        good: defaultdict[ServiceName, list[EndpointSlice]] = defaultdict(list)
        fed: set[ServiceName] = set()
        for manifest in self._taken(ENDPOINT_SLICE.kind):
            reading = manifest.payload
            if not isinstance(reading, SliceReading):
                wired = ENDPOINT_SLICE.decode(manifest, self.problems)
                if wired is None:
                    continue
                reading = read_slice(wired)
            if reading.service is None:
                continue
            fed.add(reading.service)
            if reading.problems:
                self.problems.extend(reading.problems)
            if reading.slice is not None:
                good[reading.service].append(reading.slice)
        return good, fed

    def nodes(self) -> dict[str, Node]:
        """The good Nodes by name."""
        good: dict[str, Node] = {}
        for manifest in self._taken(NODE.kind):
            wired = NODE.decode(manifest, self.problems)
            if wired is None:
                continue
            node, problems = node_from(wired)
            self.problems.extend(problems)
            if node is not None:
                good[node.name] = node
        return good

    def mirrored(
        self, name: ServiceName, *, slices_exported: bool
    ) -> tuple[EndpointSlice, ...] | None:
        """The slices from the Service's Endpoints; None where it has no Endpoints object."""
        manifest = self._named[ENDPOINTS.kind].get((name.namespace, name.name))
        if manifest is None:
            return None
        wired = ENDPOINTS.decode(manifest, self.problems)
        if wired is None or (slices_exported and opts_out(wired)):
            return ()
        slices, problems = mirrored_slices(wired)
        self.problems.extend(problems)
        return slices

    def pods(self, namespaces: set[str]) -> PodIndex:
        """The Pods of some namespaces that can be endpoints."""
        found = []
        for (namespace, _), manifest in self._named[POD.kind].items():
            if namespace not in namespaces:
                continue
            wired = POD.decode(manifest, self.problems)
            if wired is not None:
                pod, problems = pod_from(wired)
                self.problems.extend(problems)
                if pod is not None:
                    found.append(pod)
        return PodIndex(found)


_K = TypeVar("_K", ServiceName, str)
_V = TypeVar("_V")


def _by_key(mapping: Mapping[_K, _V]) -> dict[_K, _V]:
    return {key: mapping[key] for key in sorted(mapping)}


def _by_name(slices: list[EndpointSlice]) -> tuple[EndpointSlice, ...]:
    if len(slices) > 1:
        slices.sort(key=lambda endpoint_slice: endpoint_slice.name)
    return tuple(slices)
