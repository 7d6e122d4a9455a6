"""The kernel's notices of nftables transactions: who committed, and nothing from elsewhere."""

from __future__ import annotations

import os
import select
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink.events import Commit, CommitReader, NftEvents, Notices, Place
from netplane.apply.nfnetlink.socket import NfnetlinkSocket
from netplane.core.model.address import Family
from netplane.core.nftables.record import NOTHING, Record, write_record
from tests.support.netns import new_netns, run_tool

pytestmark = pytest.mark.kernel


def _commits(events: NftEvents, count: int) -> list[Commit]:
    """Wait for so many commits, 5 s at the most."""
    found: list[Commit] = []
    while len(found) < count:
        ready, _, _ = select.select([events], [], [], 5.0)
        assert ready, f"only {len(found)} of {count} notices within 5 s"
        notices = events.notices()
        assert not notices.lost
        found += notices.commits
    return found


def test_a_commit_of_another_process_is_told(netns: Namespace) -> None:
    with NftEvents(netns) as events:
        run_tool(["nft", "add table ip netplane-test"], inside=netns)
        run_tool(["nft", "add chain ip netplane-test c"], inside=netns)
        first, second = _commits(events, 2)
        assert first.program == "nft"
        assert not first.ours
        assert first.places == {Place("netplane-test")}
        assert second.places == {Place("netplane-test", "c")}
        assert second.generation == first.generation + 1
        assert events.notices().commits == ()


def test_other_namespaces_are_silent(netns: Namespace) -> None:
    with new_netns() as other, NftEvents(netns) as events:
        run_tool(["nft", "add table ip elsewhere"], inside=other)
        run_tool(["nft", "add table ip here"], inside=netns)
        (only,) = _commits(events, 1)
        assert only.program == "nft"
        assert events.notices().commits == ()


def test_iptables_nft_is_heard_too(netns: Namespace) -> None:
    with NftEvents(netns) as events:
        run_tool(["iptables-nft", "-t", "nat", "-N", "KUBE-TEST"], inside=netns)
        assert _commits(events, 1)[0].program.startswith("iptables")


def test_a_loss_is_told_until_all_that_came_before_has_been_read(netns: Namespace) -> None:
    """What is lost follows what had room, though the kernel tells of the loss first."""
    run_tool(["nft", "add table ip netplane"], inside=netns)
    with NftEvents(netns) as events, NfnetlinkSocket(netns) as link:
        with socket.socket(fileno=os.dup(events.fileno())) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        for number in range(1, 4000):
            record = Record(NOTHING, NOTHING, NOTHING, number)
            link.commit(write_record(Family.IPV4, record, exists=number > 1), generation=None)
        last = link.generation()
        reads: list[Notices] = []
        while not reads or reads[-1].commits:
            reads.append(events.notices())
        assert len(reads) > 2, "more than is read at a time"
        assert reads[-2].commits[-1].generation < last, "some were lost"
        assert all(notices.lost for notices in reads[:-1])
        assert not events.notices().lost


_NEWGEN = bytes.fromhex(
    "2c000000 0f0a 0000 00000000 00000000"  # nlmsghdr: 44 bytes, NFT_MSG_NEWGEN
    "00 00 0000"  # nfgenmsg
    "0800 0100 00000007"  # NFTA_GEN_ID
    "0800 0200 0000002a"  # NFTA_GEN_PROC_PID
    "0800 0300 6e667400"  # NFTA_GEN_PROC_NAME
)


_NEWCHAIN = bytes.fromhex(
    "34000000 030a 0000 00000000 00000000"  # nlmsghdr: 52 bytes, NFT_MSG_NEWCHAIN
    "02 00 0000"  # nfgenmsg
    "0800 0100 6e617400"  # NFTA_CHAIN_TABLE
    "0c00 0200 0000000000000001"  # NFTA_CHAIN_HANDLE
    "0a00 0300 444f434b00 00 0000"  # NFTA_CHAIN_NAME
)


def test_a_notice_is_read() -> None:
    assert CommitReader().feed(_NEWGEN) == [Commit(7, 42, "nft")]


def test_a_transaction_is_read_across_datagrams() -> None:
    reader = CommitReader()
    assert reader.feed(_NEWCHAIN) == []
    places = frozenset({Place("nat", "DOCK")})
    assert reader.feed(_NEWGEN + _NEWGEN) == [Commit(7, 42, "nft", places), Commit(7, 42, "nft")]


@given(st.integers(0, len(_NEWGEN) - 1), st.integers(1, 255))
def test_a_damaged_notice_never_raises(position: int, change: int) -> None:
    damaged = bytearray(_NEWGEN)
    damaged[position] ^= change
    assert len(CommitReader().feed(bytes(damaged))) <= 1
    assert CommitReader().feed(_NEWGEN[:position]) == []
