"""A running engine of iptables mode against a real kernel, through both variants of iptables."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from netplane.apply import tools
from netplane.apply.iptables import programs
from netplane.apply.iptables.engine import IptablesEngine
from netplane.apply.iptables.mode import IptablesDataplane
from netplane.apply.iptables.programs import Variant
from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink.commit import Vouch
from netplane.apply.nfnetlink.witness import Witness, concern_of
from netplane.core.model.address import Family
from netplane.core.model.service import ServiceName
from netplane.core.model.snapshot import Snapshot
from netplane.core.plan.changes import Action
from netplane.core.plan.node import FamilyView, NodeView
from netplane.errors import BusyError, ToolError
from tests.support.manifests import Object, clusters, endpoint_slice, service
from tests.support.netns import new_netns, require, run_tool
from tests.support.snapshots import difference, name, slices, snapshot_of, web

pytestmark = pytest.mark.kernel

NODE = NodeView(name="node-1", families=tuple(FamilyView(family=f) for f in Family))
SETTINGS = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # shrinking against a kernel takes minutes
    suppress_health_check=list(HealthCheck),
)


class Started:
    """The processes started since the last ``clear``, with what they read; they do run."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    @property
    def programs(self) -> list[str]:
        """``iptables restore`` and the like, without the variant."""
        words = [program.split("-") for program, _ in self.calls]
        return [f"{parts[0]} {parts[-1]}" for parts in words]

    def run(
        self, namespace: Namespace, argv: Sequence[str], *, stdin: bytes = b""
    ) -> tools.Completed:
        """Stands in the place of ``tools.run``, and runs it."""
        self.calls.append((argv[0], stdin.decode()))
        return tools.run(namespace, argv, stdin=stdin)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    found = Started()
    monkeypatch.setattr(programs, "run", found.run)
    return found


@pytest.fixture(params=list(Variant), ids=lambda variant: variant.value)
def variant(request: pytest.FixtureRequest) -> Variant:
    found: Variant = request.param
    return found


def opened(netns: Namespace, variant: Variant, vouch: Vouch | None = None) -> IptablesEngine:
    return IptablesEngine(netns, NODE, variant=variant, lock_wait=60, vouch=vouch)


@pytest.fixture
def engine(netns: Namespace, variant: Variant) -> Iterator[IptablesEngine]:
    with opened(netns, variant) as found:
        yield found


def assert_in_place(netns: Namespace, variant: Variant, engine: IptablesEngine) -> None:
    """A process that remembers nothing finds nothing to do."""
    fresh = IptablesDataplane(netns, variant=variant, lock_wait=60)
    changes = fresh.prepare(engine.planner.plan()).changes
    assert not changes, (changes.services, changes.base)


@pytest.mark.parametrize("variant", list(Variant), ids=lambda variant: variant.value)
@SETTINGS
@given(first=clusters(), second=clusters(), third=clusters())
def test_any_history_ends_in_the_rules_from_nothing(
    variant: Variant, first: list[Object], second: list[Object], third: list[Object]
) -> None:
    require()
    with new_netns() as netns, opened(netns, variant) as engine:
        held = snapshot_of(*first)
        engine.sync(held)
        engine.verify()
        for objects in (second, third, first):
            wanted = snapshot_of(*objects)
            applied = engine.change(*difference(held, wanted))
            held = wanted
            assert not applied.observed
            assert not applied.refused
            assert not applied.disturbed, "nobody was there but us"
            assert_in_place(netns, variant, engine)
        assert not engine.verify().changes


def test_one_change_among_many_is_one_small_process(
    netns: Namespace, variant: Variant, engine: IptablesEngine, started: Started
) -> None:
    many = web(300)
    engine.sync(snapshot_of(*many))
    started.calls.clear()
    assert engine.change({}, slices("web-7", "10.244.1.8", "10.245.0.8", "10.9.9.9")).changes
    assert started.programs == ["iptables restore"]
    ((_, text),) = started.calls
    chains = [line.split(" ")[0][1:10] for line in text.split("\n") if line.startswith(":")]
    assert sorted(chains) == ["KUBE-SEP-", "KUBE-SEP-", "KUBE-SVC-"]  # one comes, one goes
    assert_in_place(netns, variant, engine)
    # What touches both tables is one process, too: each table lands by itself.
    started.calls.clear()
    assert engine.change({}, slices("web-7")).changes
    assert engine.change({}, slices("web-7", "10.9.9.9")).changes
    assert engine.change({name(8): None}, {name(8): ()}).changes
    assert not engine.change({name(8): None}, {}).changes
    assert started.programs == ["iptables restore"] * 3
    assert_in_place(netns, variant, engine)


