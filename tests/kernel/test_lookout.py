"""What makes the loop look: foreign hands on our rules, addresses; and what does not."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence

import pytest

from netplane.agent.lookout import Lookout
from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink.socket import NfnetlinkSocket
from netplane.config import Mode
from tests.support.netns import run_tool

pytestmark = pytest.mark.kernel

_OURS = "add table ip netplane; add chain ip netplane balance"
_THEIRS = "add table ip other; add chain ip other balance"
_NAT = ["iptables-nft", "-t", "nat", "-N", "KUBE-SERVICES"]
_LEGACY = ["iptables-legacy", "-t", "nat", "-A", "OUTPUT", "-j", "RETURN"]
_SAME_SIZE = ["iptables-legacy", "-t", "nat", "-R", "OUTPUT", "1", "-j", "ACCEPT"]
_LAST = ["ip", "address", "add", "192.0.2.10/32", "dev", "lo"]
_ADDRESS = ["ip", "address", "add", "192.0.2.9/32", "dev", "lo"]


@pytest.mark.parametrize(
    ("mode", "touch", "wanted"),
    [
        pytest.param("nftables", ["nft", _OURS], {"rules"}, id="our-table"),
        pytest.param("nftables", ["nft", _THEIRS], set(), id="another-table"),
        pytest.param("nftables", _NAT, set(), id="iptables-in-nftables-mode"),
        pytest.param("nftables", ["nft", "flush", "ruleset"], {"rules"}, id="everything"),
        pytest.param("nftables", _ADDRESS, {"addresses"}, id="an-address"),
        pytest.param("iptables", _NAT, {"rules"}, id="our-chain"),
        pytest.param("iptables", ["nft", _OURS], set(), id="nftables-in-iptables-mode"),
        pytest.param("iptables", _LEGACY, {"rules"}, id="legacy"),
        pytest.param("iptables", _SAME_SIZE, {"rules"}, id="legacy-of-the-same-size"),
        pytest.param("iptables", _ADDRESS, {"addresses"}, id="an-address-too"),
    ],
)
def test_who_is_told_of_what(
    netns: Namespace, mode: Mode, touch: Sequence[str], wanted: set[str]
) -> None:
    if touch[-2:] == ["flush", "ruleset"]:
        run_tool(["nft", _OURS], inside=netns)
    if touch == _SAME_SIZE:
        run_tool(_LEGACY, inside=netns)
    told = asyncio.run(_watch(netns, mode, lambda _: run_tool(touch, inside=netns), wanted))
    assert set(told) - {"addresses"} == wanted - {"addresses"}
    assert told.count("addresses") == 1 + ("addresses" in wanted)


def test_what_is_written_meanwhile_is_ours(netns: Namespace) -> None:
    """Legacy tables tell nothing of who wrote: what happens during a pass is taken as its own."""

    def touch(lookout: Lookout) -> None:
        with lookout.writing():
            run_tool(_LEGACY, inside=netns)
        run_tool(_LEGACY, inside=netns)

    told = asyncio.run(_watch(netns, "iptables", touch, {"rules"}))
    assert told.count("rules") == 1, "the second alone"


def test_what_a_pass_hears_is_told_when_it_ends(netns: Namespace) -> None:
    """A pass asks the witness, too, which then has read the notice before the loop could."""

    async def watch() -> None:
        told = asyncio.Event()
        with Lookout(netns, "nftables") as lookout:
            async with lookout.watching(told.set, lambda: None), asyncio.timeout(10):
                with lookout.writing():
                    with NfnetlinkSocket(netns) as link:
                        before = link.generation()
                    run_tool(["nft", _OURS], inside=netns)
                    assert lookout.witness.vouch(before) is None
                await told.wait()

    asyncio.run(watch())


async def _watch(
    netns: Namespace, mode: Mode, touch: Callable[[Lookout], object], wanted: set[str]
) -> list[str]:
    """Who was told of what happened, until everybody wanted has been, and of an address after it.

    Notices are read in the order in which sockets have them, so who is not told by then is not.
    """
    told: list[str] = []
    news = asyncio.Event()

    def tell(word: str) -> None:
        told.append(word)
        news.set()

    async def until(holds: Callable[[], bool]) -> None:
        while not holds():
            news.clear()
            await news.wait()

    with Lookout(netns, mode) as lookout:
        with lookout.writing():
            pass  # what is there is as it should be
        rules, addresses = (functools.partial(tell, w) for w in ("rules", "addresses"))
        async with lookout.watching(rules, addresses), asyncio.timeout(10):
            await asyncio.to_thread(touch, lookout)
            await until(lambda: wanted <= set(told))
            before = told.count("addresses")
            await asyncio.to_thread(run_tool, _LAST, inside=netns)
            await until(lambda: told.count("addresses") > before)
    return told
