"""A table kept up to date equals a table compiled from nothing, whatever the history."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from netplane.core.model.address import Family
from netplane.core.model.cluster import build_snapshot
from netplane.core.model.documents import parse
from netplane.core.nftables.compile import compile_family
from netplane.core.nftables.diff import Delta
from netplane.core.nftables.layout import SETS, Elements, Values
from netplane.core.nftables.live import LiveTable
from netplane.core.nftables.program import Pick
from netplane.core.plan.compile import build_plan
from netplane.core.plan.incremental import Planner
from netplane.core.plan.node import DetectorKind, FamilyView, LocalDetector, NodeView
from netplane.rendering import environment
from tests.support.manifests import Object, clusters, kube_list

NODE = NodeView(
    name="node-1",
    zone="zone-a",
    families=(
        FamilyView(
            family=Family.IPV4,
            node_ip="192.0.2.1",
            node_port_addresses=(),
            detector=LocalDetector(DetectorKind.CLUSTER_CIDR, "10.0.0.0/8"),
        ),
        FamilyView(family=Family.IPV6, node_port_addresses=()),
    ),
)
SLOTS = {layout.name for layout in SETS if layout.values is Values.SLOTS}


class Kernel:
    """What a kernel would hold: applies deltas the way nf_tables does, and refuses nonsense."""

    def __init__(self) -> None:
        self.elements: dict[str, dict[tuple[object, ...], object]] = {s.name: {} for s in SETS}
        self.chains: dict[str, tuple[str, ...]] = {}
        self.affinity_sets: set[str] = set()

    def commit(self, delta: Delta) -> None:
        self._delete(delta)
        self._add(delta)
        for entries in self.elements.values():
            for target in entries.values():
                chain = getattr(target, "chain", "")
                assert Pick.parse(chain) is None or chain in self.chains

    def _delete(self, delta: Delta) -> None:
        for name in delta.flush_chains:
            assert name in self.chains
            self.chains[name] = ()
        for name, change in delta.elements.items():
            held = self.elements[name]
            for key, value in change.delete:
                assert isinstance(value, tuple) or value is None
                for place, stored in _expand(name, key, value):
                    assert held.pop(place) == stored
            for key, slot in change.delete_slots:
                del held[*key, slot]
        for name in delta.delete_chains:
            del self.chains[name]
        for name in delta.delete_affinity_sets:
            self.affinity_sets.remove(name)

    def _add(self, delta: Delta) -> None:
        for name in delta.add_affinity_sets:
            assert name not in self.affinity_sets
            self.affinity_sets.add(name)
        for name, rules in delta.chains.items():
            assert not self.chains.get(name)
            self.chains[name] = rules
        for name, change in delta.elements.items():
            held = self.elements[name]
            for key, value in change.add:
                for place, stored in _expand(name, key, value):
                    assert place not in held
                    held[place] = stored
            for key, number, backend in change.add_slots:
                assert (*key, number) not in held
                held[*key, number] = backend


def _expand(
    name: str, key: tuple[object, ...], value: object
) -> list[tuple[tuple[object, ...], object]]:
    if name in SLOTS:
        assert isinstance(value, tuple)
        return [((*key, slot), backend) for slot, backend in enumerate(value)]
    return [(key, value)]


def _by_content(elements: Elements) -> dict[str, dict[object, object]]:
    """Elements with the backends of each frontend as a set: slots are an assignment."""
    return {
        name: {k: frozenset(v) if name in SLOTS and v else v for k, v in entries.items()}
        for name, entries in elements.items()
    }


@given(st.lists(clusters(), min_size=2, max_size=4))
@settings(max_examples=60, deadline=None)
def test_any_history_ends_in_the_table_from_nothing(history: list[list[Object]]) -> None:
    planner = Planner(NODE)
    env = environment()
    lives: list[LiveTable] = []
    kernels = [Kernel() for _ in NODE.families]
    for family in planner.plan().families:
        ruleset = compile_family(family, env)
        lives.append(LiveTable(family.view, ruleset, family.ports, env))
    for objects in history:
        snapshot = build_snapshot(parse(kube_list(*objects), origin="test"))
        changes = planner.replace(snapshot)
        plan = build_plan(snapshot, NODE)
        for index, (live, kernel) in enumerate(zip(lives, kernels, strict=True)):
            before = [port for change in changes for port in change.before[index]]
            after = [port for change in changes for port in change.after[index]]
            kernel.commit(live.update(before, after))
            wanted = compile_family(plan.families[index], env)
            assert _by_content(live.elements) == _by_content(wanted.elements)
            assert kernel.chains == wanted.chains
            assert kernel.affinity_sets == wanted.affinity_sets
            for name, entries in live.elements.items():
                stored = {
                    place: value
                    for key, held in entries.items()
                    for place, value in _expand(name, key, held)
                }
                assert kernel.elements[name] == stored
