"""Stale UDP flows, made by real packets in a private namespace, and what deletes them."""

from __future__ import annotations

import socket

import pytest

from netplane.apply.conntrack import Local, clean, flows
from netplane.apply.flows import Flow
from netplane.apply.netns import Namespace
from netplane.core.model.address import Family
from netplane.core.plan.conntrack import UdpFlows
from netplane.core.plan.port import Backend
from tests.support.netns import ip, run_tool

pytestmark = pytest.mark.kernel

_AF = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
_FRONTEND = {Family.IPV4: "10.96.0.10", Family.IPV6: "fd00:96::10"}
_BACKENDS = {
    Family.IPV4: ("10.244.0.1", "10.244.0.2"),
    Family.IPV6: ("fd00:244::1", "fd00:244::2"),
}
_LOCAL = Local()
_NOTHING = UdpFlows(frontends={}, node_ports={})


@pytest.fixture(params=list(Family), ids=lambda family: family.name)
def family(request: pytest.FixtureRequest, netns: Namespace) -> Family:
    """A namespace that owns frontend and backends, and tracks connections."""
    family: Family = request.param
    length = 32 if family is Family.IPV4 else 128
    for address in (_FRONTEND[family], *_BACKENDS[family]):
        _ip(netns, "address", "add", f"{address}/{length}", "dev", "lo", "nodad")
    _iptables(netns, family, "-A", "OUTPUT", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT")
    return family


def _ip(netns: Namespace, *arguments: str) -> None:
    ip("-n", str(netns.name), *[a for a in arguments if a != "nodad" or ":" in arguments[2]])


def _iptables(netns: Namespace, family: Family, *arguments: str) -> None:
    program = "iptables" if family is Family.IPV4 else "ip6tables"
    run_tool([program, *arguments], inside=netns)


def _translate(netns: Namespace, family: Family, backend: str) -> None:
    """New flows to the frontend's port 53 go to a backend's port 5353."""
    target = f"{backend}:5353" if family is Family.IPV4 else f"[{backend}]:5353"
    rule = ["OUTPUT", "-p", "udp", "-d", _FRONTEND[family], "--dport", "53", "-j", "DNAT"]
    _iptables(netns, family, "-t", "nat", "-F", "OUTPUT")
    _iptables(netns, family, "-t", "nat", "-A", *rule, "--to-destination", target)


def _send(netns: Namespace, family: Family, address: str, port: int, source_port: int) -> None:
    def call() -> None:
        with socket.socket(_AF[family], socket.SOCK_DGRAM) as client:
            client.bind(("", source_port))
            client.sendto(b"x", (address, port))

    netns.call(call)


def _ports(found: list[Flow] | tuple[Flow, ...]) -> set[int]:
    return {flow.source_port for flow in found}


def test_a_flow_is_read_as_it_was_sent(netns: Namespace, family: Family) -> None:
    _translate(netns, family, _BACKENDS[family][0])
    _send(netns, family, _FRONTEND[family], 53, 4001)
    (flow,) = flows(netns, family)
    assert (flow.source_port, flow.destination, flow.port) == (4001, _FRONTEND[family], 53)
    assert (flow.answers, flow.answer_port) == (_BACKENDS[family][0], 5353)
    assert flow.translated
    assert flow.identity
    assert flows(netns, family.other) == []


def test_only_flows_to_backends_that_left_are_deleted(netns: Namespace, family: Family) -> None:
    gone, stays = _BACKENDS[family]
    _send(netns, family, _FRONTEND[family], 53, 4000)  # before there were rules
    _translate(netns, family, gone)
    _send(netns, family, _FRONTEND[family], 53, 4001)
    _translate(netns, family, stays)
    _send(netns, family, _FRONTEND[family], 53, 4002)
    _send(netns, family, _FRONTEND[family], 54, 4003)  # no frontend
    desired = UdpFlows(
        frontends={(_FRONTEND[family], 53): frozenset({Backend(stays, 5353)})}, node_ports={}
    )
    assert _ports(clean(netns, family, desired, _LOCAL)) == {4000, 4001}
    assert _ports(flows(netns, family)) == {4002, 4003}
    assert clean(netns, family, desired, _LOCAL) == ()


def test_the_flow_goes_to_the_new_backend_afterwards(netns: Namespace, family: Family) -> None:
    old, new = _BACKENDS[family]
    _translate(netns, family, old)
    _send(netns, family, _FRONTEND[family], 53, 4001)
    _translate(netns, family, new)
    _send(netns, family, _FRONTEND[family], 53, 4001)
    assert {flow.answers for flow in flows(netns, family)} == {old}  # what rules alone leave
    desired = UdpFlows(
        frontends={(_FRONTEND[family], 53): frozenset({Backend(new, 5353)})}, node_ports={}
    )
    clean(netns, family, desired, _LOCAL)
    _send(netns, family, _FRONTEND[family], 53, 4001)
    assert {flow.answers for flow in flows(netns, family)} == {new}


def test_a_node_port_is_one_on_own_addresses_only(netns: Namespace, family: Family) -> None:
    own, elsewhere = _BACKENDS[family]
    _send(netns, family, own, 30053, 4001)
    _send(netns, family, elsewhere, 30053, 4002)
    desired = UdpFlows(frontends={}, node_ports={30053: frozenset({Backend(own, 5353)})})
    deleted = clean(netns, family, desired, Local(lambda: frozenset({own})))
    assert _ports(deleted) == {4001}
    assert _ports(flows(netns, family)) == {4002}


def test_a_flow_that_is_refused_is_left_until_somebody_could_answer_it(
    netns: Namespace, family: Family
) -> None:
    backend, _ = _BACKENDS[family]
    _send(netns, family, _FRONTEND[family], 53, 4001)
    frontend = (_FRONTEND[family], 53)
    nobody = UdpFlows(frontends={frontend: frozenset()}, node_ports={})
    assert clean(netns, family, nobody, _LOCAL) == ()
    somebody = UdpFlows(frontends={frontend: frozenset({Backend(backend, 5353)})}, node_ports={})
    assert _ports(clean(netns, family, somebody, _LOCAL)) == {4001}


def test_what_a_removed_service_left_is_deleted(netns: Namespace, family: Family) -> None:
    _translate(netns, family, _BACKENDS[family][0])
    _send(netns, family, _FRONTEND[family], 53, 4001)
    assert clean(netns, family, _NOTHING, _LOCAL) == ()  # nothing says that it was ours
    network = {Family.IPV4: "10.96.0.0/16", Family.IPV6: "fd00:96::/112"}[family]
    by_range = UdpFlows(frontends={}, node_ports={}, service_cidrs=(network,))
    assert _ports(clean(netns, family, by_range, _LOCAL)) == {4001}
    _send(netns, family, _FRONTEND[family], 53, 4002)
    removed = {(_FRONTEND[family], 53)}
    assert _ports(clean(netns, family, _NOTHING, _LOCAL, removed)) == {4002}


def test_other_protocols_are_left_alone(netns: Namespace, family: Family) -> None:
    def connect() -> None:
        with socket.socket(_AF[family], socket.SOCK_STREAM) as client:
            client.settimeout(5)
            with pytest.raises(ConnectionRefusedError):
                client.connect((_FRONTEND[family], 53))

    netns.call(connect)
    desired = UdpFlows(frontends={(_FRONTEND[family], 53): frozenset()}, node_ports={})
    assert clean(netns, family, desired, _LOCAL) == ()


def test_many_flows_are_deleted_in_one_pass(netns: Namespace, family: Family) -> None:
    for source_port in range(5000, 5300):
        _send(netns, family, _FRONTEND[family], 53, source_port)
    backends = frozenset({Backend(_BACKENDS[family][0], 5353)})
    desired = UdpFlows(frontends={(_FRONTEND[family], 53): backends}, node_ports={})
    assert len(clean(netns, family, desired, _LOCAL)) == 300
    assert flows(netns, family) == []
