"""What 2,000 Services cost in processes and bytes: counts, which do not depend on the machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import pytest

from netplane.apply import tools
from netplane.apply.iptables import programs
from netplane.apply.iptables.mode import IptablesDataplane
from netplane.apply.iptables.programs import Variant
from netplane.apply.netns import Namespace
from netplane.core.plan.plan import Plan
from netplane.core.plan.port import PortPlan
from tests.unit.iptables.plans import backends, family_plan, plan, port, ruleset

pytestmark = pytest.mark.kernel

PORTS = tuple(
    port(
        f"ns/svc-{i:04}",
        f"172.30.{i >> 8}.{i & 255}",
        cluster=tuple(f"10.{pod}.{i >> 8}.{i & 255}:8080" for pod in (1, 2, 3)),
    )
    for i in range(2000)
)
CHAINS_EACH = 4  # one that balances, and one per endpoint
PART = 1000  # chains in a part over iptables-nft


class Run(NamedTuple):
    """A program that was run, and how many bytes it was given."""

    program: str
    size: int


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Every program the iptables mode runs from now on, in order."""
    found: list[Run] = []

    def run(
        namespace: Namespace, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 600.0
    ) -> tools.Completed:
        found.append(Run(argv[0], len(stdin)))
        return tools.run(namespace, argv, stdin=stdin, timeout=timeout)

    monkeypatch.setattr(programs, "run", run)
    return found


def _apply(netns: Namespace, variant: Variant, planned: Plan) -> None:
    # A dataplane of its own each time: a fresh process needs no memory of the last one.
    IptablesDataplane(netns, variant=variant, lock_wait=60).prepare(planned).commit()


def _with(changed: PortPlan) -> Plan:
    return plan(family_plan(*(changed if p.service == changed.service else p for p in PORTS)))


@pytest.mark.parametrize("variant", list(Variant), ids=lambda variant: variant.value)
def test_processes_and_bytes(netns: Namespace, variant: Variant, runs: list[Run]) -> None:
    save, restore = (f"iptables-{variant.value}-{verb}" for verb in ("save", "restore"))
    whole = plan(family_plan(*PORTS))
    text = len(IptablesDataplane(netns).render(whole))

    _apply(netns, variant, whole)
    programs = [run.program for run in runs]
    parts = -(-len(PORTS) * CHAINS_EACH // PART) + 1 if variant is Variant.NFT else 0
    # What shows none of our jumps is read twice; filter, the parts, the dispatch.
    saves = 2 if variant is Variant.NFT else 1
    assert programs == [*[save] * saves, *[restore] * (2 + parts)]
    assert sum(run.size for run in runs) < text * 1.01  # nothing is sent twice
    assert max(run.size for run in runs) < (text / 6 if variant is Variant.NFT else text)

    runs.clear()
    _apply(netns, variant, whole)
    assert runs == [Run(save, 0)]

    runs.clear()
    fewer = msgspec.structs.replace(PORTS[7], cluster=PORTS[7].cluster[:2])
    _apply(netns, variant, _with(fewer))
    assert [run.program for run in runs] == [save, restore]
    assert runs[1].size < _size(PORTS[7], "KUBE-SVC-") + 300  # and one endpoint's chain to delete

    runs.clear()
    moved = msgspec.structs.replace(
        fewer, cluster_ip="172.30.100.1", cluster=backends("10.9.0.1:8")
    )
    _apply(netns, variant, _with(moved))
    assert [run.program for run in runs] == [save, restore]
    dispatch = sum(len(rule) + 1 for rule in ruleset(*PORTS).tables["nat"]["KUBE-SERVICES"])
    assert dispatch < runs[1].size < dispatch + _size(moved, "KUBE-S") + 500


def _size(planned: PortPlan, prefix: str) -> int:
    """The bytes of a service port's rules in nat's chains of this prefix."""
    chains = ruleset(planned).tables["nat"]
    return sum(len(rule) for c in chains if c.startswith(prefix) for rule in chains[c])


def test_the_variant_is_asked_for_once(netns: Namespace, runs: list[Run]) -> None:
    for _ in range(3):
        assert IptablesDataplane(netns).variant in Variant
    assert len(runs) <= 1  # none where an earlier test has asked
