"""Whose commits matter: foreign ones elsewhere are vouched for, those that concern us alarm."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink.events import Commit, Notices, Place
from netplane.apply.nfnetlink.socket import NfnetlinkSocket
from netplane.apply.nfnetlink.witness import Witness, concern_of
from netplane.apply.nftables.engine import NftablesEngine
from netplane.apply.tools import run
from netplane.config import Mode
from netplane.core.model.address import Family
from netplane.core.nftables.record import NOTHING, Record, write_record
from netplane.core.plan.node import NodeView
from tests.support.manifests import endpoint_slice, service
from tests.support.netns import run_tool
from tests.support.port_plans import view
from tests.support.snapshots import name, slices, snapshot_of

pytestmark = pytest.mark.kernel


@pytest.fixture
def witness(netns: Namespace) -> Iterator[Witness]:
    with Witness(netns, concern_of("nftables")) as witness:
        yield witness


def _generation(netns: Namespace) -> int:
    with NfnetlinkSocket(netns) as link:
        return link.generation()


def test_commits_elsewhere_are_vouched_for(netns: Namespace, witness: Witness) -> None:
    before = _generation(netns)
    assert witness.vouch(before) is None, "nothing was heard yet"
    for number in range(3):
        run_tool(["nft", f"add table ip other{number}"], inside=netns)
    now = _generation(netns)
    assert now == before + 3
    assert witness.vouch(before) == now
    assert witness.vouch(before + 2) == now
    assert witness.vouch(now) == now
    assert witness.vouch(before - 1) is None, "what came before was not heard"
    assert witness.vouch(now + 1) is None, "what is still to come neither"
    assert not witness.alarmed()


def test_a_foreign_hand_in_our_table_alarms_once(netns: Namespace, witness: Witness) -> None:
    before = _generation(netns)
    run_tool(["nft", "add table ip netplane"], inside=netns)
    assert witness.vouch(before) is None
    assert witness.vouch(_generation(netns)) == _generation(netns)
    assert witness.alarmed()
    assert not witness.alarmed()


def test_our_own_socket_does_not_whatever_thread_uses_it(
    netns: Namespace, witness: Witness
) -> None:
    run(netns, ["nft", "add table ip netplane"])
    with NfnetlinkSocket(netns) as link, ThreadPoolExecutor(1) as elsewhere:
        before = link.generation()
        messages = write_record(Family.IPV4, Record(NOTHING, NOTHING, NOTHING, 1), exists=False)
        elsewhere.submit(link.commit, messages, generation=before).result()
        assert witness.vouch(before) == link.generation() == before + 1
    assert not witness.alarmed()


def test_our_own_tools_do_not(netns: Namespace, witness: Witness) -> None:
    before = _generation(netns)
    run(netns, ["nft", "add table ip netplane"])
    assert witness.vouch(before) == before + 1
    assert not witness.alarmed()


def test_no_thread_of_ours_does(netns: Namespace, witness: Witness) -> None:
    node = NodeView(name="node-1", families=(view(),))
    state = snapshot_of(service("web-0"), endpoint_slice("web-0", ["10.244.1.7"]))
    with NftablesEngine(netns, node) as engine, ThreadPoolExecutor(1) as worker:
        worker.submit(engine.sync, state).result()
        before = _generation(netns)
        worker.submit(engine.change, {}, slices("web-0", "10.244.1.8")).result()
        assert witness.vouch(before) == before + 1
        assert not witness.alarmed()


def test_what_was_lost_may_be_part_of_the_next_commit(witness: Witness) -> None:
    """The kernel tells of a commit in many notices; of one, only the last may have had room."""
    other = frozenset({Place("other")})
    witness._hear(Notices((Commit(5, 1, "nft", other), Commit(6, 1, "nft", other)), lost=True))
    assert witness.alarmed()
    assert witness.vouch(6) is None
    witness._hear(Notices((Commit(7, 1, "nft", other),), lost=False))
    assert witness.vouch(6) is None, "nobody knows what else it did"
    assert witness.vouch(7) == 7
    witness._hear(Notices((Commit(8, 1, "nft", other),), lost=False))
    assert witness.vouch(7) == 8
    assert not witness.alarmed(), "once is enough"


@pytest.mark.parametrize(
    ("argv", "alarms"),
    [
        pytest.param(["-t", "nat", "-N", "DOCKER"], False, id="a-chain-of-its-own"),
        pytest.param(["-t", "nat", "-N", "KUBE-X"], True, id="a-chain-like-ours"),
        pytest.param(["-t", "nat", "-I", "PREROUTING", "-j", "RETURN"], True, id="a-rule-on-top"),
        pytest.param(["-t", "mangle", "-A", "PREROUTING", "-j", "RETURN"], False, id="mangle"),
    ],
)
def test_in_iptables_mode_our_chains_and_those_that_jump_there_count(
    netns: Namespace, argv: list[str], alarms: bool
) -> None:
    mode: Mode = "iptables"
    for table in ("nat", "mangle"):  # iptables-nft makes tables and hooks with the first use
        run_tool(["iptables-nft", "-t", table, "-A", "PREROUTING", "-j", "ACCEPT"], inside=netns)
    with Witness(netns, concern_of(mode)) as witness:
        run_tool(["iptables-nft", *argv], inside=netns)
        assert witness.alarmed() is alarms


def test_an_engine_goes_on_without_a_look_while_others_write_elsewhere(
    netns: Namespace, witness: Witness
) -> None:
    node = NodeView(name="node-1", families=(view(),))
    state = snapshot_of(service("web-0"), endpoint_slice("web-0", ["10.244.1.7"]))
    with NftablesEngine(netns, node, vouch=witness.vouch) as engine:
        assert engine.sync(state).observed
        run_tool(["nft", "add table ip other"], inside=netns)
        applied = engine.change({}, slices("web-0", "10.244.1.8"))
        assert [told.service for told in applied.replanned] == [name(0)]
        assert not applied.observed
        run_tool(["nft", "add table ip another"], inside=netns)
        assert not engine.verify().observed
        listed = run_tool(["nft", "list map ip netplane endpoints"], inside=netns)
        assert "10.244.1.8" in listed
        assert "10.244.1.7" not in listed
        run_tool(["nft", "flush map ip netplane services"], inside=netns)
        applied = engine.change({}, slices("web-0", "10.244.1.9"))
        assert applied.observed, "nobody vouches for who wrote to our table"
        assert engine.verify().changes.services == ()
