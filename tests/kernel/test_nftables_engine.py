"""A running engine against a real kernel: after any history the table is as if from nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from netplane.apply import tools
from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink.socket import NfnetlinkSocket
from netplane.apply.nfnetlink.witness import Witness, concern_of
from netplane.apply.nftables import tool
from netplane.apply.nftables.engine import NftablesEngine
from netplane.apply.nftables.mode import NftablesDataplane
from netplane.core.model.address import Family
from netplane.core.model.problem import Problem
from netplane.core.model.service import ServiceName
from netplane.core.nftables.compile import compile_family
from netplane.core.nftables.diff import diff
from netplane.core.nftables.parse import parse_table
from netplane.core.nftables.wire import Message
from netplane.core.nftables.wire_transactions import DEFAULT_LIMIT
from netplane.core.plan.changes import Action
from netplane.core.plan.compile import build_plan
from netplane.core.plan.incremental import Planner
from netplane.core.plan.node import FamilyView, NodeView
from netplane.core.plan.plan import Plan
from netplane.errors import ToolError
from netplane.rendering import environment
from tests.support.manifests import Object, clusters, endpoint_slice, service
from tests.support.netns import new_netns, require, run_tool
from tests.support.port_plans import port, translated, view
from tests.support.snapshots import difference, name, slices, snapshot_of, web

pytestmark = pytest.mark.kernel

NODE = NodeView(name="node-1", families=(view(), view(Family.IPV6)))
WORDS = {Family.IPV4: "ip", Family.IPV6: "ip6"}
SETTINGS = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # shrinking against a kernel takes minutes
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def engine(netns: Namespace) -> Iterator[NftablesEngine]:
    with NftablesEngine(netns, NODE) as opened:
        yield opened


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The processes started since the test began, as their command lines; they do run."""
    calls: list[str] = []

    def run(namespace: Namespace, argv: Sequence[str], *, stdin: bytes = b"") -> tools.Completed:
        calls.append(" ".join(argv))
        return tools.run(namespace, argv, stdin=stdin)

    monkeypatch.setattr(tool, "run", run)
    return calls


def run_nft(netns: Namespace, *arguments: str, stdin: str = "") -> str:
    return run_tool(["nft", *arguments], stdin=stdin, inside=netns)


def assert_in_place(netns: Namespace, wanted: Plan) -> None:
    """The table nft lists is the one compiled from nothing, as sets of backends; it reloads."""
    for family in wanted.families:
        text = run_nft(netns, "list", "table", WORDS[family.family], "netplane")
        delta = diff(compile_family(family, environment()), parse_table(text, family.family))
        assert not delta, delta
        with new_netns() as fresh:
            run_nft(fresh, "-f", "-", stdin=text)
            assert run_nft(fresh, "list", "table", WORDS[family.family], "netplane") == text


@SETTINGS
@given(first=clusters(), second=clusters(), third=clusters())
def test_any_history_ends_in_the_table_from_nothing(
    first: list[Object], second: list[Object], third: list[Object]
) -> None:
    require()
    with new_netns() as netns, NftablesEngine(netns, NODE) as engine:
        held = snapshot_of(*first)
        engine.sync(held)
        for objects in (second, third, first):
            wanted = snapshot_of(*objects)
            applied = engine.change(*difference(held, wanted))
            held = wanted
            assert not applied.observed
            assert not applied.refused
            assert_in_place(netns, build_plan(held, NODE))
        assert not NftablesDataplane(netns).prepare(build_plan(held, NODE)).changes
        assert NftablesDataplane(netns).status().drift == ()
        # A fresh engine finds all as it should be, and knows the slots well enough to go on.
        with NftablesEngine(netns, NODE) as other:
            assert not other.sync(held).changes
            wanted = snapshot_of(*second)
            assert not other.change(*difference(held, wanted)).refused
            assert_in_place(netns, build_plan(wanted, NODE))


def test_a_change_is_told_as_a_sync_is(engine: NftablesEngine) -> None:
    engine.sync(snapshot_of(*web(3)))
    applied = engine.change({}, slices("web-1", "10.244.1.2", "10.245.0.2", "10.9.9.9"))
    (change,) = applied.changes.services
    assert (change.label, change.action) == ("default/web-1:http", Action.CHANGED)
    assert change.endpoints_added == ("10.9.9.9:8080",)
    assert change.endpoints_removed == ("10.246.0.2:8080",)
    assert len(change.rules) == 2
    assert [r.service for r in applied.replanned] == [name(1)]
    gone = engine.change({name(2): None}, {}).changes
    assert gone.totals() == {Action.REMOVED: 1}
    assert [lost.address for lost in gone.lost()] == ["172.30.0.3"]


