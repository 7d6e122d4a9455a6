"""Deleting UDP conntrack entries that rules alone cannot correct (reference section 4).

UDP has no handshake: a flow keeps the translation of its first packet for as long as packets
come. So after every sync, changed or not, the table is compared with the plan, and an entry is
deleted where

- its destination is a UDP frontend and what answers is not a serving backend of it, which covers
  flows that began before the rules existed and were never translated. One that nobody has answered
  stays as long as there is no backend: the rules refuse its packets as they do a new flow's;
- its destination is one of the node's own addresses and a NodePort, likewise. kube-proxy ignores
  the address, and so also deletes flows that pass through the node to the same port number
  elsewhere;
- it was translated from an address of the service networks, or from a frontend this very sync
  removed, that is no frontend now.

The state decides, not events: a sync that was cut off before this point is made good by the next.

The entries are read by ``netplane.apply.flows``; pyroute2 deletes those that must go.
"""

from __future__ import annotations

import errno
import functools
import socket
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from netplane.apply.flows import PASSING, Flow, read_flows
from netplane.apply.netns import Namespace
from netplane.core.model.address import Family, contains
from netplane.core.model.service import Protocol
from netplane.core.plan.changes import Changes
from netplane.core.plan.conntrack import UdpFlows
from netplane.core.plan.port import Backend
from netplane.errors import ApplyError, BusyError, PrivilegeError

if TYPE_CHECKING:
    from pyroute2.netlink.exceptions import NetlinkError
    from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple

_T = TypeVar("_T")
_ATTEMPTS = 3  # a dump may be interrupted by the table being resized
_AF = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}

#: (address, port) of a frontend; the address is "" for a NodePort.
Frontend: TypeAlias = tuple[str, int]


class Local:
    """The node's own addresses in one family.

    Args:
        addresses: Tells those on its interfaces; called at most once, and only where a flow to a
            NodePort's number is there to be judged. 127.0.0.0/8 counts without being named.
        node_ports: Those that accept NodePorts, None for all of them.
    """

    def __init__(
        self,
        addresses: Callable[[], frozenset[str]] = frozenset,
        node_ports: frozenset[str] | None = None,
    ) -> None:
        self._addresses = functools.cache(addresses)
        self._node_ports = node_ports

    def accepts_node_ports(self, address: str) -> bool:
        """Whether a NodePort is reached under this address."""
        loopback = address.startswith("127.")
        if self._node_ports is not None:
            return address in self._node_ports or (loopback and "127.0.0.1" in self._node_ports)
        return loopback or address in self._addresses()


def stale(
    flows: Iterable[Flow], desired: UdpFlows, local: Local, removed: Collection[Frontend] = ()
) -> list[Flow]:
    """The flows that must go, in the order given.

    Args:
        flows: UDP flows of one family.
        desired: What may live in that family.
        local: The node's addresses in that family.
        removed: Frontends that this sync took away.
    """
    return [flow for flow in flows if _is_stale(flow, desired, local, removed)]


def _is_stale(flow: Flow, desired: UdpFlows, local: Local, removed: Collection[Frontend]) -> bool:
    backends = desired.frontends.get((flow.destination, flow.port))
    was_node_port = ("", flow.port) in removed
    here = (was_node_port or flow.port in desired.node_ports) and local.accepts_node_ports(
        flow.destination
    )
    if backends is None and here:
        backends = desired.node_ports.get(flow.port)
    if backends is not None:
        if not (backends or flow.translated or flow.answered):
            return False
        return Backend(flow.answers, flow.answer_port) not in backends
    if not flow.translated:
        return False
    if (flow.destination, flow.port) in removed or (here and was_node_port):
        return True
    return any(contains(network, flow.destination) for network in desired.service_cidrs)


def removed_frontends(changes: Changes, family: Family) -> frozenset[Frontend]:
    """The UDP frontends of a family that a sync took away."""
    return frozenset(
        (lost.address, lost.port)
        for lost in changes.lost()
        if lost.family is family and lost.protocol == Protocol.UDP.text
    )


def clean(
    namespace: Namespace,
    family: Family,
    desired: UdpFlows,
    local: Local,
    removed: Collection[Frontend] = (),
) -> tuple[Flow, ...]:
    """Delete the stale UDP flows of one family; returns what was deleted.

    Raises:
        ApplyError: It failed three times; some flows may be gone, the next sync tries again.
    """
    if not (desired.frontends or desired.node_ports or desired.service_cidrs or removed):
        return ()  # no UDP flow can be ours
    gone: list[Flow] = []

    def once() -> None:
        found = stale(read_flows(family), desired, local, removed)
        if found:
            gone.extend(_delete(family, found))

    namespace.call(lambda: _retried(once))
    return tuple(gone)


def flows(namespace: Namespace, family: Family) -> list[Flow]:
    """Every UDP flow of one family in the namespace.

    Raises:
        ApplyError: The kernel does not tell.
    """
    return namespace.call(lambda: _retried(lambda: read_flows(family)))


def _retried(function: Callable[[], _T]) -> _T:
    """Call a function again after a failure that may pass."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return function()
        except ApplyError as exc:
            if not exc.retryable or attempt == _ATTEMPTS:
                raise
    raise AssertionError("unreachable: the last attempt returns or raises")


def _delete(family: Family, doomed: Iterable[Flow]) -> Iterator[Flow]:
    """Delete entries one by one; yields those that had not ended by themselves meanwhile."""
    from pyroute2.netlink.exceptions import NetlinkError
    from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

    try:
        with NFCTSocket(nfgen_family=_AF[family]) as conntrack:
            for flow in doomed:
                try:
                    conntrack.entry(
                        "del",
                        tuple_orig=_tuple_of(family, flow),
                        id=flow.identity or None,
                        zone=flow.zone or None,
                    )
                except NetlinkError as exc:
                    if exc.code != errno.ENOENT:
                        raise
                else:
                    yield flow
    except (NetlinkError, OSError) as exc:
        raise _failure(exc) from exc


def _tuple_of(family: Family, flow: Flow) -> NFCTAttrTuple:
    from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple

    return NFCTAttrTuple(
        family=_AF[family],
        saddr=flow.source,
        daddr=flow.destination,
        proto=socket.IPPROTO_UDP,
        sport=flow.source_port,
        dport=flow.port,
    )


def _failure(exc: NetlinkError | OSError) -> ApplyError:
    """A netlink failure in our own words."""
    code = exc.errno if isinstance(exc, OSError) else exc.code
    message = f"cannot delete conntrack entries: {exc}"
    if code == errno.EPERM:
        return PrivilegeError(f"{message}; run as root")
    return BusyError(message) if code in PASSING else ApplyError(message)
