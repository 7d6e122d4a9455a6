"""Chains kept up to date equal chains compiled from nothing, whatever the history."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from netplane.core.iptables.compile import compile_family
from netplane.core.iptables.diff import diff
from netplane.core.iptables.live import LiveChains
from netplane.core.iptables.parse import parse_save
from netplane.core.iptables.steps import steps, whole_text
from netplane.core.model.address import Family
from netplane.core.model.cluster import build_snapshot
from netplane.core.model.documents import parse
from netplane.core.plan.compile import build_plan
from netplane.core.plan.incremental import Planner
from netplane.core.plan.node import DetectorKind, FamilyView, LocalDetector, NodeView
from netplane.rendering import environment
from tests.support.manifests import Object, clusters, kube_list
from tests.unit.iptables.memory import MemoryTables
from tests.unit.iptables.plans import port

NODE = NodeView(
    name="node-1",
    zone="zone-a",
    families=(
        FamilyView(
            family=Family.IPV4,
            node_ip="192.0.2.1",
            localhost_node_ports=True,
            detector=LocalDetector(DetectorKind.CLUSTER_CIDR, "10.0.0.0/8"),
        ),
        FamilyView(family=Family.IPV6),
    ),
)


@given(
    history=st.lists(clusters(), min_size=2, max_size=4),
    chunk=st.sampled_from((1, 4, 1000)),
)
@settings(max_examples=60, deadline=None)
def test_any_history_ends_in_the_chains_from_nothing(
    history: list[list[Object]], chunk: int
) -> None:
    planner = Planner(NODE)
    env = environment()
    kernels = [MemoryTables() for _ in NODE.families]
    lives = [LiveChains(family.view, family.ports, env) for family in planner.plan().families]
    for live, kernel in zip(lives, kernels, strict=True):
        kernel.restore(whole_text(live.ruleset()))
    for objects in history:
        snapshot = build_snapshot(parse(kube_list(*objects), origin="test"))
        changes = planner.replace(snapshot)
        plan = build_plan(snapshot, NODE)
        for index, (live, kernel) in enumerate(zip(lives, kernels, strict=True)):
            observed = parse_save(kernel.save())
            wanted = compile_family(plan.families[index], env)
            update = live.update(
                [planned for change in changes for planned in change.before[index]],
                [planned for change in changes for planned in change.after[index]],
            )
            expected = diff(wanted, observed)
            assert update.delta == expected
            assert live.ruleset() == wanted
            # The few chains it tells of are enough to put the steps in the same order.
            written = steps(update.groups, update.observed, update.delta, chunk=chunk)
            assert [step.table for step in written] == [
                step.table for step in steps(wanted.groups, observed, expected, chunk=chunk)
            ]
            for step in written:
                kernel.restore(step.text)
            assert not diff(wanted, parse_save(kernel.save()))


def test_a_change_of_endpoints_leaves_the_shared_chains_alone() -> None:
    ports = tuple(
        port(f"ns/svc-{i:02}", f"172.30.0.{i}", cluster=("10.0.0.1:80", "10.0.0.2:80"))
        for i in range(50)
    )
    live = LiveChains(NODE.families[0], ports, environment())
    fewer = msgspec.structs.replace(ports[7], cluster=ports[7].cluster[:1])
    delta = live.update([ports[7]], [fewer]).delta
    assert [chain[:9] for chain in delta.nat.writes] == ["KUBE-SVC-"]
    assert [chain[:9] for chain in delta.nat.deletes] == ["KUBE-SEP-"]
    assert not delta.filter
