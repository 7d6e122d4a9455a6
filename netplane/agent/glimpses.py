"""What is read of objects beside their decoding: a word or two, whatever else is wrong with them.

Pure. What cannot be read says nothing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from netplane.core.model.documents import Manifest
from netplane.core.model.service import ServiceName

TRIGGER_ANNOTATION = "endpoints.kubernetes.io/last-change-trigger-time"
#: The cluster autoscaler's announcement that it is about to delete a node.
DOOMED_TAINT = "ToBeDeletedByClusterAutoscaler"
_S = TypeVar("_S", bound=msgspec.Struct)


class _TriggerAnnotations(msgspec.Struct):
    trigger: str | None = msgspec.field(name=TRIGGER_ANNOTATION, default=None)


class _TriggerMeta(msgspec.Struct):
    annotations: _TriggerAnnotations | None = None


class _Triggered(msgspec.Struct):
    """Of a slice only the annotation."""

    metadata: _TriggerMeta | None = None


class _FedLabels(msgspec.Struct):
    service: str | None = msgspec.field(name="kubernetes.io/service-name", default=None)


class _FedMeta(msgspec.Struct):
    namespace: str | None = None
    labels: _FedLabels | None = None


class _Feeding(msgspec.Struct):
    """Of a slice only what says which Service it feeds."""

    metadata: _FedMeta | None = None


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


def fed_by(manifest: Manifest) -> ServiceName | None:
    """The Service a slice says it feeds, though nothing else of it may be readable."""
    feeding = _read(manifest, _Feeding)
    meta = feeding.metadata if feeding is not None else None
    if meta is None or meta.labels is None or not meta.labels.service:
        return None
    return ServiceName(meta.namespace or "default", meta.labels.service)


def is_eligible(*, deleting: bool, taints: Iterable[str]) -> bool:
    """Whether a load balancer should send this node new connections.

    Args:
        deleting: The Node has a deletionTimestamp.
        taints: The keys of its taints.
    """
    return not deleting and DOOMED_TAINT not in taints


def eligible_node(manifest: Manifest) -> bool:
    """Whether a Node stays (``is_eligible``); what cannot be read says nothing of going."""
    departure = _read(manifest, _Departure)
    if departure is None:
        return True
    meta, spec = departure.metadata, departure.spec
    taints = (spec.taints if spec else None) or ()
    return is_eligible(
        deleting=meta is not None and meta.deletion_timestamp is not None,
        taints=[taint.key or "" for taint in taints],
    )


def trigger_time(manifest: Manifest) -> float | None:
    """When the change behind a slice happened, in seconds since the epoch, if it says so."""
    slice_ = _read(manifest, _Triggered)
    annotations = slice_.metadata.annotations if slice_ and slice_.metadata else None
    text = annotations.trigger if annotations else None
    try:
        moment = dt.datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return moment.timestamp() if moment is not None and moment.tzinfo is not None else None


def _read(manifest: Manifest, shape: type[_S]) -> _S | None:
    payload = manifest.payload
    try:
        if isinstance(payload, msgspec.Raw):
            return msgspec.json.decode(payload, type=shape)
        return msgspec.convert(payload, shape)
    except (msgspec.ValidationError, RecursionError):
        return None
