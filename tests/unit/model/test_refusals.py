"""What is refused and in which words: one table for every kind, and proof that it is complete."""

from __future__ import annotations

import pytest

from netplane.core.model.cluster import build_snapshot
from netplane.core.model.documents import parse
from netplane.core.model.problem import Problem
from netplane.core.model.reasons import Reason
from netplane.core.model.service import ServiceName
from tests.support.manifests import (
    Object,
    endpoint,
    endpoint_slice,
    endpoints,
    kube_list,
    node,
    pod,
    service,
)
from tests.unit.model.refusals import (
    HOSTILE,
    LONG,
    Refusal,
    altered,
    eps,
    one,
    ported,
    svc,
    without,
)

TWO = [{"name": "a", "port": 80}, {"name": "b", "port": 81}]

IDENTITY = [
    pytest.param([{"apiVersion": "v1"}], one("", "kind", "", Reason.MISSING), id="no-kind"),
    pytest.param([5], one("", "items", "5", Reason.NOT_AN_OBJECT), id="not-an-object"),
    pytest.param(
        [without(service("web"), "apiVersion")],
        svc("apiVersion", "", Reason.MISSING),
        id="no-api-version",
    ),
    pytest.param(
        [altered(service("web"), {"apiVersion": "v2"})],
        svc("apiVersion", "v2", Reason.UNKNOWN_VERSION),
        id="unknown-api-version",
    ),
    pytest.param(
        [without(service("web"), "metadata", "name")],
        svc("metadata.name", "", Reason.MISSING),
        id="no-name",
    ),
    pytest.param(
        [without(pod("web"), "metadata")],
        one("Pod", "metadata.name", "", Reason.MISSING),
        id="no-metadata",
    ),
    pytest.param(
        [altered(service("web"), {"name": 5}, "metadata")],
        svc("metadata.name", "5", Reason.WRONG_TYPE),
        id="name-is-a-number",
    ),
    pytest.param(
        [ported(port="80")], svc("spec.ports[0].port", "80", Reason.WRONG_TYPE), id="port-is-text"
    ),
    pytest.param(
        [ported(port={"a": 1})],
        svc("spec.ports[0].port", "", Reason.WRONG_TYPE),
        id="port-is-an-object",
    ),
    pytest.param(
        [
            altered(service("web"), {"labels": {"a": 5}, "name": "b"}, "metadata"),
            altered(pod("p"), {"labels": {"a": 5}}, "metadata"),
            service("c", cluster_ips=["172.30.0.11"], selector={"a": "5"}),
        ],
        one("Pod", "metadata.labels[...]", "", Reason.WRONG_TYPE),
        id="label-is-a-number",
    ),
]

