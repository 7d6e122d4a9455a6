"""Contested addresses and ports: the older Service keeps them, the younger keeps the rest."""

from __future__ import annotations

import itertools

import pytest

from netplane.core.model.address import Family
from netplane.core.model.service import Protocol, Service, ServiceName, ServicePort
from netplane.core.model.snapshot import Snapshot
from netplane.core.plan.claims import settle
from netplane.core.plan.compile import build_plan
from netplane.core.plan.node import FamilyView, NodeView

OLD, NEW = "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"


def service(
    name: str,
    ip: str,
    *,
    created: str = OLD,
    external: tuple[str, ...] = (),
    node_port: int = 0,
    check: int = 0,
    protocol: Protocol = Protocol.TCP,
) -> Service:
    return Service(
        key=ServiceName("default", name),
        cluster_ips=(ip,),
        ports=(ServicePort("http", protocol, 80, node_port),),
        external_ips=external,
        health_check_node_port=check,
        created=created,
    )


def losers(*services: Service) -> dict[str, list[str]]:
    """Who lost what, the same for every order of input."""
    results = []
    for order in itertools.permutations(services):
        lost, problems = settle({s.key: s for s in order})
        results.append(
            (
                {key.name: sorted(claims) for key, claims in sorted(lost.items())},
                [(p.name, p.field) for p in problems],
            )
        )
    assert all(result == results[0] for result in results)
    assert sum(map(len, results[0][0].values())) == len(results[0][1])
    found: dict[str, list[str]] = {}
    for name, field in results[0][1]:
        found.setdefault(name, []).append(field)
    return found


@pytest.mark.parametrize(
    ("services", "expected"),
    [
        pytest.param(
            [service("a", "172.30.0.1"), service("b", "172.30.0.2")], {}, id="nothing contested"
        ),
        pytest.param(
            [service("a", "172.30.0.1", created=NEW), service("b", "172.30.0.1")],
            {"a": ["spec.clusterIPs[0]"]},
            id="the older keeps a ClusterIP",
        ),
        pytest.param(
            [service("b", "172.30.0.1"), service("a", "172.30.0.1")],
            {"b": ["spec.clusterIPs[0]"]},
            id="the same age: the name decides",
        ),
        pytest.param(
            [service("a", "172.30.0.1", created=""), service("b", "172.30.0.1", created=NEW)],
            {"a": ["spec.clusterIPs[0]"]},
            id="an unknown age is the youngest",
        ),
        pytest.param(
            [
                service("a", "172.30.0.1", external=("198.51.100.1",)),
                service("b", "172.30.0.2", external=("198.51.100.1", "198.51.100.2"), created=NEW),
            ],
            {"b": ["spec.externalIPs[0]"]},
            id="an externalIP",
        ),
        pytest.param(
            [
                service("a", "172.30.0.1", node_port=30080),
                service("b", "172.30.0.2", node_port=30080, created=NEW),
                service("c", "172.30.0.3", node_port=30080, protocol=Protocol.UDP),
            ],
            {"b": ["spec.ports[0].nodePort"]},
            id="a NodePort, per protocol",
        ),
        pytest.param(
            [
                service("a", "172.30.0.1", node_port=30080),
                service("b", "172.30.0.2", check=30080, created=NEW),
            ],
            {"b": ["spec.healthCheckNodePort"]},
            id="a health check port against a NodePort",
        ),
    ],
)
def test_claims(services: list[Service], expected: dict[str, list[str]]) -> None:
    assert losers(*services) == expected


def test_the_loser_keeps_everything_else() -> None:
    old = service("old", "172.30.0.1", external=("198.51.100.1",), node_port=30080)
    new = service(
        "new",
        "172.30.0.2",
        external=("198.51.100.1", "198.51.100.2"),
        node_port=30080,
        created=NEW,
    )
    snapshot = Snapshot(services={s.key: s for s in (old, new)}, slices={}, nodes={})
    view = FamilyView(family=Family.IPV4)
    plan = build_plan(snapshot, NodeView(name="n1", families=(view,)))
    ports = {port.service.name: port for port in plan.families[0].ports}
    assert ports["old"].external_ips == ("198.51.100.1",)
    assert ports["old"].node_port == 30080
    assert ports["new"].cluster_ip == "172.30.0.2"
    assert ports["new"].external_ips == ("198.51.100.2",)
    assert ports["new"].node_port == 0
    assert [problem.name for problem in plan.problems] == ["new", "new"]
    assert "default/old" in plan.problems[0].reason
