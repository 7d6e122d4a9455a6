"""Endpoint selection: which endpoints of a Service may answer on this node (reference 3.2, 3.3).

Gathering merges a Service's slices into one endpoint per address and port; selecting picks from
those by readiness, topology hints and traffic policy. Nothing here knows about frontends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from netplane.core.model.address import Family
from netplane.core.model.service import Endpoint, EndpointSlice, Protocol
from netplane.core.plan.port import Backend

_new = tuple.__new__

#: The endpoints of one service port, by backend, in the order of ``in_order``.
Gathered = dict[Backend, Endpoint]


class Selection(msgspec.Struct, frozen=True, gc=False):
    """The endpoints that may answer, as sorted backends; see PortPlan for the meaning of each."""

    cluster: tuple[Backend, ...] = ()
    local: tuple[Backend, ...] = ()
    here: tuple[Backend, ...] = ()
    has_endpoints: bool = False


class Position(msgspec.Struct, frozen=True):
    """Where this node stands: its name and its zone ("" without a zone label)."""

    node: str
    zone: str = ""


def all_alike(
    slices: Sequence[EndpointSlice], family: Family, node: str
) -> dict[tuple[str, Protocol], tuple[Backend, ...]] | None:
    """The backends by port where there is nothing to choose by; None where ``select`` must.

    That is: one slice, each endpoint in it once, all of them ready, without hints, on other nodes.
    Under the policy Cluster every node then uses them all. Most Services are like that on most
    nodes, and this takes half the time of gathering and selecting.
    """
    if len(slices) != 1 or slices[0].family is not family:
        return None
    piece = slices[0]
    # Ends an address in Backend's text, so that addresses sort as backends of one port do.
    end = "]" if family is Family.IPV6 else ":"
    by_text = {
        e.address + end: e.address
        for e in piece.endpoints
        if e.ready and e.node != node and not e.zones and not e.nodes
    }
    if len(by_text) != len(piece.endpoints):
        return None
    addresses = [by_text[text] for text in sorted(by_text)]
    found = {}
    for port in piece.ports:
        number = port.number
        # What Backend() does, without the call of a Python function for each endpoint.
        backends = tuple([_new(Backend, (address, number)) for address in addresses])
        found[port.name, port.protocol] = backends
    return found if len(found) == len(piece.ports) else None


def gather(
    slices: Iterable[EndpointSlice], family: Family
) -> dict[tuple[str, Protocol], Gathered]:
    """Merge the slices of one family into endpoints by (port name, protocol) and backend.

    The same backend in two slices counts once: a pod that runs wins over one that terminates
    (an address may be reused before the old pod's object is gone), then ready over not ready.
    """
    pieces = [piece for piece in slices if piece.family is family]
    if len(pieces) == 1:
        plain = _gather_one(pieces[0])
        if plain is not None:
            return plain
    ports: dict[tuple[str, Protocol], Gathered] = {}
    for piece in pieces:
        for port in piece.ports:
            number = port.number
            found = ports.setdefault((port.name, port.protocol), {})
            for endpoint in piece.endpoints:
                backend = Backend(endpoint.address, number)
                known = found.get(backend)
                if known is None or _rank(endpoint) > _rank(known):
                    found[backend] = endpoint
    return {key: {b: found[b] for b in in_order(found)} for key, found in ports.items()}


def _gather_one(piece: EndpointSlice) -> dict[tuple[str, Protocol], Gathered] | None:
    """As ``gather`` for one slice, three times as fast; None where something is in it twice."""
    # Ends an address in Backend's text, so that addresses sort as backends of one port do.
    end = "]" if piece.family is Family.IPV6 else ":"
    by_text = {endpoint.address + end: endpoint for endpoint in piece.endpoints}
    if len(by_text) != len(piece.endpoints):
        return None
    endpoints = [by_text[text] for text in sorted(by_text)]
    ports: dict[tuple[str, Protocol], Gathered] = {}
    for port in piece.ports:
        number = port.number
        # What Backend() does, without the call of a Python function for each endpoint.
        ports[port.name, port.protocol] = {
            _new(Backend, (e.address, number)): e for e in endpoints
        }
    return ports if len(ports) == len(piece.ports) else None


def _rank(endpoint: Endpoint) -> tuple[bool, bool, bool]:
    return (not endpoint.terminating, endpoint.ready, endpoint.serving)


def select(
    endpoints: Gathered, position: Position, *, wants_cluster: bool, wants_local: bool
) -> Selection:
    """Choose the backends of one service port (reference 3.3).

    Args:
        endpoints: All endpoints of the port, as gathered.
        position: Where this node stands.
        wants_cluster: Some frontend of the port uses the policy Cluster.
        wants_local: Some frontend of the port uses the policy Local.
    """
    ready = [b for b, e in endpoints.items() if e.ready]
    draining: list[Backend] = []
    if wants_local or not ready:
        draining = [b for b, e in endpoints.items() if e.serving and e.terminating]
        if not ready and not draining:
            return Selection()
    node = position.node
    cluster: tuple[Backend, ...] = ()
    local: tuple[Backend, ...] = ()
    if wants_cluster:
        cluster = tuple(_near(endpoints, ready, position) or draining)
    if wants_local:
        local = tuple(
            [b for b in ready if endpoints[b].node == node]
            or [b for b in draining if endpoints[b].node == node]
        )
    here = [b for b, e in endpoints.items() if e.node == node]
    if here:
        reachable = {*cluster, *local}
        here = [b for b in here if b in reachable]
    return Selection(cluster, local, tuple(here), has_endpoints=True)


def in_order(backends: Iterable[Backend]) -> tuple[Backend, ...]:
    """Sorted as their text is, so that order never depends on history (reference 3.2)."""
    return tuple(sorted(backends, key=Backend.__str__))


def _near(endpoints: Gathered, ready: list[Backend], position: Position) -> list[Backend]:
    """The ready endpoints that topology hints leave to this node.

    Hints count only where every ready endpoint has them and some name us; node hints first.
    """
    first = endpoints[ready[0]] if ready else None
    if first is None or not (first.nodes or first.zones):
        return ready
    if all(endpoints[b].nodes for b in ready):
        same_node = [b for b in ready if position.node in endpoints[b].nodes]
        if same_node:
            return same_node
    if position.zone and all(endpoints[b].zones for b in ready):
        same_zone = [b for b in ready if position.zone in endpoints[b].zones]
        if same_zone:
            return same_zone
    return ready
