"""What tells the agent that something has moved: addresses, and rules of legacy iptables."""

from __future__ import annotations

import select

import pytest

from netplane.apply.address_events import AddressEvents
from netplane.apply.legacy_fingerprint import legacy_fingerprint
from netplane.apply.netns import Namespace
from tests.support.netns import run_tool

pytestmark = pytest.mark.kernel


def test_addresses_that_come_and_go_are_told(netns: Namespace) -> None:
    with AddressEvents(netns) as events:
        assert not events.moved()
        for verb in ("add", "del"):
            run_tool(["ip", "address", verb, "192.0.2.77/32", "dev", "lo"], inside=netns)
            assert select.select([events], [], [], 5.0)[0], f"{verb}: no notice within 5 s"
            assert events.moved()
        run_tool(["ip", "-6", "address", "add", "2001:db8::77/128", "dev", "lo"], inside=netns)
        assert select.select([events], [], [], 5.0)[0], "IPv6: no notice within 5 s"


@pytest.mark.parametrize("family", ["iptables-legacy", "ip6tables-legacy"])
def test_edits_of_legacy_rules_show(netns: Namespace, family: str) -> None:
    assert legacy_fingerprint(netns) == (), "asking makes no tables"
    rule = ["-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "80", "-j", "RETURN"]
    run_tool([family, *rule], inside=netns)
    before = legacy_fingerprint(netns)
    assert len(before) == 1
    assert legacy_fingerprint(netns) == before
    run_tool([family, "-t", "nat", "-A", "OUTPUT", "-j", "RETURN"], inside=netns)
    after = legacy_fingerprint(netns)
    assert after != before
    run_tool([family, "-t", "nat", "-F", "OUTPUT"], inside=netns)
    assert legacy_fingerprint(netns) == before
