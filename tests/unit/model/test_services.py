"""What a good Service becomes, and which Services there is nothing to program for."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from netplane.core.model import wire
from netplane.core.model.service import Protocol, Service, ServiceName, ServicePort
from netplane.core.model.services import service_from
from tests.support.manifests import CREATED, Object, service

PLAIN = Service(
    key=ServiceName("default", "web"),
    cluster_ips=("172.30.0.10",),
    ports=(ServicePort("http", Protocol.TCP, 80),),
    created=CREATED,
)
LOAD_BALANCER: Any = {"type": "LoadBalancer", "ingress": [{"ip": "198.51.100.1"}]}


def read(thing: Object) -> Service | None:
    found, problems = service_from(msgspec.convert(thing, wire.Service))
    assert problems == ()
    return found


def labelled(value: str) -> Object:
    return service("web", labels={"service.kubernetes.io/service-proxy-name": value})


@pytest.mark.parametrize(
    ("thing", "changes"),
    [
        pytest.param(service("web"), {}, id="plain"),
        pytest.param(service("web", type=None, sessionAffinity="None"), {}, id="defaults"),
        pytest.param(service("web", created=""), {"created": ""}, id="no-time"),
        pytest.param(service("web", created="2026-01-02T05:04:05.5+02:00"), {}, id="other-zone"),
        pytest.param(service("web", cluster_ips=["172.030.000.010"]), {}, id="leading-zeros"),
        pytest.param(service("web", clusterIPs=None), {}, id="cluster-ip-only"),
        pytest.param(service("web", clusterIP=None), {}, id="cluster-ips-only"),
        pytest.param(service("web", ipFamilies=None), {}, id="no-ip-families"),
        pytest.param(
            service("web", cluster_ips=["FD00:30:0::A", "172.30.0.10"]),
            {"cluster_ips": ("fd00:30::a", "172.30.0.10")},
            id="dual-stack",
        ),
        pytest.param(
            service("web", cluster_ips=["172.30.0.10", "fd00:30::a"], ipFamilies=["IPv4"]),
            {},
            id="family-without-an-entry-in-ipFamilies",
        ),
        pytest.param(
            service("web", cluster_ips=["169.254.30.1"]),
            {"cluster_ips": ("169.254.30.1",)},
            id="link-local-service-range",
        ),
        pytest.param(
            service("web", ports=[{"port": 53, "protocol": "UDP", "nodePort": 30053}]),
            {"ports": (ServicePort("", Protocol.UDP, 53, 30053),)},
            id="unnamed-udp-node-port-on-a-cluster-ip",
        ),
        pytest.param(
            service(
                "web",
                ports=[
                    {"name": "a", "port": 53, "protocol": "UDP"},
                    {"name": "b", "port": 53, "protocol": "TCP"},
                    {"name": "c", "port": 53, "protocol": "SCTP", "targetPort": "dns"},
                ],
            ),
            {
                "ports": (
                    ServicePort("a", Protocol.UDP, 53),
                    ServicePort("b", Protocol.TCP, 53),
                    ServicePort("c", Protocol.SCTP, 53),
                )
            },
            id="one-number-three-protocols",
        ),
        pytest.param(
            service("web", externalIPs=["198.051.100.1", "2001:DB8::1", "198.51.100.1"]),
            {"external_ips": ("198.51.100.1", "2001:db8::1")},
            id="external-ips-of-both-families-each-once",
        ),
        pytest.param(
            service(
                "web",
                ingress=[
                    {"ip": "198.51.100.1"},
                    {"ip": "198.51.100.2", "ipMode": "VIP"},
                    {"ip": "198.51.100.3", "ipMode": "Proxy"},
                    {"hostname": "lb.example"},
                ],
            ),
            {"load_balancer_ips": ("198.51.100.1", "198.51.100.2")},
            id="ingress-captured-by-ip-mode",
        ),
        pytest.param(
            service(
                "web",
                loadBalancerSourceRanges=[" 10.1.2.3/8\t", "2001:db8::/32", "10.0.0.0/8"],
            ),
            {"source_ranges": ("10.0.0.0/8", "2001:db8::/32")},
            id="source-ranges-with-blanks-and-host-bits",
        ),
        pytest.param(
            service("web", internalTrafficPolicy="Local"), {"internal_local": True}, id="internal"
        ),
        pytest.param(
            service("web", externalTrafficPolicy="Local", healthCheckNodePort=32000),
            {},
            id="external-local-without-anything-external",
        ),
        pytest.param(
            service("web", type="NodePort", externalTrafficPolicy="Local", healthCheckNodePort=1),
            {"external_local": True},
            id="external-local-node-port",
        ),
        pytest.param(
            service("web", externalIPs=["198.51.100.1"], externalTrafficPolicy="Local"),
            {"external_local": True, "external_ips": ("198.51.100.1",)},
            id="external-local-external-ip",
        ),
        pytest.param(
            service("web", externalTrafficPolicy="Local", healthCheckNodePort=32000,
                    **LOAD_BALANCER),
            {"external_local": True, "health_check_node_port": 32000,
             "load_balancer_ips": ("198.51.100.1",)},
            id="health-check-node-port",
        ),
        pytest.param(
            service("web", externalTrafficPolicy="Cluster", healthCheckNodePort=32000,
                    **LOAD_BALANCER),
            {"load_balancer_ips": ("198.51.100.1",)},
            id="no-health-check-with-the-cluster-policy",
        ),
        pytest.param(
            service("web", sessionAffinity="ClientIP"), {"affinity_seconds": 10800},
            id="affinity-default",
        ),
        pytest.param(
            service("web", sessionAffinity="ClientIP",
                    sessionAffinityConfig={"clientIP": {"timeoutSeconds": 86400}}),
            {"affinity_seconds": 86400},
            id="affinity-timeout",
        ),
    ],
)  # fmt: skip
def test_a_good_service(thing: Object, changes: dict[str, object]) -> None:
    assert read(thing) == msgspec.structs.replace(PLAIN, **changes)


@pytest.mark.parametrize(
    "thing",
    [
        pytest.param(service("web", cluster_ips=["None"]), id="headless"),
        pytest.param(service("web", cluster_ips=(), clusterIPs=["None"]), id="headless-by-list"),
        pytest.param(service("web", cluster_ips=["None"], ports=()), id="headless-without-ports"),
        pytest.param(
            service(
                "db", cluster_ips=(), type="ExternalName", externalName="db.example", ports=()
            ),
            id="external-name",
        ),
        pytest.param(labelled("other"), id="other-proxy"),
        pytest.param(labelled(""), id="other-proxy-without-a-name"),
        pytest.param(
            service("web", labels={"service.kubernetes.io/headless": ""}), id="labelled-headless"
        ),
    ],
)
def test_nothing_to_program_and_no_problem(thing: Object) -> None:
    assert read(thing) is None
