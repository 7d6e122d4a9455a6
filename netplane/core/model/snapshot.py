"""The snapshot: cluster state at one moment, validated and indexed by Service."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from netplane.core.model.problem import Problem
from netplane.core.model.service import EndpointSlice, Node, Service, ServiceName


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Cluster state at one moment.

    Attributes:
        services: What can be programmed, by name. Headless, ExternalName and foreign-proxy
            Services are not here: there is nothing to program for them.
        slices: Per Service its slices, sorted by name; mirrored and computed ones included.
        nodes: Nodes by name.
        problems: What was refused, sorted.
        skipped: How many objects of other kinds were passed over, by ``kind``.
    """

    services: Mapping[ServiceName, Service]
    slices: Mapping[ServiceName, tuple[EndpointSlice, ...]]
    nodes: Mapping[str, Node]
    problems: tuple[Problem, ...] = ()
    skipped: Mapping[str, int] = {}
