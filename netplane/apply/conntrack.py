"""Deleting UDP conntrack entries that rules alone cannot correct (reference section 4).

UDP has no handshake: a flow keeps the translation of its first packet for as long as packets
come. So after every sync, changed or not, the table is compared with the plan, and an entry is
deleted where

- its destination is a UDP frontend and what answers is not a serving backend of it, which covers
  flows that began before the rules existed and were never translated;
- its destination is one of the node's own addresses and a NodePort, likewise. kube-proxy ignores
  the address, and so also deletes flows that pass through the node to the same port number
  elsewhere;
- it was translated from an address of the service networks, or from a frontend this very sync
  removed, that is no frontend now.

The state decides, not events: a sync that was cut off before this point is made good by the next.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

import msgspec

from netplane.apply.netns import Namespace
from netplane.core.model.address import Family, canonical_address, contains
from netplane.core.plan.changes import Changes
from netplane.core.plan.conntrack import UdpFlows
from netplane.core.plan.port import Backend
from netplane.errors import ApplyError, BusyError, PrivilegeError

if TYPE_CHECKING:
    from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, nfct_msg

_T = TypeVar("_T")
_ATTEMPTS = 3  # a dump may be interrupted by the table being resized
_PASSING = frozenset({errno.EINTR, errno.EBUSY, errno.ENOBUFS, errno.EAGAIN})
_AF = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}

#: (address, port) of a frontend; the address is "" for a NodePort.
Frontend: TypeAlias = tuple[str, int]


class Flow(NamedTuple):
    """A UDP conntrack entry, as far as the decision needs it.

    Attributes:
        source, source_port: Who sent the first packet.
        destination, port: Where it was sent, before translation.
        answers, answer_port: The source of replies: the endpoint, or the destination itself.
        identity: The kernel's id of the entry, so that a successor is never deleted instead.
        zone: The conntrack zone, 0 by default.
    """

    source: str
    source_port: int
    destination: str
    port: int
    answers: str
    answer_port: int
    identity: int = 0
    zone: int = 0

    @property
    def translated(self) -> bool:
        """Whether the destination was rewritten."""
        return (self.answers, self.answer_port) != (self.destination, self.port)


class Local(msgspec.Struct, frozen=True):
    """The node's own addresses in one family.

    Attributes:
        addresses: On its interfaces; 127.0.0.0/8 counts without being named.
        node_ports: Those that accept NodePorts, None for all of them.
    """

    addresses: frozenset[str]
    node_ports: frozenset[str] | None = None

    def accepts_node_ports(self, address: str) -> bool:
        """Whether a NodePort is reached under this address."""
        loopback = address.startswith("127.")
        if self.node_ports is not None:
            return address in self.node_ports or (loopback and "127.0.0.1" in self.node_ports)
        return loopback or address in self.addresses


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
    here = local.accepts_node_ports(flow.destination)
    if backends is None and here:
        backends = desired.node_ports.get(flow.port)
    if backends is not None:
        return Backend(flow.answers, flow.answer_port) not in backends
    if not flow.translated:
        return False
    if (flow.destination, flow.port) in removed or (here and ("", flow.port) in removed):
        return True
    return any(contains(network, flow.destination) for network in desired.service_cidrs)


def removed_frontends(changes: Changes, family: Family) -> frozenset[Frontend]:
    """The UDP frontends of a family that a sync took away, from its report."""
    found = set()
    for change in changes.services:
        if change.family != f"IPv{family.value}":
            continue
        for text in change.frontends_removed:
            where, slash, protocol = text.rpartition(" ")[2].rpartition("/")
            address, colon, port = where.rpartition(":")
            if slash and colon and protocol == "udp" and port.isdigit():
                bare = address.removeprefix("[").removesuffix("]")
                found.add((canonical_address(bare) or "", int(port)))
    return frozenset(found)


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
        found = stale(_read(family), desired, local, removed)
        if found:
            gone.extend(_delete(family, found))

    namespace.call(lambda: _retried(once))
    return tuple(gone)


def flows(namespace: Namespace, family: Family) -> list[Flow]:
    """Every UDP flow of one family in the namespace.

    Raises:
        ApplyError: The kernel does not tell.
    """
    return namespace.call(lambda: _retried(lambda: _read(family)))


def _retried(function: Callable[[], _T]) -> _T:
    """Call a function again after a failure that may pass."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return function()
        except ApplyError as exc:
            if not exc.retryable or attempt == _ATTEMPTS:
                raise
    raise AssertionError("unreachable: the last attempt returns or raises")


def _read(family: Family) -> list[Flow]:
    from pyroute2.netlink.exceptions import NetlinkError
    from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket

    # The kernel filters by protocol since 5.8; an older one sends everything.
    wanted = NFCTAttrTuple(family=_AF[family], proto=socket.IPPROTO_UDP)
    try:
        with NFCTSocket(nfgen_family=_AF[family]) as conntrack:
            found = [_decode(family, message) for message in conntrack.dump(tuple_orig=wanted)]
    except (NetlinkError, OSError) as exc:
        raise _translated("read", exc) from exc
    return [flow for flow in found if flow is not None]


def _decode(family: Family, message: nfct_msg) -> Flow | None:
    """An entry of the dump as a flow; None where it is not UDP of this family."""
    if message["nfgen_family"] != _AF[family]:
        return None
    original, reply = message.get_attr("CTA_TUPLE_ORIG"), message.get_attr("CTA_TUPLE_REPLY")
    ports = original.get_attr("CTA_TUPLE_PROTO")
    if ports.get_attr("CTA_PROTO_NUM") != socket.IPPROTO_UDP:
        return None
    prefix = f"CTA_IP_V{family.value}"
    addresses = original.get_attr("CTA_TUPLE_IP")
    return Flow(
        source=addresses.get_attr(f"{prefix}_SRC"),
        source_port=ports.get_attr("CTA_PROTO_SRC_PORT"),
        destination=addresses.get_attr(f"{prefix}_DST"),
        port=ports.get_attr("CTA_PROTO_DST_PORT"),
        answers=reply.get_attr("CTA_TUPLE_IP").get_attr(f"{prefix}_SRC"),
        answer_port=reply.get_attr("CTA_TUPLE_PROTO").get_attr("CTA_PROTO_SRC_PORT"),
        identity=message.get_attr("CTA_ID") or 0,
        zone=message.get_attr("CTA_ZONE") or 0,
    )


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
        raise _translated("delete", exc) from exc


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


def _translated(verb: str, exc: Exception) -> ApplyError:
    """A netlink failure in our own words."""
    from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

    code = exc.code if isinstance(exc, NetlinkError) else getattr(exc, "errno", 0)
    message = f"cannot {verb} conntrack entries: {exc}"
    if code == errno.EPERM:
        return PrivilegeError(f"{message}; run as root")
    if isinstance(exc, NetlinkDumpInterrupted) or code in _PASSING:
        return BusyError(message)
    return ApplyError(message)
