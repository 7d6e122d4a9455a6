"""A node and the world around it: two network namespaces that carry any scenario's packets.

The node has its own addresses and forwards. Everything else, clients, pods, other nodes and the
internet, is one namespace, the world, which owns every address there is: whatever the node sends
out is delivered there with the destination it carries, so a packet that no rule rewrote is seen
as such. Two links join them: ``pod0`` to the node's pods and ``eth0`` to the rest; the source
address of a packet decides which of the two the world sends it through.

The world never delivers what it sends to itself, although all addresses are its own: its first
routing rules send everything that it generates to the node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from netplane.apply.netns import Namespace
from netplane.core.model.address import Family, host_network, of_family
from tests.support.netns import ip, new_netns

UPLINK = "eth0"
POD_LINK = "pod0"
_POD_TABLE = "100"
_EVERYTHING = {Family.IPV4: "0.0.0.0/0", Family.IPV6: "::/0"}
_LINKS = {UPLINK: "02:00:00:00:00:01", POD_LINK: "02:00:00:00:00:02"}

_COMMON: Mapping[str, str] = {
    # IPv6 link-local addresses would be addresses of the node that no scenario mentions.
    "ipv6/conf/default/addr_gen_mode": "1",
    "ipv6/conf/default/accept_dad": "0",
    # Many rejects in a row come back as ICMP errors; none may be held back.
    "ipv4/icmp_ratemask": "0",
    "ipv6/icmp/ratemask": "128",  # a list of types: echo requests alone, which we do not send
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
}
_NODE: Mapping[str, str] = {
    **_COMMON,
    "ipv4/ip_forward": "1",
    "ipv6/conf/all/forwarding": "1",
    # A hairpin leaves by the link it came from; the caller must not be told a shorter way.
    "ipv4/conf/all/send_redirects": "0",
    "ipv4/conf/default/send_redirects": "0",
}
_WORLD: Mapping[str, str] = {
    **_COMMON,
    "ipv4/conf/all/accept_local": "1",
    "ipv4/ip_nonlocal_bind": "1",
    "ipv6/ip_nonlocal_bind": "1",
    "ipv6/conf/all/accept_redirects": "0",
    "ipv6/conf/default/accept_redirects": "0",
}


class Addresses(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be laid out, all in canonical form.

    Attributes:
        node: The node's own, the primary of each family first.
        loopback: Further ones of the node on ``lo``: a load balancer's address it may call from.
        pods: Networks and addresses behind the pod link.
    """

    node: tuple[str, ...]
    loopback: tuple[str, ...] = ()
    pods: tuple[str, ...] = ()


class Topology(NamedTuple):
    """The two namespaces, entered."""

    node: Namespace
    world: Namespace
    addresses: Addresses


@contextmanager
def new_topology(addresses: Addresses) -> Iterator[Topology]:
    """Lay out a node and its world; they are gone afterwards.

    Skips the calling test, with the reason, where no namespace can be made.
    """
    with new_netns() as node, new_netns() as world:
        _write_sysctls(node, _NODE)
        _write_sysctls(world, _WORLD)
        ip("-n", str(node), batch=_node_lines(addresses, str(world)))
        ip("-n", str(world), batch=[f"link set {link} arp off up" for link in _LINKS])
        for family in Family:
            ip("-n", str(world), f"-{family.value}", batch=_world_lines(addresses, family))
        yield Topology(node, world, addresses)


def _node_lines(addresses: Addresses, world: str) -> list[str]:
    """The node's ip(8) lines.

    The links do without neighbour discovery: ``arp off`` makes each end use its own hardware
    address as the other's, so both ends are given the same one.
    """
    lines = []
    for link, mac in _LINKS.items():
        end = f"{link} address {mac}"
        lines += [
            f"link add {end} type veth peer name {end} netns {world}",
            f"link set {link} arp off up",
        ]
        # On both links, lest a masquerade to a pod takes its source from ``lo``.
        lines += [f"addr add {host_network(a)} dev {link}" for a in addresses.node]
    # Deprecated: never chosen as a source, unless the sender binds to it.
    lines += [f"addr add {host_network(a)} dev lo preferred_lft 0" for a in addresses.loopback]
    lines += [f"route add {a} dev {POD_LINK}" for a in addresses.pods]
    return lines + [f"route add {_EVERYTHING[family]} dev {UPLINK}" for family in Family]


def _world_lines(addresses: Addresses, family: Family) -> list[str]:
    """The world's ip(8) lines: all addresses are local to it, but only for what arrives."""
    return [
        "route add local default dev lo table local",
        f"route add default dev {UPLINK}",
        f"route add default dev {POD_LINK} table {_POD_TABLE}",
        *(
            f"rule add pref 10 from {a} iif lo lookup {_POD_TABLE}"
            for a in of_family(addresses.pods, family)
        ),
        "rule add pref 20 iif lo lookup main",
        "rule add pref 30 lookup local",
        "rule del pref 0 lookup local",
    ]


def _write_sysctls(namespace: Namespace, values: Mapping[str, str]) -> None:
    def write() -> None:
        for name, value in values.items():
            (Path("/proc/sys/net") / name).write_text(value, encoding="ascii")

    namespace.call(write)
