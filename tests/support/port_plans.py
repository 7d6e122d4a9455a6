"""Plans of service ports for tests of a mode: one of each kind, and random ones.

``port`` builds one; keyword arguments are PortPlan's. ``translated`` gives the same plan in IPv6.
``random_plan`` draws a node's whole family plan, consistent as the planner's are: no frontend
twice, backends sorted, none where no policy uses them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import msgspec

from netplane.core.model.address import Family, canonical_address
from netplane.core.model.service import Protocol, ServiceName
from netplane.core.plan.node import DetectorKind, FamilyView, LocalDetector, NodeView
from netplane.core.plan.plan import FamilyPlan, Plan
from netplane.core.plan.port import Backend, PortPlan
from netplane.core.plan.select import in_order

HERE, ELSEWHERE = "10.244.1.", "10.244.2."
_V6_NETWORKS = {
    "172.30.0.0/16": "fd00:30::/112",
    "10.244.0.0/16": "fd00:244::/56",
    "192.168.0.0/24": "fd00:168::/64",
    "203.0.113.0/24": "2001:db8:1::/48",
    "203.0.113.0/25": "2001:db8:1::/49",
    "203.0.113.128/25": "2001:db8:1:8000::/49",
    "0.0.0.0/0": "::/0",
}
_V6_PREFIXES = {
    "172.30.": "fd00:30::",
    "10.244.": "fd00:244::",
    "192.168.": "fd00:168::",
    "198.51.100.": "2001:db8::",
    "203.0.113.": "2001:db8:1::",
}


def backends(*addresses: str, port: int = 8080) -> tuple[Backend, ...]:
    return tuple(Backend(address, port) for address in addresses)


def port(name: str, number: int = 1, **plan: object) -> PortPlan:
    """A plan of default/<name>:http at 172.30.0.<number>:80/tcp."""
    whole = {
        "service": ServiceName("default", name),
        "port_name": "http",
        "protocol": Protocol.TCP,
        "family": Family.IPV4,
        "cluster_ip": f"172.30.0.{number}",
        "port": 80,
        **plan,
    }
    whole.setdefault("has_endpoints", bool(whole.get("cluster") or whole.get("local")))
    return msgspec.convert(whole, PortPlan, strict=False)


def view(family: Family = Family.IPV4, **fields: object) -> FamilyView:
    """A node whose pods are told by the cluster network, with known service networks."""
    v4 = FamilyView(
        family=Family.IPV4,
        node_ip="192.168.0.5",
        detector=LocalDetector(DetectorKind.CLUSTER_CIDR, "10.244.0.0/16"),
        service_cidrs=("172.30.0.0/16",),
        node_port_addresses=("192.168.0.5",),
    )
    v4 = msgspec.structs.replace(v4, **fields)
    return v4 if family is Family.IPV4 else _translated_view(v4)


def plan(*families: FamilyPlan) -> Plan:
    node = NodeView(name="node-1", families=tuple(f.view for f in families))
    return Plan(node=node, families=families)


def dual(ports: Iterable[PortPlan], **fields: object) -> Plan:
    """The same plan in both families."""
    ports = tuple(ports)
    return plan(
        FamilyPlan(view=view(Family.IPV4, **fields), ports=ports),
        FamilyPlan(view=view(Family.IPV6, **fields), ports=tuple(map(translated, ports))),
    )


def translated(v4: PortPlan) -> PortPlan:
    """The same plan in IPv6."""
    return msgspec.structs.replace(
        v4,
        family=Family.IPV6,
        cluster_ip=_v6(v4.cluster_ip),
        external_ips=tuple(map(_v6, v4.external_ips)),
        load_balancer_ips=tuple(map(_v6, v4.load_balancer_ips)),
        source_ranges=tuple(map(_v6_network, v4.source_ranges)),
        cluster=_v6_backends(v4.cluster),
        local=_v6_backends(v4.local),
        here=_v6_backends(v4.here),
        serving=_v6_backends(v4.serving),
    )


def random_plan(rng: random.Random, services: int = 12) -> FamilyPlan:
    """A family plan in which every traffic case turns up sooner or later."""
    chosen = view(
        masquerade_all=rng.random() < 0.2,
        node_port_addresses=rng.choice([None, ("192.168.0.5",), ("192.168.0.5", "192.168.0.6")]),
    )
    numbers = sorted(rng.sample(range(1, 40), services), key=str)
    return FamilyPlan(view=chosen, ports=tuple(_random_port(rng, n) for n in numbers))


def _random_port(rng: random.Random, number: int) -> PortPlan:
    here = backends(*(f"{HERE}{i}" for i in rng.sample(range(1, 9), rng.randint(0, 3))))
    there = backends(*(f"{ELSEWHERE}{i}" for i in rng.sample(range(1, 9), rng.randint(0, 4))))
    outside = rng.random() < 0.6
    internal_local = rng.random() < 0.2
    external_local = outside and rng.random() < 0.5
    vips = (f"198.51.100.{number}",) if outside and rng.random() < 0.7 else ()
    node_port = 30000 + number if outside and (not vips or rng.random() < 0.7) else 0
    cluster = in_order((*here, *there)) if outside or not internal_local else ()
    return port(
        f"svc-{number}",
        number,
        protocol=rng.choice(list(Protocol)),
        cluster=cluster,
        local=in_order(here) if internal_local or external_local else (),
        here=in_order(here),
        has_endpoints=bool(here or there),
        internal_local=internal_local,
        external_local=external_local,
        load_balancer_ips=vips,
        external_ips=(f"198.51.100.{number + 100}",) if vips and rng.random() < 0.3 else (),
        node_port=node_port,
        source_ranges=("203.0.113.0/25", "192.168.0.0/24") if vips and rng.random() < 0.4 else (),
        vips_may_enter=rng.random() < 0.5,
        affinity_seconds=rng.choice([0, 0, 0, 60, 10800]),
    )


def _v6(address: str) -> str:
    for v4, v6 in _V6_PREFIXES.items():
        if address.startswith(v4):
            canonical = canonical_address(v6 + address.removeprefix(v4).replace(".", ":"))
            assert canonical is not None
            return canonical
    assert not address
    return ""


def _v6_network(network: str) -> str:
    return _V6_NETWORKS.get(network) or f"{_v6(network.removesuffix('/32'))}/128"


def _v6_backends(found: Iterable[Backend]) -> tuple[Backend, ...]:
    return tuple(Backend(_v6(b.address), b.port) for b in found)


def _translated_view(v4: FamilyView) -> FamilyView:
    addresses = v4.node_port_addresses
    return msgspec.structs.replace(
        v4,
        family=Family.IPV6,
        node_ip=_v6(v4.node_ip),
        detector=msgspec.structs.replace(
            v4.detector, value=_V6_NETWORKS.get(v4.detector.value, v4.detector.value)
        ),
        service_cidrs=tuple(map(_v6_network, v4.service_cidrs)),
        node_port_addresses=None if addresses is None else tuple(map(_v6, addresses)),
    )