SERVICES = [
    pytest.param(
        [service("We_b")], svc("metadata.name", "We_b", Reason.NOT_A_LABEL), id="upper-case-name"
    ),
    pytest.param(
        [service(LONG)],
        svc("metadata.name", LONG[:77] + "...", Reason.NOT_A_LABEL),
        id="long-name",
    ),
    pytest.param(
        [service("web", namespace="a.b")],
        svc("metadata.namespace", "a.b", Reason.NOT_A_LABEL),
        id="namespace",
    ),
    pytest.param(
        [service("web", created="yesterday")],
        svc("metadata.creationTimestamp", "yesterday", Reason.NOT_A_TIME),
        id="created",
    ),
    pytest.param(
        [service("web", type="Cluster")],
        svc("spec.type", "Cluster", Reason.UNKNOWN_VALUE),
        id="type",
    ),
    pytest.param(
        [service("web", cluster_ips=())],
        svc("spec.clusterIP", "", Reason.NOT_ALLOCATED),
        id="no-cluster-ip",
    ),
    pytest.param(
        [service("web", cluster_ips=["172.30.0.256"])],
        svc("spec.clusterIPs[0]", "172.30.0.256", Reason.NOT_AN_ADDRESS),
        id="bad-cluster-ip",
    ),
    pytest.param(
        [service("web", cluster_ips=["127.0.0.1"])],
        svc("spec.clusterIPs[0]", "127.0.0.1", Reason.LOOPBACK),
        id="loopback-cluster-ip",
    ),
    pytest.param(
        [service("web", clusterIP="172.30.0.9")],
        svc("spec.clusterIP", "172.30.0.9", Reason.UNEQUAL_CLUSTER_IPS),
        id="unequal-cluster-ips",
    ),
    pytest.param(
        [service("web", cluster_ips=["172.30.0.1", "172.30.0.2"], ipFamilies=None)],
        svc("spec.clusterIPs[1]", "172.30.0.2", Reason.TOO_MANY_CLUSTER_IPS),
        id="two-cluster-ips-of-a-family",
    ),
    pytest.param(
        [service("web", ipFamilies=["IPv6"])],
        svc("spec.clusterIPs[0]", "172.30.0.10", Reason.WRONG_FAMILY),
        id="cluster-ip-of-the-other-family",
    ),
    pytest.param(
        [service("web", ipFamilies=["IPv4", "IPv5"])],
        svc("spec.ipFamilies[1]", "IPv5", Reason.UNKNOWN_VALUE),
        id="unknown-family",
    ),
    pytest.param(
        [service("web", ipFamilies=["IPv4", "IPv4"])],
        svc("spec.ipFamilies[1]", "IPv4", Reason.DUPLICATE_FAMILY),
        id="family-twice",
    ),
    pytest.param(
        [service("web", ports=[])], svc("spec.ports", "", Reason.NO_PORTS), id="no-ports"
    ),
    pytest.param([ported(port=0)], svc("spec.ports[0].port", "0", Reason.PORT_RANGE), id="port-0"),
    pytest.param(
        [ported(port=65536)],
        svc("spec.ports[0].port", "65536", Reason.PORT_RANGE),
        id="port-65536",
    ),
    pytest.param(
        [service("web", ports=[{"name": "http"}])],
        svc("spec.ports[0].port", "", Reason.PORT_RANGE),
        id="port-absent",
    ),
    pytest.param(
        [ported(port=10**30)],
        svc("spec.ports[0].port", str(10**30), Reason.PORT_RANGE),
        id="port-beyond-64-bits",
    ),
    pytest.param(
        [ported(nodePort=-1)],
        svc("spec.ports[0].nodePort", "-1", Reason.PORT_RANGE),
        id="node-port",
    ),
    pytest.param(
        [ported(targetPort=70000)],
        svc("spec.ports[0].targetPort", "70000", Reason.PORT_RANGE),
        id="target-port",
    ),
    pytest.param(
        [ported(targetPort="8080")],
        svc("spec.ports[0].targetPort", "8080", Reason.NOT_A_PORT_NAME),
        id="target-port-a-number-as-text",
    ),
    pytest.param(
        [ported(protocol="tcp")],
        svc("spec.ports[0].protocol", "tcp", Reason.UNKNOWN_VALUE),
        id="protocol",
    ),
    pytest.param(
        [ported(name="HTTP")],
        svc("spec.ports[0].name", "HTTP", Reason.NOT_A_LABEL),
        id="port-name",
    ),
    pytest.param(
        [service("web", ports=[TWO[0], {"port": 81}])],
        svc("spec.ports[1].name", "", Reason.NAME_NEEDED),
        id="nameless-among-several",
    ),
    pytest.param(
        [service("web", ports=[TWO[0], {"name": "a", "port": 81}])],
        svc("spec.ports[1].name", "a", Reason.DUPLICATE_NAME),
        id="port-name-twice",
    ),
    pytest.param(
        [service("web", ports=[TWO[0], {"name": "b", "port": 80}])],
        svc("spec.ports[1].port", "80", Reason.DUPLICATE_PORT),
        id="port-twice",
    ),
    pytest.param(
        [service("web", ports=[{**port, "nodePort": 30000} for port in TWO])],
        svc("spec.ports[1].nodePort", "30000", Reason.DUPLICATE_NODE_PORT),
        id="node-port-twice",
    ),
    pytest.param(
        [service("web", externalIPs=["198.51.100.1", "169.254.1.1"])],
        svc("spec.externalIPs[1]", "169.254.1.1", Reason.LINK_LOCAL),
        id="external-ip-link-local",
    ),
    pytest.param(
        [service("web", externalIPs=["0.0.0.0"])],
        svc("spec.externalIPs[0]", "0.0.0.0", Reason.UNSPECIFIED),
        id="external-ip-unspecified",
    ),
    pytest.param(
        [service("web", externalIPs=["::ffff:198.51.100.1"])],
        svc("spec.externalIPs[0]", "::ffff:198.51.100.1", Reason.MAPPED),
        id="external-ip-mapped",
    ),
    pytest.param(
        [service("web", ingress=[{"ip": "198.51.100.1", "ipMode": "Proxy"}, {"ip": "ff02::1"}])],
        svc("status.loadBalancer.ingress[1].ip", "ff02::1", Reason.MULTICAST),
        id="ingress",
    ),
    pytest.param(
        [service("web", ingress=[{"ip": "198.51.100.1", "ipMode": "vip"}])],
        svc("status.loadBalancer.ingress[0].ipMode", "vip", Reason.UNKNOWN_VALUE),
        id="ip-mode",
    ),
    pytest.param(
        [service("web", loadBalancerSourceRanges=["10.0.0.0/8", "10.0.0.0/33"])],
        svc("spec.loadBalancerSourceRanges[1]", "10.0.0.0/33", Reason.NOT_A_NETWORK),
        id="source-range",
    ),
    pytest.param(
        [service("web", internalTrafficPolicy="Node")],
        svc("spec.internalTrafficPolicy", "Node", Reason.UNKNOWN_VALUE),
        id="internal-policy",
    ),
    pytest.param(
        [service("web", externalTrafficPolicy="local")],
        svc("spec.externalTrafficPolicy", "local", Reason.UNKNOWN_VALUE),
        id="external-policy",
    ),
    pytest.param(
        [service("web", healthCheckNodePort=99999)],
        svc("spec.healthCheckNodePort", "99999", Reason.PORT_RANGE),
        id="health-check-node-port",
    ),
    pytest.param(
        [service("web", sessionAffinity="Cookie")],
        svc("spec.sessionAffinity", "Cookie", Reason.UNKNOWN_VALUE),
        id="affinity",
    ),
    *(
        pytest.param(
            [
                service(
                    "web",
                    sessionAffinity="ClientIP",
                    sessionAffinityConfig={"clientIP": {"timeoutSeconds": seconds}},
                )
            ],
            svc(
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
                str(seconds),
                Reason.TIMEOUT_RANGE,
            ),
            id=f"affinity-timeout-{seconds}",
        )
        for seconds in (0, 86401)
    ),
    pytest.param(
        [service("web", type="?", externalIPs=["::1"], ports=[])],
        [
            ("Service", "spec.externalIPs[0]", "::1", Reason.LOOPBACK),
            ("Service", "spec.ports", "", Reason.NO_PORTS),
            ("Service", "spec.type", "?", Reason.UNKNOWN_VALUE),
        ],
        id="every-fault-is-named",
    ),
    pytest.param(
        [service(HOSTILE)],
        svc("metadata.name", "a'\"; $(reboot) \\x1b[31m\\n-A KUBE", Reason.NOT_A_LABEL),
        id="hostile-name",
    ),
]

