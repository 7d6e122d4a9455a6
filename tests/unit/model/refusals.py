"""Bad objects in few words, and what must be said of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from netplane.core.model.reasons import Reason
from tests.support.manifests import Object, service

Refusal = tuple[str, str, str, Reason]
"""Kind, field, value, reason."""

LONG = "x" * 300
HOSTILE = "a'\"; $(reboot) \x1b[31m\n-A KUBE"


def ported(**port: object) -> Object:
    return service("web", ports=[{"name": "http", "port": 80, **port}])


def without(thing: Object, *path: str) -> Object:
    inner: Any = thing
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return thing


def altered(thing: Object, fields: Mapping[str, object], *path: str) -> Object:
    inner: Any = thing
    for key in path:
        inner = inner[key]
    inner.update(fields)
    return thing


def one(kind: str, field: str, value: str, reason: Reason) -> list[Refusal]:
    return [(kind, field, value, reason)]


def svc(field: str, value: str, reason: Reason) -> list[Refusal]:
    return one("Service", field, value, reason)


def eps(field: str, value: str, reason: Reason) -> list[Refusal]:
    return one("EndpointSlice", field, value, reason)
