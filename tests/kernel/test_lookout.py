"""What makes the loop look: foreign hands on our rules, addresses; and what does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from netplane.agent.lookout import Lookout
from netplane.apply.netns import Namespace
from netplane.config import Mode
from tests.support.netns import run_tool

pytestmark = pytest.mark.kernel

_OURS = "add table ip netplane; add chain ip netplane balance"
_THEIRS = "add table ip other; add chain ip other balance"
_NAT = ["iptables-nft", "-t", "nat", "-N", "KUBE-SERVICES"]
_LEGACY = ["iptables-legacy", "-t", "nat", "-A", "OUTPUT", "-j", "RETURN"]
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
        pytest.param("iptables", _ADDRESS, {"addresses"}, id="an-address-too"),
    ],
)
def test_who_is_told_of_what(
    netns: Namespace, mode: Mode, touch: Sequence[str], wanted: set[str]
) -> None:
    if touch[-2:] == ["flush", "ruleset"]:
        run_tool(["nft", _OURS], inside=netns)
    told = asyncio.run(_watch(netns, mode, lambda: run_tool(touch, inside=netns)))
    assert told == wanted


def test_what_is_written_meanwhile_is_ours(netns: Namespace) -> None:
    """Legacy tables tell nothing of who wrote: what happens during a pass is taken as its own."""

    def touch(lookout: Lookout) -> None:
        with lookout.writing():
            run_tool(_LEGACY, inside=netns)

    assert asyncio.run(_watch(netns, "iptables", touch_with=touch)) == set()


async def _watch(
    netns: Namespace,
    mode: Mode,
    touch: Callable[[], object] = str,
    *,
    touch_with: Callable[[Lookout], object] | None = None,
) -> set[str]:
    """Who was told of what happened, once what happens after it has been told for sure."""
    told: set[str] = set()
    with Lookout(netns, mode) as lookout:
        with lookout.writing():
            pass  # what is there is as it should be
        async with lookout.watching(lambda: told.add("rules"), lambda: told.add("addresses")):
            await asyncio.to_thread(touch_with or (lambda _: touch()), lookout)
            # Both ways of telling have had their turn after this: notices are read as they come,
            # and legacy tables are compared twice a second.
            await asyncio.sleep(1.3 if mode == "iptables" else 0.3)
    return told
