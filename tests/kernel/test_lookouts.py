"""What tells the agent that something has moved: addresses, and rules of legacy iptables."""

from __future__ import annotations

import select
import socket
from functools import partial

import pytest

from netplane.apply.address_events import AddressEvents
from netplane.apply.iptables.legacy_fingerprint import Fingerprint, legacy_fingerprint
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


def _deep(netns: Namespace) -> Fingerprint:
    found = legacy_fingerprint(netns, deep=True)
    assert found.contents is not None
    return found


def _nat(family: str, netns: Namespace, *rule: str) -> None:
    run_tool([family, "-t", "nat", *rule], inside=netns)


@pytest.mark.parametrize("family", ["iptables-legacy", "ip6tables-legacy"])
def test_edits_of_legacy_rules_show(netns: Namespace, family: str) -> None:
    assert legacy_fingerprint(netns, deep=True) == Fingerprint((), ()), "asking makes no tables"
    _nat(family, netns, "-A", "PREROUTING", "-p", "tcp", "--dport", "80", "-j", "RETURN")
    before = legacy_fingerprint(netns, deep=False)
    assert len(before.figures) == 1
    assert legacy_fingerprint(netns, deep=False) == before
    _nat(family, netns, "-A", "OUTPUT", "-j", "RETURN")
    after = legacy_fingerprint(netns, deep=False)
    assert not after.may_be(before)
    _nat(family, netns, "-F", "OUTPUT")
    assert legacy_fingerprint(netns, deep=False) == before


@pytest.mark.parametrize(
    ("family", "source"), [("iptables-legacy", "192.0.2.1"), ("ip6tables-legacy", "2001:db8::1")]
)
def test_a_rule_replaced_by_one_of_its_size_shows_in_the_contents(
    netns: Namespace, family: str, source: str
) -> None:
    for port in ("80", "81"):
        _nat(family, netns, "-A", "OUTPUT", "-p", "tcp", "--dport", port, "-j", "RETURN")
    before = _deep(netns)
    _nat(family, netns, "-R", "OUTPUT", "1", "-p", "tcp", "--dport", "82", "-j", "RETURN")
    after = _deep(netns)
    assert after.figures == before.figures
    assert not after.may_be(before)
    assert after.may_be(legacy_fingerprint(netns, deep=False))
    _nat(family, netns, "-R", "OUTPUT", "2", "-p", "tcp", "--dport", "81", "-s", source)
    assert not _deep(netns).may_be(after)


def test_counters_are_no_edit(netns: Namespace) -> None:
    run_tool(["ip", "link", "set", "lo", "up"], inside=netns)
    for variant in ("iptables-legacy", "ip6tables-legacy"):
        run_tool([variant, "-A", "OUTPUT"], inside=netns)
        run_tool([variant, "-A", "OUTPUT", "-p", "udp", "--dport", "9"], inside=netns)
    before = _deep(netns)
    assert len(before.figures) == 2
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with netns.call(partial(socket.socket, family, socket.SOCK_DGRAM)) as sender:
            sender.sendto(b"counted", (address, 9))
    counted = run_tool(["iptables-legacy", "-vnxL", "OUTPUT", "2"], inside=netns)
    assert counted.split()[0] == "1", counted
    assert _deep(netns) == before
    run_tool(["iptables-legacy", "-Z"], inside=netns)
    assert _deep(netns) == before


def test_large_tables_are_left_to_their_figures(netns: Namespace) -> None:
    words = "x" * 200  # a comment takes the same room whatever it says: some 450 bytes a rule
    rules = [f'-A OUTPUT -p tcp -m comment --comment "{words}" -j RETURN'] * 10_000
    run_tool(
        ["iptables-legacy-restore"], stdin="\n".join(["*nat", *rules, "COMMIT\n"]), inside=netns
    )
    found = legacy_fingerprint(netns, deep=True)
    assert len(found.figures) == 1
    assert found.contents is None
