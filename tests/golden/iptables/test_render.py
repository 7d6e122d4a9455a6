"""The whole text of telling plans; `pytest --update-goldens` rewrites it, then read the diff."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from netplane.core.iptables.steps import whole_text
from netplane.core.model.address import Family
from netplane.core.model.service import Protocol
from netplane.core.plan.node import DetectorKind, FamilyView, LocalDetector
from netplane.core.plan.port import PortPlan
from tests.unit.iptables.plans import port, ruleset, view

PODS = ("10.180.0.1:80", "10.180.0.2:80", "10.180.0.3:80")
PODS_V6 = ("[fd00:10::1]:80", "[fd00:10::2]:80")
V4, V6 = view(), view(Family.IPV6)


def _with(base: FamilyView, **changes: object) -> FamilyView:
    return msgspec.structs.replace(base, **changes)


CASES: dict[str, tuple[FamilyView, tuple[PortPlan, ...]]] = {
    "nothing": (V4, ()),
    "nothing-ipv6": (V6, ()),
    "cluster-ip": (V4, (port(cluster=PODS),)),
    "cluster-ip-ipv6": (V6, (port(cluster_ip="fd00:30::41", cluster=PODS_V6),)),
    "protocols": (
        V4,
        (
            port(
                "kube-system/kube-dns:dns",
                "172.30.0.10",
                number=53,
                protocol=Protocol.UDP,
                cluster=("10.180.0.9:53",),
            ),
            port(
                "kube-system/kube-dns:dns-tcp",
                "172.30.0.10",
                number=53,
                cluster=("10.180.0.9:53",),
            ),
            port(
                "ns1/sctp",
                "172.30.0.41",
                number=9000,
                protocol=Protocol.SCTP,
                cluster=("10.180.0.9:9000",),
            ),
        ),
    ),
    "no-endpoints": (
        V4,
        (port(node_port=30080, external_ips=("192.0.2.1",), load_balancer_ips=("1.2.3.4",)),),
    ),
    "no-endpoints-ipv6": (V6, (port(cluster_ip="fd00:30::41", node_port=30080),)),
    "external-cluster-policy": (
        V4,
        (
            port(
                cluster=PODS[:1],
                node_port=30080,
                external_ips=("192.0.2.1",),
                load_balancer_ips=("1.2.3.4",),
            ),
        ),
    ),
    "external-local-policy": (
        V4,
        (
            port(
                cluster=PODS,
                local=PODS[1:2],
                node_port=30080,
                load_balancer_ips=("1.2.3.4",),
                external_local=True,
                health_check_node_port=31000,
            ),
        ),
    ),
    "external-local-policy-only-remote": (
        V4,
        (
            port(
                cluster=PODS[:1],
                node_port=30080,
                load_balancer_ips=("1.2.3.4",),
                external_local=True,
            ),
        ),
    ),
    "internal-local-policy": (
        V4,
        (
            port(cluster=PODS[:2], local=PODS[:1], node_port=30080, internal_local=True),
            port("ns1/svc2", "172.30.0.42", internal_local=True, has_endpoints=True),
        ),
    ),
    "source-ranges": (
        V4,
        (
            port(
                cluster=PODS[:1],
                node_port=30080,
                load_balancer_ips=("1.2.3.4", "1.2.3.5"),
                source_ranges=("192.168.0.0/16", "203.0.113.0/25"),
                vips_may_enter=True,
            ),
        ),
    ),
    "session-affinity": (V4, (port(cluster=PODS[:2], affinity_seconds=10800),)),
    "session-affinity-ipv6": (
        V6,
        (port(cluster_ip="fd00:30::41", cluster=PODS_V6, affinity_seconds=60),),
    ),
    "masquerade-all": (_with(V4, masquerade_all=True), (port(cluster=PODS[:1]),)),
    "no-detector": (
        _with(V4, detector=LocalDetector()),
        (port(cluster=PODS[:1], local=PODS[:1], node_port=30080, external_local=True),),
    ),
    "bridge-detector": (
        _with(V4, detector=LocalDetector(DetectorKind.BRIDGE_INTERFACE, "cbr0")),
        (port(cluster=PODS[:1], local=PODS[:1], node_port=30080, external_local=True),),
    ),
    "localhost-node-ports": (
        _with(V4, localhost_node_ports=True),
        (port(cluster=PODS[:1], node_port=30080),),
    ),
    "chosen-node-ports": (
        _with(
            V4,
            node_port_addresses=("192.168.0.1", "192.168.1.1"),
            drop_invalid=False,
            masquerade_mark=0x1,
        ),
        (port(cluster=PODS[:1], node_port=30080),),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_render(name: str, golden: Callable[[str, str], None]) -> None:
    on, ports = CASES[name]
    golden(f"{name}.txt", whole_text(ruleset(*ports, on=on)))