SLICES = [
    pytest.param(
        [endpoint_slice("web", name="A/b")],
        eps("metadata.name", "A/b", Reason.NOT_A_SUBDOMAIN),
        id="slice-name",
    ),
    pytest.param(
        [endpoint_slice("web_1", name="a")],
        eps("metadata.labels[kubernetes.io/service-name]", "web_1", Reason.NOT_A_LABEL),
        id="slice-service-name",
    ),
    pytest.param(
        [endpoint_slice("web", family="ipv4")],
        eps("addressType", "ipv4", Reason.UNKNOWN_VALUE),
        id="address-type",
    ),
    pytest.param(
        [without(endpoint_slice("web"), "addressType")],
        eps("addressType", "", Reason.UNKNOWN_VALUE),
        id="address-type-absent",
    ),
    pytest.param(
        [endpoint_slice("web", ["10.244.1.1", endpoint()])],
        eps("endpoints[1].addresses", "", Reason.NO_ADDRESS),
        id="endpoint-without-address",
    ),
    *(
        pytest.param(
            [endpoint_slice("web", [address], family="IPv6" if ":" in address else "IPv4")],
            eps("endpoints[0].addresses[0]", address, reason),
            id=f"endpoint-{address}",
        )
        for address, reason in {
            "127.0.0.2": Reason.LOOPBACK,
            "::1": Reason.LOOPBACK,
            "169.254.0.1": Reason.LINK_LOCAL,
            "fe80::1": Reason.LINK_LOCAL,
            "febf::1": Reason.LINK_LOCAL,
            "224.0.0.1": Reason.MULTICAST,
            "239.255.255.255": Reason.MULTICAST,
            "ff02::1": Reason.MULTICAST,
            "000.0.0.0": Reason.UNSPECIFIED,
            "::": Reason.UNSPECIFIED,
            "::ffff:10.0.0.1": Reason.MAPPED,
            "fe80::1%eth0": Reason.NOT_AN_ADDRESS,
            "10.0.0": Reason.NOT_AN_ADDRESS,
            "localhost": Reason.NOT_AN_ADDRESS,
        }.items()
    ),
    pytest.param(
        [endpoint_slice("web", ["10.244.1.1", "fd00::1"])],
        eps("endpoints[1].addresses[0]", "fd00::1", Reason.WRONG_FAMILY),
        id="ipv6-in-an-ipv4-slice",
    ),
    pytest.param(
        [endpoint_slice("web", [endpoint("10.244.1.1", node="A B")])],
        eps("endpoints[0].nodeName", "A B", Reason.NOT_A_SUBDOMAIN),
        id="endpoint-node",
    ),
    pytest.param(
        [endpoint_slice("web", [endpoint("10.244.1.1", zones=["a", "b c"])])],
        eps("endpoints[0].hints.forZones[1].name", "b c", Reason.NOT_A_LABEL_VALUE),
        id="zone-hint",
    ),
    pytest.param(
        [endpoint_slice("web", [endpoint("10.244.1.1", nodes=["A"])])],
        eps("endpoints[0].hints.forNodes[0].name", "A", Reason.NOT_A_SUBDOMAIN),
        id="node-hint",
    ),
    pytest.param(
        [endpoint_slice("web", ports=[{"name": "http", "port": 99999}])],
        eps("ports[0].port", "99999", Reason.PORT_RANGE),
        id="slice-port",
    ),
    pytest.param(
        [endpoint_slice("web", ports=[{"name": "http", "port": 80, "protocol": "QUIC"}])],
        eps("ports[0].protocol", "QUIC", Reason.UNKNOWN_VALUE),
        id="slice-protocol",
    ),
    pytest.param(
        [endpoint_slice("web", ports=[{"name": "a b", "port": 80}])],
        eps("ports[0].name", "a b", Reason.NOT_A_LABEL),
        id="slice-port-name",
    ),
    pytest.param(
        [endpoint_slice("web", ports=[*TWO, {"name": "a", "port": 82}])],
        eps("ports[2].name", "a", Reason.DUPLICATE_NAME),
        id="slice-port-name-twice",
    ),
    pytest.param(
        [altered(endpoint_slice("web"), {"endpoints": [{"addresses": "10.244.1.1"}]})],
        eps("endpoints[0].addresses", "10.244.1.1", Reason.WRONG_TYPE),
        id="addresses-is-text",
    ),
]