def test_a_service_that_comes_or_goes_leaves_the_rules_of_others_alone(
    netns: Namespace, variant: Variant, engine: IptablesEngine, started: Started
) -> None:
    many = web(40)
    without = snapshot_of(*many[:14], *many[16:])
    engine.sync(without)
    started.calls.clear()
    for old, new in ((without, snapshot_of(*many)), (snapshot_of(*many), without)):
        assert engine.change(*difference(old, new)).changes
        assert_in_place(netns, variant, engine)
    written = [text for program, text in started.calls if program.endswith("restore")]
    assert len(written) == 2
    assert not any(":KUBE-SERVICES" in text for text in written)
    assert "-I KUBE-SERVICES " in written[0]
    assert "-D KUBE-SERVICES " in written[1]
    # A rule that is not there cannot be deleted: everything is looked at.
    argv = f"iptables-{variant.value} -w 60 -t nat -D KUBE-SERVICES 3".split()
    run_tool(argv, inside=netns)  # of web-10, the third by name
    assert engine.change({name(10): None}, {}).observed
    assert_in_place(netns, variant, engine)


def test_a_change_is_told_as_a_sync_is(engine: IptablesEngine) -> None:
    engine.sync(snapshot_of(*web(3)))
    applied = engine.change({}, slices("web-1", "10.244.1.2", "10.245.0.2", "10.9.9.9"))
    (change,) = applied.changes.services
    assert (change.label, change.action) == ("default/web-1:http", Action.CHANGED)
    assert change.endpoints_added == ("10.9.9.9:8080",)
    assert change.endpoints_removed == ("10.246.0.2:8080",)
    assert applied.changes.base == ()
    gone = engine.change({name(2): None}, {}).changes
    assert gone.totals() == {Action.REMOVED: 1}
    assert [lost.address for lost in gone.lost()] == ["172.30.0.3"]


def test_adoption_reads_once_and_writes_nothing(
    netns: Namespace, variant: Variant, engine: IptablesEngine, started: Started
) -> None:
    wanted = snapshot_of(*web(5))
    engine.sync(wanted)
    started.calls.clear()
    with opened(netns, variant) as other:
        assert not other.sync(wanted).changes
    assert started.programs == ["iptables save", "ip6tables save"]


def test_a_look_under_iptables_nft_reads_nothing_while_nobody_writes(
    netns: Namespace, started: Started
) -> None:
    with opened(netns, Variant.NFT) as engine:
        engine.sync(snapshot_of(*web(3)))
        engine.verify()
        engine.change({}, slices("web-1"))
        started.calls.clear()
        assert not engine.verify().observed
        assert started.calls == []
        run_tool(["nft", "add", "table", "ip", "somebody"], inside=netns)
        applied = engine.verify()
        assert applied.observed
        assert not applied.changes
        assert started.programs == ["iptables save", "ip6tables save"]


@pytest.mark.parametrize("moment", ["before the look", "before the write", "after it"])
@pytest.mark.parametrize("told", [False, True], ids=["alone", "with-a-witness"])
def test_who_writes_beside_a_change_is_not_taken_for_us(
    netns: Namespace,
    variant: Variant,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    told: bool,
) -> None:
    """Where changes come all the time, somebody's flush always has one beside it."""
    flush = [f"iptables-{variant.value}", "-w", "60", "-t", "nat", "-F", "KUBE-SERVICES"]

    def run(namespace: Namespace, argv: Sequence[str], *, stdin: bytes = b"") -> tools.Completed:
        if moment == "before the write":
            run_tool(flush, inside=netns)
        done = tools.run(namespace, argv, stdin=stdin)
        if moment == "after it":
            run_tool(flush, inside=netns)
        return done

    with (
        Witness(netns, concern_of("iptables")) as witness,
        opened(netns, variant, witness.vouch if told else None) as engine,
    ):
        engine.sync(snapshot_of(*web(3)))
        assert not engine.verify().disturbed
        if moment == "before the look":
            run_tool(flush, inside=netns)
        with monkeypatch.context() as patch:
            patch.setattr(programs, "run", run)
            applied = engine.change({}, slices("web-1", "10.9.9.9"))
            assert not applied.observed
            assert applied.disturbed
        assert len(engine.verify().changes.services) == 3
        assert_in_place(netns, variant, engine)
        engine.verify()
        assert not engine.change({}, slices("web-1", "10.9.9.8")).disturbed


