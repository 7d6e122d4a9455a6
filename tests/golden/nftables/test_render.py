"""The whole text of telling plans; `pytest --update-goldens` rewrites it, then read the diff.

Programs are told in full once per configuration; a plan's golden has everything but the program.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from netplane.core.model.address import Family
from netplane.core.model.service import Protocol
from netplane.core.nftables.compile import compile_family
from netplane.core.nftables.program import render_program
from netplane.core.nftables.text import render
from netplane.core.plan.node import DetectorKind, FamilyView, LocalDetector
from netplane.core.plan.plan import FamilyPlan
from netplane.core.plan.port import PortPlan
from netplane.rendering import environment
from tests.support.port_plans import backends, port, translated, view

ALL = backends("10.244.1.1", "10.244.2.1", "10.244.2.2")
HERE = ALL[:1]

PROGRAMS: dict[str, FamilyView] = {
    "program": view(),
    "program-ipv6": view(Family.IPV6),
    "program-every-local-address": view(node_port_addresses=None),
    "program-bridge": view(detector=LocalDetector(DetectorKind.BRIDGE_INTERFACE, "cbr0")),
    "program-prefix": view(detector=LocalDetector(DetectorKind.INTERFACE_PREFIX, "veth")),
    "program-nothing-known": view(detector=LocalDetector(), service_cidrs=()),
    "program-masquerade-all": view(masquerade_all=True, masquerade_mark=1 << 31),
}

PLANS: dict[str, PortPlan] = {
    "cluster-ip": port("web", cluster=ALL, here=HERE),
    "external-cluster": port(
        "web", cluster=ALL, external_ips=("198.51.100.1",), node_port=30080, protocol=Protocol.UDP
    ),
    "external-local": port(
        "web",
        cluster=ALL,
        local=HERE,
        here=HERE,
        external_local=True,
        load_balancer_ips=("198.51.100.1",),
        node_port=30080,
    ),
    "external-local-elsewhere": port(
        "web",
        cluster=ALL[1:],
        external_local=True,
        load_balancer_ips=("198.51.100.1",),
        node_port=30080,
    ),
    "internal-local": port("web", local=HERE, here=HERE, internal_local=True),
    "internal-local-elsewhere": port("web", internal_local=True, has_endpoints=True),
    "no-endpoints": port(
        "web", external_ips=("198.51.100.1",), node_port=30080, protocol=Protocol.SCTP
    ),
    "source-ranges": port(
        "web",
        cluster=ALL[:1],
        load_balancer_ips=("198.51.100.1",),
        source_ranges=("203.0.113.0/24", "203.0.113.7/32", "192.168.0.0/24"),
        vips_may_enter=True,
    ),
    "affinity": port(
        "web", cluster=ALL, node_port=30080, affinity_seconds=10800, protocol=Protocol.UDP
    ),
    "affinity-local": port(
        "web",
        cluster=ALL[:2],
        local=HERE,
        external_local=True,
        load_balancer_ips=("198.51.100.1",),
        affinity_seconds=60,
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(golden: Callable[[str, str], None], name: str) -> None:
    golden(f"{name}.nft", render_program(PROGRAMS[name], environment()))


@pytest.mark.parametrize("name", PLANS)
def test_plan(golden: Callable[[str, str], None], name: str) -> None:
    golden(f"{name}.nft", _without_program(view(), PLANS[name]))


@pytest.mark.parametrize("name", ["external-local", "affinity", "source-ranges"])
def test_plan_in_ipv6(golden: Callable[[str, str], None], name: str) -> None:
    golden(f"{name}-ipv6.nft", _without_program(view(Family.IPV6), translated(PLANS[name])))


def _without_program(chosen: FamilyView, plan: PortPlan) -> str:
    ruleset = compile_family(FamilyPlan(view=chosen, ports=(plan,)), environment())
    before, program, after = render(ruleset).partition(ruleset.program)
    assert program
    return f"{before}# program.nft.j2 is here\n{after}"