OTHERS = [
    pytest.param(
        [node("A", ip="192.0.2.1")],
        one("Node", "metadata.name", "A", Reason.NOT_A_SUBDOMAIN),
        id="node-name",
    ),
    pytest.param(
        [node("n", ip="host")],
        one("Node", "status.addresses[0].address", "host", Reason.NOT_AN_ADDRESS),
        id="node-address",
    ),
    pytest.param(
        [node("n", ip="192.0.2.1", pod_cidr="10.244.0.0")],
        one("Node", "spec.podCIDRs[0]", "10.244.0.0", Reason.NOT_A_NETWORK),
        id="node-pod-cidr",
    ),
    pytest.param(
        [node("n", ip="192.0.2.1", zone="a b")],
        one(
            "Node", "metadata.labels[topology.kubernetes.io/zone]", "a b", Reason.NOT_A_LABEL_VALUE
        ),
        id="node-zone",
    ),
    pytest.param(
        [service("web"), endpoints("web", ["10.244.1.1", "10.244.1"])],
        one("Endpoints", "subsets[0].addresses[1].ip", "10.244.1", Reason.NOT_AN_ADDRESS),
        id="endpoints-address",
    ),
    pytest.param(
        [service("web"), altered(endpoints("web"), {"subsets": 5})],
        one("Endpoints", "subsets", "5", Reason.WRONG_TYPE),
        id="endpoints-subsets",
    ),
    pytest.param(
        [service("web", selector={"a": "b"}), pod("p", "127.0.0.1", labels={"a": "b"})],
        one("Pod", "status.podIPs[0].ip", "127.0.0.1", Reason.LOOPBACK),
        id="pod-address",
    ),
    pytest.param(
        [service("web", selector={"a": "b"}), pod("p", "10.0.0.1", node="N 1")],
        one("Pod", "spec.nodeName", "N 1", Reason.NOT_A_SUBDOMAIN),
        id="pod-node",
    ),
]