def damage(netns: Namespace, variant: Variant, text: str) -> None:
    argv = [f"iptables-{variant.value}-restore", "-w", "60", "--noflush"]
    run_tool(argv, stdin=f"*nat\n{text}\nCOMMIT\n", inside=netns)


def test_only_what_is_damaged_is_written_again(
    netns: Namespace, variant: Variant, engine: IptablesEngine, started: Started
) -> None:
    engine.sync(snapshot_of(*web(20)))
    saved = run_tool([f"iptables-{variant.value}-save", "-t", "nat"], inside=netns)
    chain = next(line[1:26] for line in saved.split("\n") if line.startswith(":KUBE-SEP-"))
    damage(netns, variant, f"-F {chain}\n-A KUBE-MARK-MASQ -j RETURN")
    started.calls.clear()
    applied = engine.verify()
    assert len(applied.changes.services) == 1
    assert len(applied.changes.base) == 1
    written = [text for program, text in started.calls if program.endswith("restore")]
    declared = [line for line in written[0].split("\n") if line.startswith(":")]
    assert len(written) == 1
    assert declared == [f":{chain} - [0:0]", ":KUBE-MARK-MASQ - [0:0]"]
    assert_in_place(netns, variant, engine)


def test_a_change_after_a_flush_brings_everything_back(
    netns: Namespace, variant: Variant, engine: IptablesEngine
) -> None:
    engine.sync(snapshot_of(*web(5)))
    for verb in ("-F", "-X"):
        run_tool([f"iptables-{variant.value}", "-w", "60", "-t", "nat", verb], inside=netns)
    applied = engine.change({name(2): None}, {})  # its dispatch chain leads to all the others
    assert applied.observed
    assert not applied.refused
    assert_in_place(netns, variant, engine)
    assert not engine.change({}, slices("web-1", "10.9.9.9")).observed