def test_a_change_starts_no_process(engine: NftablesEngine, started: list[str]) -> None:
    engine.sync(snapshot_of(*web(3)))
    started.clear()
    assert engine.change({}, slices("web-1", "10.9.9.9")).changes  # a chain comes
    assert engine.change({}, slices("web-1")).changes  # the chain goes, nobody answers
    assert engine.change({name(2): None}, {name(2): ()}).changes
    assert not engine.change({name(2): None}, {}).changes
    assert started == []


def test_a_change_with_affinity_takes_one_script(
    netns: Namespace, engine: NftablesEngine, started: list[str]
) -> None:
    sticky = service("web-1", cluster_ips=["172.30.0.2"], sessionAffinity="ClientIP")
    old, new = snapshot_of(*web(3)), snapshot_of(*web(3)[:2], sticky, *web(3)[3:])
    engine.sync(old)
    started.clear()
    assert engine.change(*difference(old, new)).changes
    assert started == ["nft -f -"]
    assert_in_place(netns, build_plan(new, NODE))
    started.clear()
    assert not NftablesDataplane(netns).prepare(build_plan(new, NODE)).changes
    assert started == []  # the record was kept true


def sent(monkeypatch: pytest.MonkeyPatch) -> list[list[Message]]:
    """The transactions that are committed from now on."""
    seen: list[list[Message]] = []
    commit = NfnetlinkSocket.commit

    def spy(link: NfnetlinkSocket, messages: list[Message], *, generation: int | None) -> None:
        seen.append(messages)
        commit(link, messages, generation=generation)

    monkeypatch.setattr(NfnetlinkSocket, "commit", spy)
    return seen


@pytest.mark.parametrize(
    ("change", "elements", "messages"),
    [
        (("10.244.1.8", "10.245.0.8", "10.9.9.9"), [2], [2]),  # one replaced
        (("10.244.1.8", "10.245.0.8", "10.246.0.8", "10.9.9.9"), [3], [3]),  # one more
        # The first one less: the last one moves, and its slot goes when nobody looks there.
        (("10.245.0.8", "10.246.0.8"), [4, 1], [4, 1]),
    ],
)
def test_a_change_costs_the_same_at_any_size(
    monkeypatch: pytest.MonkeyPatch,
    change: tuple[str, ...],
    elements: list[int],
    messages: list[int],
) -> None:
    require()
    sizes = set()
    for services in (50, 2000):
        with new_netns() as netns, NftablesEngine(netns, NODE) as engine:
            engine.sync(snapshot_of(*web(services)))
            transactions = sent(monkeypatch)
            engine.change({}, slices("web-7", *change))
            assert [sum(m.elements for m in each) for each in transactions] == elements
            assert list(map(len, transactions)) == messages
            sizes.add(sum(len(m.attributes) for each in transactions for m in each))
    (size,) = sizes
    assert size < 1500


