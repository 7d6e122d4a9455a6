"""The kit itself: rules written by hand, and the outcomes they must lead to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from netplane.core.model.service import Protocol
from tests.support.flow import Flow, Outcome, Place, Verdict
from tests.support.netns import run_tool
from tests.support.topology import Addresses, Topology, new_topology
from tests.support.traffic import Traffic, new_traffic

pytestmark = pytest.mark.kernel

NODE4, NODE6 = "192.0.2.1", "2001:db8::a"
POD4, POD6 = "10.244.1.9", "fd00:244:1::9"
OUTSIDE4, OUTSIDE6 = "203.0.113.5", "2001:db8:cafe::5"
VIP4, VIP6 = "172.30.0.10", "fd00:30::10"
SILENCE = 0.3

RULES = """
table inet kit {
  chain to-endpoint {
    type nat hook prerouting priority dstnat
    meta l4proto { tcp, udp, sctp } th dport 80 ip daddr 172.30.0.10 \
      dnat to ip saddr map { 10.244.1.9: 10.244.1.9, 0.0.0.0-10.244.1.8: 10.244.2.7, \
                             10.244.1.10-255.255.255.255: 10.244.2.7 }:8080
    meta l4proto { tcp, udp, sctp } th dport 80 ip6 daddr fd00:30::10 \
      dnat to [fd00:244:2::7]:8080
  }
  chain to-endpoint-own {
    type nat hook output priority -100
    meta l4proto { tcp, udp, sctp } th dport 80 ip daddr 172.30.0.10 dnat to 10.244.2.7:8080
    meta l4proto { tcp, udp, sctp } th dport 80 ip6 daddr fd00:30::10 \
      dnat to [fd00:244:2::7]:8080
  }
  chain from-node {
    type nat hook postrouting priority srcnat
    ip saddr 203.0.113.5 ip daddr 10.244.2.7 masquerade
    ip6 saddr 2001:db8:cafe::5 ip6 daddr fd00:244:2::7 masquerade
    ip saddr 10.244.1.9 ip daddr 10.244.1.9 masquerade
  }
  chain refused { reject; }
  chain refuse {
    # Without its protocol a port is any two octets: the checksum of an ICMP error, of the refusal.
    meta l4proto { tcp, udp, sctp } th dport vmap { 81: goto refused, 82: drop }
  }
  chain passing { type filter hook forward priority 0; jump refuse; }
  chain leaving { type filter hook output priority 0; jump refuse; }
  chain arriving { type filter hook input priority 0; jump refuse; }
}
"""

ACCEPT, REJECT, DROP = Verdict.ACCEPT, Verdict.REJECT, Verdict.DROP


@pytest.fixture(scope="module")
def topology() -> Iterator[Topology]:
    addresses = Addresses(node=(NODE4, NODE6), pods=("10.244.1.0/24", "fd00:244:1::/64"))
    with new_topology(addresses) as topology:
        run_tool(["nft", "-f", "-"], stdin=RULES, inside=topology.node)
        yield topology


@pytest.fixture(scope="module")
def traffic(topology: Topology) -> Iterator[Traffic]:
    with new_traffic(topology, [80, 81, 82, 8080]) as traffic:
        yield traffic


def _flow(source: str, destination: str, port: int, place: Place = Place.WORLD) -> Flow:
    return Flow(place, Protocol.TCP, source, destination, port)


def _ready_for(flow: Flow, expected: Outcome, protocol: Protocol) -> Flow:
    """The flow with one protocol; it waits long for all but the silence it is to meet."""
    patience = SILENCE if expected.verdict is DROP else flow.patience
    return flow._replace(protocol=protocol, patience=patience)


CASES = [
    pytest.param(
        _flow(POD4[:-1] + "8", VIP4, 80),
        Outcome(ACCEPT, "10.244.2.7:8080", POD4[:-1] + "8"),
        id="rewritten",
    ),
    pytest.param(
        _flow(OUTSIDE4, VIP4, 80), Outcome(ACCEPT, "10.244.2.7:8080", NODE4), id="masqueraded"
    ),
    pytest.param(_flow(POD4, VIP4, 80), Outcome(ACCEPT, f"{POD4}:8080", NODE4), id="hairpin"),
    pytest.param(
        _flow(NODE4, VIP4, 80, Place.NODE),
        Outcome(ACCEPT, "10.244.2.7:8080", NODE4),
        id="from-the-node",
    ),
    pytest.param(
        _flow(POD4, "172.30.0.11", 80), Outcome(ACCEPT, "172.30.0.11:80", POD4), id="untouched"
    ),
    pytest.param(
        _flow(OUTSIDE4, NODE4, 80), Outcome(ACCEPT, f"{NODE4}:80", OUTSIDE4), id="to-the-node"
    ),
    pytest.param(_flow(POD4, "172.30.0.11", 81), Outcome(REJECT), id="refused"),
    pytest.param(_flow(OUTSIDE4, NODE4, 81), Outcome(REJECT), id="refused-by-the-node"),
    pytest.param(_flow(NODE4, VIP4, 81, Place.NODE), Outcome(REJECT), id="refused-on-leaving"),
    pytest.param(_flow(POD4, "172.30.0.11", 82), Outcome(DROP), id="dropped"),
    pytest.param(_flow(NODE4, VIP4, 82, Place.NODE), Outcome(DROP), id="dropped-on-leaving"),
    pytest.param(
        _flow(POD6, VIP6, 80), Outcome(ACCEPT, "[fd00:244:2::7]:8080", POD6), id="v6-rewritten"
    ),
    pytest.param(
        _flow(OUTSIDE6, VIP6, 80),
        Outcome(ACCEPT, "[fd00:244:2::7]:8080", NODE6),
        id="v6-masqueraded",
    ),
    pytest.param(
        _flow(NODE6, VIP6, 80, Place.NODE),
        Outcome(ACCEPT, "[fd00:244:2::7]:8080", NODE6),
        id="v6-from-the-node",
    ),
    pytest.param(
        _flow(POD6, "fd00:30::11", 80),
        Outcome(ACCEPT, "[fd00:30::11]:80", POD6),
        id="v6-untouched",
    ),
    pytest.param(
        _flow(OUTSIDE6, NODE6, 80), Outcome(ACCEPT, f"[{NODE6}]:80", OUTSIDE6), id="v6-to-the-node"
    ),
    pytest.param(_flow(POD6, VIP6, 81), Outcome(REJECT), id="v6-refused"),
    pytest.param(_flow(NODE6, VIP6, 81, Place.NODE), Outcome(REJECT), id="v6-refused-on-leaving"),
    pytest.param(_flow(POD6, VIP6, 82), Outcome(DROP), id="v6-dropped"),
]


@pytest.mark.parametrize("protocol", list(Protocol), ids=lambda p: p.text)
@pytest.mark.parametrize(("flow", "expected"), CASES)
def test_a_flow_meets_what_the_rules_say(
    traffic: Traffic, protocol: Protocol, flow: Flow, expected: Outcome
) -> None:
    flows = [_ready_for(flow, expected, protocol)] * 3
    assert traffic.send(flows) == [expected] * 3


def test_flows_at_once_do_not_mix(traffic: Traffic) -> None:
    flows, expected = [], []
    for case in CASES * 3:
        flow, outcome = case.values
        assert isinstance(flow, Flow)
        assert isinstance(outcome, Outcome)
        for protocol in Protocol:
            flows.append(_ready_for(flow, outcome, protocol))
            expected.append(outcome)
    assert traffic.send(flows) == expected


@pytest.mark.parametrize("source", [POD4, POD6])
def test_many_refusals_at_once_all_come_back(traffic: Traffic, source: str) -> None:
    destination = "fd00:30::11" if source == POD6 else "172.30.0.11"
    flows = [_flow(source, destination, 81)] * 500
    assert set(traffic.send(flows)) == {Outcome(REJECT)}