def test_a_failed_write_forgets_nothing(
    netns: Namespace, variant: Variant, engine: IptablesEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = snapshot_of(service("new", cluster_ips=["172.30.9.9"]), endpoint_slice("new"))
    engine.sync(snapshot_of(*web(3)))
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/nonexistent")
        patch.setattr(tools, "_SBIN", ())
        with pytest.raises(ToolError):
            engine.change(added.services, added.slices)
        with pytest.raises(ToolError):
            engine.verify()
    applied = engine.change({}, slices("web-1", "10.9.9.9"))
    assert applied.observed
    assert [planned.service.name for planned in applied.replanned] == ["new", "web-1"]
    assert len(applied.changes.services) == 2
    assert_in_place(netns, variant, engine)


def test_a_busy_lock_is_worth_another_try(
    netns: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "xtables.lock"
    monkeypatch.setenv("XTABLES_LOCKFILE", str(lock))
    with IptablesEngine(netns, NODE, variant=Variant.LEGACY, lock_wait=1) as engine:
        engine.sync(snapshot_of(*web(3)))
        with lock.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(BusyError):
                engine.change({}, slices("web-1", "10.9.9.9"))
        assert engine.change({}, {}).changes.totals() == {Action.CHANGED: 1}
        assert_in_place(netns, Variant.LEGACY, engine)


def test_a_kernel_without_ipv6_is_served_in_ipv4(
    engine: IptablesEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(programs, "_IPV6", tmp_path / "no-such-directory")
        engine.sync(snapshot_of(*web(3)))
        assert engine.notes == ("IPv6 is left out: the kernel has no IPv6",)
        assert engine.change({}, slices("web-1", "10.9.9.9")).changes
        assert not engine.verify().changes
    assert engine.sync(snapshot_of(*web(3))).changes.base  # IPv6 has come


@pytest.fixture
def refuse(
    variant: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Refuse inputs that hold a text from now on; after ``busy_after`` of any, be busy."""
    program = f"iptables-{variant.value}-restore"
    real = tools.find(program)
    script = tmp_path / program

    def now(text: str, *, busy_after: int = 1000) -> None:
        turns = tmp_path / "turns"
        turns.unlink(missing_ok=True)
        script.write_text(
            f"#!/bin/sh\ninput=$(cat)\necho >>{turns}\n"
            f'[ "$(wc -l <{turns})" -gt {busy_after} ] && exit 4\n'
            f'case "$input" in *"{text}"*) echo "not with {text}" >&2; exit 2;; esac\n'
            f'printf \'%s\\n\' "$input" | {real} "$@"\n'
        )
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return now


def with_endpoint(address: str, *numbers: int, of: int = 12) -> Snapshot:
    """Some Services, of which these have one endpoint of this address."""
    objects = web(of)
    for number in numbers:
        objects[2 * number + 1] = endpoint_slice(f"web-{number}", [address])
    return snapshot_of(*objects)


def test_a_refused_service_is_named_and_stops_no_other(
    netns: Namespace, variant: Variant, engine: IptablesEngine, refuse: Callable[..., None]
) -> None:
    refuse("10.6.6.6:")
    applied = engine.sync(with_endpoint("10.6.6.6", 7))
    assert list(applied.refused) == [name(7)]
    assert "not with 10.6.6.6:" in applied.refused[name(7)]
    assert applied.changes.totals() == {Action.ADDED: 11}
    # The others go on without another look.
    applied = engine.change({}, slices("web-1", "10.9.9.9"))
    assert (applied.observed, set(applied.refused)) == (False, {name(7)})
    assert set(engine.verify().refused) == {name(7)}
    # A change of its own tries it again.
    applied = engine.change({}, slices("web-7", "10.6.6.7"))
    assert not applied.refused
    assert_in_place(netns, variant, engine)
    # Refused now, it stays as it was.
    applied = engine.change({}, {**slices("web-7", "10.6.6.6"), **slices("web-8", "10.9.9.8")})
    assert set(applied.refused) == {name(7)}
    saved = run_tool([f"iptables-{variant.value}-save", "-t", "nat"], inside=netns)
    assert "--to-destination 10.6.6.7:8080" in saved
    assert "--to-destination 10.9.9.8:8080" in saved
    refuse("nothing at all")
    assert engine.verify().changes.totals() == {Action.CHANGED: 1}
    assert_in_place(netns, variant, engine)


def test_many_refused_services_are_all_named(
    engine: IptablesEngine, refuse: Callable[..., None]
) -> None:
    refuse("10.6.6.6:")
    applied = engine.sync(with_endpoint("10.6.6.6", 0, 5, 6, 11))
    assert set(applied.refused) == {name(n) for n in (0, 5, 6, 11)}
    assert engine.change({name(5): None}, {}).refused.keys() == {name(n) for n in (0, 6, 11)}
    assert not engine.sync(snapshot_of(*web(12))).refused


@pytest.mark.parametrize("variant", [Variant.LEGACY], ids=["legacy"])
def test_what_refuses_everything_is_not_sought_for_ever(
    engine: IptablesEngine, refuse: Callable[..., None], started: Started
) -> None:
    refuse("10.6.6.6:")
    bad = range(1, 40)
    applied = engine.sync(with_endpoint("10.6.6.6", *bad, of=40))
    assert set(applied.refused) == {name(number) for number in bad}
    assert len(started.calls) < 200


@pytest.mark.parametrize("variant", [Variant.LEGACY], ids=["legacy"])
@pytest.mark.parametrize("turns", [1, 3, 5])
def test_to_be_busy_while_a_refused_service_is_sought_forgets_nothing(
    netns: Namespace,
    variant: Variant,
    engine: IptablesEngine,
    refuse: Callable[..., None],
    turns: int,
) -> None:
    refuse("10.6.6.6:", busy_after=turns)
    with pytest.raises(BusyError):
        engine.sync(with_endpoint("10.6.6.6", 7))
    refuse("nothing at all")
    applied = engine.change({}, {})
    assert applied.replanned[7].service == ServiceName("default", "web-5")
    assert not applied.refused
    assert_in_place(netns, variant, engine)
