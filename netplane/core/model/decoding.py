"""One manifest into its typed wire shape, or the problem that keeps it from being one."""

from __future__ import annotations

import functools
import re
from typing import Generic, TypeVar

import msgspec

from netplane.core.model import wire
from netplane.core.model.documents import Manifest
from netplane.core.model.problem import Problem
from netplane.core.model.reasons import Reason, Refusals

_W = TypeVar("_W", bound=msgspec.Struct)

_WHERE = re.compile(r"(?P<what>.*) - at `(?:key` in `)?\$(?P<path>[^`]*)`", re.DOTALL)
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+|\.\.\.)\]")


class Shape(Generic[_W]):
    """A kind of object that counts here: its group, its versions, its wire shape.

    Attributes:
        kind: ``Service``...
        api_versions: Those that can be read, the preferred one first.
        namespaced: Whether its objects live in namespaces.
    """

    def __init__(self, wire_type: type[_W], *api_versions: str, namespaced: bool = True) -> None:
        self.kind = wire_type.__name__
        self.api_versions = api_versions
        self.namespaced = namespaced
        self._type = wire_type

    @functools.cached_property
    def _decoder(self) -> msgspec.json.Decoder[_W]:
        """Made when first needed: it takes a millisecond or two for each kind."""
        return msgspec.json.Decoder(self._type)

    def decode(self, manifest: Manifest, problems: list[Problem]) -> _W | None:
        """The typed object, or None: a field of another type than the API's adds a problem."""
        payload = manifest.payload
        try:
            if isinstance(payload, msgspec.Raw):
                return self._decoder.decode(payload)
            if isinstance(payload, self._type):
                return payload
            return msgspec.convert(payload, self._type)
        except msgspec.ValidationError as exc:
            problems.append(self._problem(manifest, str(exc)))
        except RecursionError:
            problems.append(self._problem(manifest, "nested too deeply"))
        return None

    def _problem(self, manifest: Manifest, words: str) -> Problem:
        match = _WHERE.fullmatch(words)
        what, path = (match["what"], match["path"]) if match else (words, "")
        refusals = Refusals(self.kind, self.namespace_of(manifest), manifest.name)
        value = _at(manifest, path)
        what = what[:1].lower() + what[1:]
        refusals.add(path.lstrip(".") or "object", value, Reason.WRONG_TYPE, what)
        return refusals.problems[0]

    def namespace_of(self, manifest: Manifest) -> str:
        """The object's namespace, ``default`` where it says none, "" for cluster-scoped kinds."""
        return (manifest.namespace or "default") if self.namespaced else ""


SERVICE = Shape(wire.Service, "v1")
ENDPOINT_SLICE = Shape(wire.EndpointSlice, "discovery.k8s.io/v1", "discovery.k8s.io/v1beta1")
ENDPOINTS = Shape(wire.Endpoints, "v1")
NODE = Shape(wire.Node, "v1", namespaced=False)
POD = Shape(wire.Pod, "v1")


def _at(manifest: Manifest, path: str) -> object:
    """The scalar at a path such as ``.spec.ports[0].port``; None where there is none to show."""
    payload = manifest.payload
    try:
        value: object = (
            msgspec.json.decode(payload) if isinstance(payload, msgspec.Raw) else payload
        )
    except (msgspec.DecodeError, RecursionError):
        return None  # a number of thousands of digits is one that no field can hold
    for key, index in _STEP.findall(path):
        if key and isinstance(value, dict):
            value = value.get(key)
        elif index.isdigit() and isinstance(value, list) and int(index) < len(value):
            value = value[int(index)]
        else:
            return None  # ``[...]`` is any value of a mapping: msgspec does not say which
    if isinstance(value, dict | list):
        return None
    return value if isinstance(value, str) else json_text(value)


def json_text(value: object) -> str:
    """A value as JSON writes it: ``true``, ``null``, ``80``."""
    return msgspec.json.encode(value).decode()