TABLE = [*IDENTITY, *SERVICES, *SLICES, *OTHERS]


@pytest.mark.parametrize(("objects", "expected"), TABLE)
def test_refused_with_the_reason_and_nothing_else_is_harmed(
    objects: list[Object], expected: list[Refusal]
) -> None:
    bystander = service("bystander", cluster_ips=["172.30.9.9"])
    snapshot = build_snapshot(
        parse(kube_list(*objects, bystander, endpoint_slice("bystander")), origin="test")
    )
    found = [(p.kind, p.field, p.value, reason_of(p)) for p in snapshot.problems]
    assert found == expected
    assert ServiceName("default", "bystander") in snapshot.services
    assert snapshot.slices[ServiceName("default", "bystander")][0].endpoints
    if any(kind == "Service" for kind, *_ in expected):
        assert [str(name) for name in snapshot.services] == ["default/bystander"]


def test_a_number_beyond_all_limits_is_of_the_wrong_type() -> None:
    # More digits than Python converts (sys.set_int_max_str_digits).
    data = kube_list(ported(port=54321)).replace(b"54321", b"9" * 5000)
    (refused,) = build_snapshot(parse(data, origin="test")).problems
    assert (refused.kind, refused.field, refused.value) == ("Service", "spec.ports[0].port", "")
    assert reason_of(refused) is Reason.WRONG_TYPE


def test_every_reason_is_given_by_some_case() -> None:
    given = {reason for param in TABLE for *_, reason in param.values[1]}  # type: ignore[union-attr]
    assert given == set(Reason)


def reason_of(problem: Problem) -> Reason:
    """The reason a problem's words begin with; the longest, where one begins another."""
    fitting = [r for r in Reason if problem.reason.startswith(r.value)]
    assert fitting, problem
    return max(fitting, key=lambda r: len(r.value))
