"""Endpoint selection: which endpoints of a Service may answer on this node (reference 3.2, 3.3).

Gathering merges a Service's slices into one endpoint per address and port; selecting picks from
those by readiness, topology hints and traffic policy. Nothing here knows about frontends.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from netplane.core.model.address import Family
from netplane.core.model.service import Endpoint, EndpointSlice, Protocol
from netplane.core.plan.port import Backend

#: The endpoints of one service port, by backend.
Gathered = dict[Backend, Endpoint]


class Selection(msgspec.Struct, frozen=True):
    """The endpoints that may answer, as sorted backends; see PortPlan for the meaning of each."""

    cluster: tuple[Backend, ...] = ()
    local: tuple[Backend, ...] = ()
    here: tuple[Backend, ...] = ()
    has_endpoints: bool = False


class Position(msgspec.Struct, frozen=True):
    """Where this node stands: its name and its zone ("" without a zone label)."""

    node: str
    zone: str = ""


def gather(
    slices: Iterable[EndpointSlice], family: Family
) -> dict[tuple[str, Protocol], Gathered]:
    """Merge the slices of one family into endpoints by (port name, protocol) and backend.

    The same backend in two slices counts once: a pod that runs wins over one that terminates
    (an address may be reused before the old pod's object is gone), then ready over not ready.
    """
    ports: dict[tuple[str, Protocol], Gathered] = {}
    for piece in slices:
        if piece.family is not family:
            continue
        for port in piece.ports:
            number = port.number
            found = ports.setdefault((port.name, port.protocol), {})
            for endpoint in piece.endpoints:
                backend = Backend(endpoint.address, number)
                known = found.get(backend)
                if known is None or _rank(endpoint) > _rank(known):
                    found[backend] = endpoint
    return ports


def _rank(endpoint: Endpoint) -> tuple[bool, bool, bool]:
    return (not endpoint.terminating, endpoint.ready, endpoint.serving)


def select(
    endpoints: Gathered, position: Position, *, wants_cluster: bool, wants_local: bool
) -> Selection:
    """Choose the backends of one service port (reference 3.3).

    Args:
        endpoints: All endpoints of the port.
        position: Where this node stands.
        wants_cluster: Some frontend of the port uses the policy Cluster.
        wants_local: Some frontend of the port uses the policy Local.
    """
    ready = [b for b, e in endpoints.items() if e.ready]
    draining = [b for b, e in endpoints.items() if e.serving and e.terminating]
    if not ready and not draining:
        return Selection()
    cluster: tuple[Backend, ...] = ()
    local: tuple[Backend, ...] = ()
    if wants_cluster:
        cluster = in_order(_near(endpoints, ready, position) or draining)
    if wants_local:
        node = position.node
        local = in_order(
            [b for b in ready if endpoints[b].node == node]
            or [b for b in draining if endpoints[b].node == node]
        )
    reachable = {*cluster, *local} if local else cluster
    here = in_order([b for b in reachable if endpoints[b].node == position.node])
    return Selection(cluster, local, here, has_endpoints=True)


def in_order(backends: Iterable[Backend]) -> tuple[Backend, ...]:
    """Sorted as their text is, so that order never depends on history (reference 3.2)."""
    return tuple(sorted(backends, key=str))


def _near(endpoints: Gathered, ready: list[Backend], position: Position) -> list[Backend]:
    """The ready endpoints that topology hints leave to this node.

    Hints count only where every ready endpoint has them and some name us; node hints first.
    """
    if ready and all(endpoints[b].nodes for b in ready):
        same_node = [b for b in ready if position.node in endpoints[b].nodes]
        if same_node:
            return same_node
    if position.zone and ready and all(endpoints[b].zones for b in ready):
        same_zone = [b for b in ready if position.zone in endpoints[b].zones]
        if same_zone:
            return same_zone
    return ready
