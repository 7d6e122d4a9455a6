"""From Service to port plan: frontends, policies, families, health checks, conntrack."""

from __future__ import annotations

import msgspec

from netplane.core.model.address import Family
from netplane.core.model.service import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Protocol,
    Service,
    ServiceName,
    ServicePort,
)
from netplane.core.model.snapshot import Snapshot
from netplane.core.plan.compile import build_plan
from netplane.core.plan.conntrack import desired_flows
from netplane.core.plan.node import FamilyView, NodeView
from netplane.core.plan.plan import HealthCheck, Plan
from netplane.core.plan.port import Backend, PortPlan

NAME = ServiceName("default", "web")
NODE = NodeView(
    name="n1",
    zone="",
    families=(
        FamilyView(family=Family.IPV4, node_ip="192.0.2.1"),
        FamilyView(family=Family.IPV6, node_ip="2001:db8::1"),
    ),
)
WEB = Service(
    key=NAME,
    cluster_ips=("172.30.0.10", "fd00::10"),
    ports=(ServicePort("http", Protocol.TCP, 80, 30080),),
)
LOCAL, REMOTE = Backend("10.0.0.1", 8080), Backend("10.0.0.2", 8080)


def slices(*, ready: bool = True, protocol: Protocol = Protocol.TCP) -> tuple[EndpointSlice, ...]:
    return (
        EndpointSlice(
            namespace="default",
            name="web-1",
            service=NAME,
            family=Family.IPV4,
            ports=(EndpointPort("http", protocol, 8080),),
            endpoints=(
                Endpoint("10.0.0.1", ready, ready, node="n1"),
                Endpoint("10.0.0.2", ready, ready, node="n2"),
            ),
        ),
    )


def planned(service: Service, pieces: tuple[EndpointSlice, ...] = slices()) -> Plan:
    snapshot = Snapshot(services={service.key: service}, slices={service.key: pieces}, nodes={})
    return build_plan(snapshot, NODE)


def port(service: Service, pieces: tuple[EndpointSlice, ...] = slices()) -> PortPlan:
    (found,) = planned(service, pieces).families[0].ports
    return found


def test_cluster_policy() -> None:
    found = port(WEB)
    assert found.cluster == (LOCAL, REMOTE)
    assert found.local == ()
    assert found.here == (LOCAL,)
    assert (found.has_internal, found.has_external) == (True, True)
    assert found.label == "default/web:http"


def test_each_family_has_its_own_cluster_ip_and_endpoints() -> None:
    four, six = planned(WEB).families
    assert four.ports[0].cluster_ip == "172.30.0.10"
    assert six.ports[0].cluster_ip == "fd00::10"
    assert six.ports[0].has_endpoints is False
    assert six.ports[0].has_internal is False


def test_a_family_without_a_cluster_ip_has_no_ports() -> None:
    four, six = planned(msgspec.structs.replace(WEB, cluster_ips=("172.30.0.10",))).families
    assert len(four.ports) == 1
    assert six.ports == ()


def test_local_policies_ask_for_local_backends_and_keep_the_cluster_for_short_cuts() -> None:
    found = port(msgspec.structs.replace(WEB, external_local=True))
    assert (found.external_backends, found.internal_backends) == ((LOCAL,), (LOCAL, REMOTE))
    found = port(msgspec.structs.replace(WEB, internal_local=True))
    assert (found.external_backends, found.internal_backends) == ((LOCAL, REMOTE), (LOCAL,))
    private = ServicePort("http", Protocol.TCP, 80)
    found = port(msgspec.structs.replace(WEB, internal_local=True, ports=(private,)))
    assert (found.cluster, found.local) == ((), (LOCAL,))


def test_external_local_without_external_frontends_changes_nothing() -> None:
    private = ServicePort("http", Protocol.TCP, 80)
    found = port(msgspec.structs.replace(WEB, external_local=True, ports=(private,)))
    assert (found.cluster, found.local) == ((LOCAL, REMOTE), ())


def test_addresses_are_split_by_family_and_served_once() -> None:
    service = msgspec.structs.replace(
        WEB,
        external_ips=("198.51.100.1", "2001:db8::9", "198.51.100.2", "172.30.0.10"),
        load_balancer_ips=("198.51.100.2", "198.51.100.2"),
    )
    found = port(service)
    assert found.load_balancer_ips == ("198.51.100.2",)
    assert found.external_ips == ("198.51.100.1",)
    assert planned(service).families[1].ports[0].external_ips == ("2001:db8::9",)


def test_source_ranges_of_the_family_count_only_with_balancer_addresses() -> None:
    service = msgspec.structs.replace(
        WEB, load_balancer_ips=("198.51.100.2",), source_ranges=("192.0.2.0/24", "2001:db8::/64")
    )
    found = port(service)
    assert found.source_ranges == ("192.0.2.0/24",)
    assert found.vips_may_enter is True
    without = port(msgspec.structs.replace(service, load_balancer_ips=()))
    assert without.source_ranges == ()


def test_ports_are_sorted_by_name_then_protocol() -> None:
    service = msgspec.structs.replace(
        WEB,
        cluster_ips=("172.30.0.10",),
        ports=(
            ServicePort("z", Protocol.TCP, 1),
            ServicePort("a", Protocol.UDP, 2),
            ServicePort("a", Protocol.TCP, 2),
        ),
    )
    found = planned(service).families[0].ports
    assert [(p.port_name, p.protocol.text) for p in found] == [
        ("a", "tcp"),
        ("a", "udp"),
        ("z", "tcp"),
    ]


def test_a_port_finds_endpoints_by_name_and_protocol() -> None:
    assert port(WEB, slices(protocol=Protocol.UDP)).has_endpoints is False


def test_health_checks_count_ready_addresses_on_this_node() -> None:
    service = msgspec.structs.replace(WEB, external_local=True, health_check_node_port=32000)
    assert planned(service).health_checks == (HealthCheck(32000, NAME, 1),)
    assert planned(service, slices(ready=False)).health_checks == (HealthCheck(32000, NAME, 0),)
    assert planned(WEB).health_checks == ()


def test_udp_flows_may_live_on_serving_endpoints_whatever_the_policy() -> None:
    service = msgspec.structs.replace(
        WEB,
        ports=(ServicePort("http", Protocol.UDP, 80, 30080),),
        external_ips=("198.51.100.1",),
        external_local=True,
    )
    pieces = slices(protocol=Protocol.UDP)
    flows = desired_flows(planned(service, pieces).families[0])
    both = frozenset({LOCAL, REMOTE})
    assert flows.frontends == {("172.30.0.10", 80): both, ("198.51.100.1", 80): both}
    assert flows.node_ports == {30080: both}
    gone = desired_flows(planned(service, slices(ready=False)).families[0])
    assert gone.frontends[("172.30.0.10", 80)] == frozenset()


def test_tcp_has_no_flows_to_clean() -> None:
    flows = desired_flows(planned(WEB).families[0])
    assert (flows.frontends, flows.node_ports) == ({}, {})
