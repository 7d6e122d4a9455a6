"""What a run looks at before it writes: the record, the kernel's bytes, and nft's text last."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from netplane.apply import tools
from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink.socket import NfnetlinkSocket
from netplane.apply.nftables import tool
from netplane.apply.nftables.mode import NftablesDataplane
from netplane.apply.nftables.observe import Target, observe
from netplane.apply.nftables.tool import NftTool
from netplane.core.model.address import Family
from netplane.core.nftables.parse import parse_table
from netplane.core.plan.plan import Plan
from tests.support.netns import run_tool
from tests.support.port_plans import backends, dual, port

pytestmark = pytest.mark.kernel

_THREE = backends("10.244.1.1", "10.244.2.1", "10.244.2.2")
_PORTS = (
    port("web", 1, cluster=_THREE, here=_THREE[:1], node_port=30001),
    port("empty", 2),
    port("guarded", 3, cluster=_THREE[:2], load_balancer_ips=("198.51.100.3",),
         source_ranges=("203.0.113.0/25",)),
    port("sticky", 4, cluster=_THREE, node_port=30004, affinity_seconds=60),
)  # fmt: skip
_FOREIGN = "add table ip somebody"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The processes started since the test began, as their command lines; they do run."""
    calls: list[str] = []

    def run(namespace: Namespace, argv: Sequence[str], *, stdin: bytes = b"") -> tools.Completed:
        calls.append(" ".join(argv))
        return tools.run(namespace, argv, stdin=stdin)

    monkeypatch.setattr(tool, "run", run)
    return calls


def nft(netns: Namespace, command: str) -> str:
    return run_tool(["nft", "-f", "-"], stdin=command, inside=netns)


def generation(netns: Namespace) -> int:
    with NfnetlinkSocket(netns) as link:
        return link.generation()


def apply(netns: Namespace, wanted: Plan) -> None:
    NftablesDataplane(netns).prepare(wanted).commit()


def assert_idle(netns: Namespace, wanted: Plan, started: list[str]) -> None:
    """A run has nothing to do, starts nothing and writes nothing."""
    before = generation(netns)
    started.clear()
    update = NftablesDataplane(netns).prepare(wanted)
    assert not update.changes
    update.commit()
    assert started == []
    assert generation(netns) == before


@pytest.mark.parametrize("foreign", ["", _FOREIGN])
def test_nothing_to_do_starts_nothing(netns: Namespace, started: list[str], foreign: str) -> None:
    wanted = dual(_PORTS)
    apply(netns, wanted)
    nft(netns, foreign)
    assert_idle(netns, wanted, started)


def test_a_new_table_takes_one_small_script(netns: Namespace, started: list[str]) -> None:
    many = [port(f"s{n}", n, cluster=_THREE) for n in range(1, 200)]
    apply(netns, dual(many))
    assert started == ["nft --version", "nft -f -"]
    assert_idle(netns, dual(many), started)


@pytest.mark.parametrize("foreign", ["", _FOREIGN])
def test_a_change_of_endpoints_starts_nothing(
    netns: Namespace, started: list[str], foreign: str
) -> None:
    apply(netns, dual(_PORTS))
    nft(netns, foreign)
    started.clear()
    fewer = msgspec.structs.replace(_PORTS[0], cluster=_THREE[:2])
    changed = dual([fewer, *_PORTS[1:], port("new", 9, cluster=_THREE)])
    apply(netns, changed)
    assert started == []
    assert_idle(netns, changed, started)
    nft(netns, "add table ip other")
    assert_idle(netns, changed, started)


@pytest.mark.parametrize(
    "edit",
    [
        "delete element ip netplane services { 172.30.0.1 . tcp . 80 }",
        "delete element ip netplane endpoints { 172.30.0.1 . tcp . 80 . 1 }",
        "delete element ip6 netplane cluster-ips { fd00:30::1 }",
        "add element ip netplane endpoints { 172.30.0.1 . tcp . 80 . 7 : 10.9.9.9 . 1 }",
        "add element ip netplane services { 1.2.3.4 . udp . 80 : jump refuse }",
        "add element ip netplane allowed-sources { 1.2.3.4 . tcp . 80 . 1.0.0.0/8 }",
        "flush set ip netplane cluster-ips",
    ],
)
def test_edited_elements_are_repaired_without_nft(
    netns: Namespace, started: list[str], edit: str
) -> None:
    wanted = dual(_PORTS)
    apply(netns, wanted)
    nft(netns, edit)
    started.clear()
    update = NftablesDataplane(netns).prepare(wanted)
    assert update.changes
    update.commit()
    assert started == []
    assert_idle(netns, wanted, started)


@pytest.mark.parametrize(
    "edit",
    [
        "add rule ip netplane source-ranges accept",
        "add rule ip netplane pick-3 accept",
        "add counter ip netplane own",
        "add chain ip6 netplane own { type filter hook input priority 5; }",
        "add element ip netplane services { 1.2.3.4 . icmp . 80 : accept }",
        'add element ip netplane services { 1.2.3.4 . udp . 80 comment "\x1b[2J" : drop }',
        "delete set ip netplane nodeport-ips",
    ],
)
def test_what_only_nft_can_tell_is_asked_of_it(
    netns: Namespace, started: list[str], edit: str
) -> None:
    wanted = dual(_PORTS, node_port_addresses=None)  # nodeport-ips is in no rule
    apply(netns, wanted)
    nft(netns, edit)
    started.clear()
    update = NftablesDataplane(netns).prepare(wanted)
    assert update.changes
    assert any(call.startswith("nft list table") for call in started)
    update.commit()
    assert_idle(netns, wanted, started)


@pytest.mark.parametrize(
    "loss",
    [
        "flush chain ip netplane record",
        "flush chain ip netplane record; delete chain ip netplane record",
        'flush chain ip6 netplane record; add rule ip6 netplane record return comment "kernel"',
    ],
)
def test_a_lost_record_is_no_change_and_written_anew(
    netns: Namespace, started: list[str], loss: str
) -> None:
    wanted = dual(_PORTS)
    apply(netns, wanted)
    nft(netns, loss)
    update = NftablesDataplane(netns).prepare(wanted)
    assert not update.changes
    update.commit()
    assert_idle(netns, wanted, started)


def test_a_saved_and_reloaded_ruleset_needs_no_nft(netns: Namespace, started: list[str]) -> None:
    wanted = dual(_PORTS)
    apply(netns, wanted)
    listed = run_tool(["nft", "list", "ruleset"], inside=netns)
    nft(netns, f"flush ruleset\n{listed}")
    assert run_tool(["nft", "list", "ruleset"], inside=netns) == listed
    assert_idle(netns, wanted, started)


@pytest.mark.parametrize("family", list(Family))
def test_netlink_and_nft_tell_the_same(netns: Namespace, family: Family) -> None:
    """After a change, seen from an older plan: chains and elements that go, come and stay."""
    older, newer = dual(_PORTS), dual([*_PORTS[1:], port("new", 9, cluster=_THREE[:2])])
    apply(netns, newer)
    nft(netns, _FOREIGN)
    targets = [Target.of(f) for f in older.families if f.family is family]
    with NfnetlinkSocket(netns) as link:
        (seen,) = observe(link, NftTool(netns), targets).tables
    word = "ip" if family is Family.IPV4 else "ip6"
    told = parse_table(run_tool(["nft", "list", "table", word, "netplane"], inside=netns), family)
    assert seen.recorded
    assert msgspec.structs.replace(seen.observed, counters={}) == (
        msgspec.structs.replace(told, counters={})
    )
