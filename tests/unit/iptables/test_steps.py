"""Every prefix of the steps leaves rules that answer as before or as after."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from netplane.core.iptables.compile import compile_jumps
from netplane.core.iptables.diff import diff, removal
from netplane.core.iptables.layout import Ruleset
from netplane.core.iptables.parse import Observed, parse_save
from netplane.core.iptables.steps import Step, steps, whole_text
from netplane.core.plan.port import PortPlan
from netplane.rendering import environment
from tests.unit.iptables.memory import NODE, MemoryTables, Packet, answers
from tests.unit.iptables.plans import port, ruleset

CLUSTER_IPS = ("172.30.0.1", "172.30.0.2", "172.30.0.3")
PODS = ("10.180.0.1:80", "10.180.0.2:80", "10.180.0.3:80")

#: Clients and pods of this node that the source ranges allow, and such that they do not.
RANGES = ("192.0.2.0/24", "10.244.9.0/24")
CLIENTS = ("192.0.2.7", "203.0.113.7", "10.244.9.7", "10.244.0.7")
MANY = 1000  # chains in a step: all of them
REFUSALS = frozenset({"DROP", "REJECT"})
PACKETS = [
    Packet(client, address, number)
    for client in CLIENTS
    for address, number in (
        *((address, 80) for address in CLUSTER_IPS),
        *((f"1.2.3.{address[-1]}", 80) for address in CLUSTER_IPS),
        *((NODE, 30080 + index) for index in range(len(CLUSTER_IPS))),
    )
]


@st.composite
def _ports(draw: st.DrawFn) -> tuple[PortPlan, ...]:
    """A few service ports whose addresses may move from one to another between two draws."""
    addresses = draw(st.permutations(CLUSTER_IPS))
    return tuple(
        _port(draw, index, address)
        for index, address in enumerate(addresses)
        if draw(st.booleans())
    )


def _port(draw: st.DrawFn, index: int, address: str) -> PortPlan:
    ready = tuple(pod for pod in PODS if draw(st.booleans()))
    local = tuple(pod for pod in ready if draw(st.booleans()))
    internal_local, external_local = draw(st.booleans()), draw(st.booleans())
    node_port = draw(st.sampled_from((0, 30080 + index)))
    vips = draw(st.sampled_from(((), (f"1.2.3.{address[-1]}",))))
    accessible = bool(node_port or vips)
    return port(
        f"ns/svc{index}",
        address,
        cluster=ready if not internal_local or accessible else (),
        local=local if internal_local or (external_local and accessible) else (),
        has_endpoints=bool(ready),
        node_port=node_port,
        load_balancer_ips=vips,
        internal_local=internal_local,
        external_local=external_local,
        source_ranges=draw(st.sampled_from(((), RANGES))),
        affinity_seconds=draw(st.sampled_from((0, 60))),
    )


def _plan_steps(desired: Ruleset, kernel: MemoryTables, chunk: int) -> tuple[Step, ...]:
    observed = parse_save(kernel.save())
    return steps(desired.groups, observed, diff(desired, observed), chunk=chunk)


@settings(max_examples=100, deadline=None)
@given(old=_ports(), new=_ports(), chunk=st.sampled_from((1, 5, MANY)))
def test_every_step_answers_as_before_or_as_after(
    old: tuple[PortPlan, ...], new: tuple[PortPlan, ...], chunk: int
) -> None:
    kernel = MemoryTables()
    kernel.restore(whole_text(ruleset(*old)))
    before = [answers(kernel, packet) for packet in PACKETS]
    desired = ruleset(*new)
    fresh = MemoryTables()
    fresh.restore(whole_text(desired))
    after = [answers(fresh, packet) for packet in PACKETS]
    for step in _plan_steps(desired, kernel, chunk):
        kernel.restore(step.text)
        for packet, was, will in zip(PACKETS, before, after, strict=True):
            now = answers(kernel, packet)
            # Written in parts, a frontend about to go may serve by its Service's new endpoints;
            # one on its way out may be refused the other way, or a moment longer.
            mixed = chunk < MANY and bool(now) and now <= was | frozenset[str]().union(*after)
            refused = now <= REFUSALS and will <= REFUSALS
            assert now in (was, will) or mixed or refused, (step.title, packet, now, was, will)
    assert kernel.save() == fresh.save()
    assert _plan_steps(desired, kernel, chunk) == ()


@settings(max_examples=60, deadline=None)
@given(old=_ports(), new=_ports(), chunk=st.sampled_from((1, MANY)), cut=st.integers(0, 12))
def test_an_interrupted_run_converges(
    old: tuple[PortPlan, ...], new: tuple[PortPlan, ...], chunk: int, cut: int
) -> None:
    kernel = MemoryTables()
    for step in _plan_steps(ruleset(*old), kernel, chunk)[:cut]:
        kernel.restore(step.text)
    desired = ruleset(*new)
    for step in _plan_steps(desired, kernel, chunk):
        kernel.restore(step.text)
    fresh = MemoryTables()
    fresh.restore(whole_text(desired))
    assert kernel.save() == fresh.save()


@settings(max_examples=40, deadline=None)
@given(ports=_ports(), chunk=st.sampled_from((1, 3, MANY)))
def test_cleanup_leaves_nothing(ports: tuple[PortPlan, ...], chunk: int) -> None:
    kernel = MemoryTables()
    kernel.restore(whole_text(ruleset(*ports)))
    observed = parse_save(kernel.save())
    delta = removal(observed, compile_jumps(environment()))
    for step in steps((), observed, delta, chunk=chunk):
        kernel.restore(step.text)
    assert kernel.save() == MemoryTables().save()


def test_a_first_install_leads_nowhere_until_all_is_there() -> None:
    ports = tuple(
        port(f"ns/svc{i}", f"172.30.0.{i}", cluster=(f"10.180.0.{i}:80",)) for i in range(1, 6)
    )
    desired = ruleset(*ports)
    planned = steps(desired.groups, Observed(), diff(desired, Observed()), chunk=4)
    assert [(step.table, "-I " in step.text) for step in planned] == [
        ("filter", True),
        ("nat", False),
        ("nat", False),
        ("nat", False),
        ("nat", True),
    ]
    assert "KUBE-SERVICES" not in "".join(step.text for step in planned[1:-1])


def test_a_small_change_takes_one_restore() -> None:
    old, new = port(cluster=PODS), port(cluster=PODS[:2])
    kernel = MemoryTables()
    kernel.restore(whole_text(ruleset(old)))
    planned = _plan_steps(ruleset(new), kernel, MANY)
    assert [step.table for step in planned] == ["nat"]
    assert planned[0].text.count("\n:") == 2  # the chain that lost an endpoint, and the stale one


def test_a_service_that_loses_its_endpoints_is_refused_before_it_is_let_go() -> None:
    kernel = MemoryTables()
    kernel.restore(whole_text(ruleset(port(cluster=PODS))))
    assert [s.table for s in _plan_steps(ruleset(port()), kernel, MANY)] == ["filter", "nat"]


def test_a_service_that_gains_endpoints_is_served_before_it_is_no_longer_refused() -> None:
    kernel = MemoryTables()
    kernel.restore(whole_text(ruleset(port())))
    planned = _plan_steps(ruleset(port(cluster=PODS)), kernel, MANY)
    assert [step.table for step in planned] == ["nat", "filter"]


def test_a_moved_masquerade_rule_waits_for_the_dispatch_chains() -> None:
    old = port(cluster=PODS, node_port=30080)
    new = msgspec.structs.replace(old, internal_local=True, local=old.cluster[:1])
    kernel = MemoryTables()
    kernel.restore(whole_text(ruleset(old)))
    planned = _plan_steps(ruleset(new), kernel, 1)
    assert [step.title for step in planned if "KUBE-SVC-" in step.text] == [
        "dispatch chains and jumps"
    ]
