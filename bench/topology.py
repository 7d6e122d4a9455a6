"""A client, a node and its pods, in a namespace each: what packets are sent through.

    client 10.255.0.2 -- 10.255.0.1  node  10.255.0.5 -- 10.255.0.6 pods (all of 10.128.0.0/10)

The client is a pod of this node as well: its address is in the cluster's network, so nothing it
sends to a ClusterIP is masqueraded. One local route makes every endpoint's address answer.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.namespaces import fresh_netns, ip
from bench.states import TARGET_PORT
from netplane.apply.netns import Namespace

_PODS = "10.128.0.0/10"
_BACKLOG = 512
_CONNECT_SECONDS = 3.0


class Topology(NamedTuple):
    """The namespaces, and a socket in the pods' that listens on every endpoint's address."""

    client: Namespace
    node: str
    listener: socket.socket

    def connect(self, address: str, port: int) -> str:
        """Connect from the client; returns the address that answered.

        Raises:
            OSError: Nobody did.
        """
        with self.client.call(lambda: socket.create_connection((address, port), _CONNECT_SECONDS)):
            accepted, _ = self.listener.accept()
            with accepted:
                return str(accepted.getsockname()[0])


@contextmanager
def fresh_topology() -> Iterator[Topology]:
    """Lay it out; the node has no rules."""
    with ExitStack() as stack:
        client, node, pods = (
            stack.enter_context(fresh_netns(name)) for name in ("client", "node", "pods")
        )
        _link(client, "eth0", "10.255.0.2/30", node, "to-client", "10.255.0.1/30")
        _link(pods, "eth0", "10.255.0.6/30", node, "to-pods", "10.255.0.5/30")
        ip("-n", client, "route", "add", "default", "via", "10.255.0.1")
        ip("-n", pods, "route", "add", "default", "via", "10.255.0.5")
        ip("-n", pods, "route", "add", "local", _PODS, "dev", "lo")
        ip("-n", node, "route", "add", _PODS, "via", "10.255.0.6")
        with Namespace(node) as entered:
            entered.call(lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
        entered_pods = stack.enter_context(Namespace(pods))
        entered_client = stack.enter_context(Namespace(client))
        listener = stack.enter_context(entered_pods.call(_listen))
        yield Topology(entered_client, node, listener)


def _listen() -> socket.socket:
    listener = socket.create_server(("0.0.0.0", TARGET_PORT), backlog=_BACKLOG)
    listener.settimeout(_CONNECT_SECONDS)
    return listener


def _link(  # noqa: PLR0913, PLR0917 (two ends of three words each)
    one: str, one_end: str, one_address: str, other: str, other_end: str, other_address: str
) -> None:
    """Join two namespaces by a pair of interfaces."""
    peer = ("peer", "name", other_end, "netns", other)
    ip("-n", one, "link", "add", one_end, "type", "veth", *peer)
    for netns, end, address in ((one, one_end, one_address), (other, other_end, other_address)):
        ip("-n", netns, "address", "add", address, "dev", end)
        ip("-n", netns, "link", "set", end, "up")