def test_a_cold_load_is_many_bounded_transactions(
    engine: NftablesEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    transactions = sent(monkeypatch)
    engine.sync(snapshot_of(*web(2500, endpoints=4)))
    sizes = [sum(message.elements for message in messages) for messages in transactions]
    assert sum(sizes) == 2500 * 6 + 2  # and a node's address in each family
    assert max(sizes) <= DEFAULT_LIMIT
    filled = [m.layout.name for messages in transactions for m in messages if m.layout]
    last = max(index for index, name_ in enumerate(filled) if name_ == "endpoints")
    assert filled.index("services") > last


@pytest.mark.parametrize(
    "edit",
    [
        "add table ip somebody",
        "delete element ip netplane endpoints { 172.30.0.3 . tcp . 80 . 0 }",
        "add rule ip netplane balance accept",
        "flush chain ip netplane pick-3",
        "delete table ip netplane",
        "delete table ip6 netplane",
        "flush ruleset",
    ],
)
def test_who_writes_between_is_noticed_and_put_right(
    netns: Namespace, engine: NftablesEngine, edit: str
) -> None:
    wanted = snapshot_of(*web(5))
    engine.sync(wanted)
    run_nft(netns, edit)
    applied = engine.change({}, slices("web-1", "10.9.9.9"))
    assert applied.observed
    assert applied.changes
    new = msgspec.structs.replace(wanted, slices={**wanted.slices, **slices("web-1", "10.9.9.9")})
    assert_in_place(netns, build_plan(new, NODE))
    assert not engine.change({}, slices("web-2", "10.9.9.8")).observed


@pytest.mark.parametrize("told", [False, True], ids=["alone", "with-a-witness"])
def test_who_writes_before_a_script_is_noticed_and_put_right(
    netns: Namespace, monkeypatch: pytest.MonkeyPatch, *, told: bool
) -> None:
    """nft reads the ruleset itself, later than we did."""
    sticky = service("web-1", cluster_ips=["172.30.0.2"], sessionAffinity="ClientIP")
    old, new = snapshot_of(*web(3)), snapshot_of(*web(3)[:2], sticky, *web(3)[3:])

    def run(namespace: Namespace, argv: Sequence[str], *, stdin: bytes = b"") -> tools.Completed:
        if "-f" in argv:
            run_nft(netns, "flush chain ip netplane nat-prerouting")
        return tools.run(namespace, argv, stdin=stdin)

    with (
        Witness(netns, concern_of("nftables")) as witness,
        NftablesEngine(netns, NODE, vouch=witness.vouch if told else None) as engine,
    ):
        engine.sync(old)
        with monkeypatch.context() as patch:
            patch.setattr(tool, "run", run)
            engine.change(*difference(old, new))
        engine.verify()
        assert_in_place(netns, build_plan(new, NODE))
        assert not engine.verify().observed


def test_a_sync_repairs_and_an_idle_one_writes_nothing(
    netns: Namespace, engine: NftablesEngine
) -> None:
    wanted = snapshot_of(*web(5))
    engine.sync(wanted)
    run_nft(netns, "delete element ip netplane endpoints { 172.30.0.3 . tcp . 80 . 1 }")
    assert engine.sync(wanted).changes.totals() == {Action.CHANGED: 1}
    assert_in_place(netns, build_plan(wanted, NODE))
    with NfnetlinkSocket(netns) as link:
        before = link.generation()
        assert not engine.sync(wanted).changes
        assert link.generation() == before


class FaultyPlanner(Planner):
    """Plans one Service so that the kernel refuses it: it leads to pick-0, which cannot be."""

    faulty = True

    def plan(self, problems: Iterable[Problem] = ()) -> Plan:
        good = super().plan(problems)
        if not self.faulty:
            return good
        broken = port("broken", 99, has_endpoints=True)
        families = tuple(
            msgspec.structs.replace(
                family,
                ports=(
                    broken if family.family is Family.IPV4 else translated(broken),
                    *family.ports,
                ),
            )
            for family in good.families
        )
        return msgspec.structs.replace(good, families=families)


def test_a_refused_service_is_named_and_loses_no_other(netns: Namespace) -> None:
    wanted = snapshot_of(*web(5))
    with NftablesEngine(netns, NODE) as engine:
        planner = engine._planner = FaultyPlanner(NODE)
        applied = engine.sync(wanted)
        (refused,) = applied.refused
        assert refused == ServiceName("default", "broken")
        assert "services { 172.30.0.99 . 6 . 80 }" in applied.refused[refused]
        # The others go on without another look, this one is tried with each sync.
        applied = engine.change({}, slices("web-1", "10.9.9.9"))
        assert (applied.observed, set(applied.refused)) == (False, {refused})
        assert set(engine.sync(wanted).refused) == {refused}
        # What concerns it is observed first, since nobody knows what it has.
        assert engine.change({refused: None}, {}).observed
        planner.faulty = False
        assert engine.sync(wanted).refused == {}
        assert_in_place(netns, build_plan(wanted, NODE))


def test_a_failed_write_forgets_nothing(netns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """nft fails while a Service with affinity comes; the next change brings it, too."""
    sticky = service("sticky", cluster_ips=["172.30.9.9"], sessionAffinity="ClientIP")
    added = snapshot_of(sticky, endpoint_slice("sticky", ["10.9.9.1"]))
    wanted = snapshot_of(*web(3))
    with NftablesEngine(netns, NODE) as engine:
        engine.sync(wanted)
        with monkeypatch.context() as patch:
            patch.setenv("PATH", "/nonexistent")
            patch.setattr(tools, "_SBIN", ())
            with pytest.raises(ToolError):
                engine.change(added.services, added.slices)
        applied = engine.change({}, slices("web-1", "10.9.9.9"))
        assert applied.observed
        assert len(applied.changes.services) == 2
        assert_in_place(netns, engine.planner.plan())


def test_ipv4_alone(netns: Namespace) -> None:
    node = NodeView(name="node-1", families=(FamilyView(family=Family.IPV4),))
    with NftablesEngine(netns, node) as engine:
        engine.sync(snapshot_of(*web(2)))
        engine.change({}, slices("web-1", "10.9.9.9"))
        assert_in_place(netns, engine.planner.plan())
        assert "ip6" not in run_nft(netns, "list", "tables")
