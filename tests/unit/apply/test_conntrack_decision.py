"""Which UDP flows must go: the decision alone, without a kernel."""

from __future__ import annotations

import pytest

from netplane.apply.conntrack import Local, removed_frontends, stale
from netplane.apply.flows import Flow
from netplane.core.model.address import Family
from netplane.core.plan.changes import Action, LostFrontend, ServiceChange
from netplane.core.plan.conntrack import UdpFlows
from netplane.core.plan.port import Backend
from tests.support.story import told

_DESIRED = UdpFlows(
    frontends={
        ("10.96.0.10", 53): frozenset({Backend("10.244.1.1", 5353)}),
        ("10.96.0.11", 53): frozenset(),
    },
    node_ports={30053: frozenset({Backend("10.244.1.1", 5353)})},
    service_cidrs=("10.96.0.0/16",),
)
_LOCAL = Local(lambda: frozenset({"192.0.2.1"}))


def _flow(
    destination: str, port: int, answers: str = "", answer_port: int = 0, *, answered: bool = True
) -> Flow:
    return Flow(
        "10.244.9.9",
        4000,
        destination,
        port,
        answers or destination,
        answer_port or port,
        answered=answered,
    )


@pytest.mark.parametrize(
    ("flow", "goes"),
    [
        pytest.param(_flow("10.96.0.10", 53, "10.244.1.1", 5353), False, id="good backend"),
        pytest.param(_flow("10.96.0.10", 53, "10.244.1.2", 5353), True, id="backend gone"),
        pytest.param(_flow("10.96.0.10", 53, "10.244.1.1", 53), True, id="backend, other port"),
        pytest.param(_flow("10.96.0.10", 53), True, id="never translated"),
        pytest.param(_flow("10.96.0.10", 54), False, id="other port, never translated"),
        pytest.param(_flow("10.96.0.11", 53, "10.244.1.1", 5353), True, id="no endpoints left"),
        pytest.param(_flow("10.96.0.11", 53), True, id="no endpoints, answered by another"),
        pytest.param(_flow("10.96.0.11", 53, answered=False), False, id="no endpoints, refused"),
        pytest.param(
            _flow("10.96.0.11", 53, "10.244.1.1", 5353, answered=False),
            True,
            id="no endpoints left, never answered",
        ),
        pytest.param(_flow("10.96.0.10", 53, answered=False), True, id="refused before"),
        pytest.param(_flow("10.96.0.99", 53, "10.244.1.1", 5353), True, id="service gone"),
        pytest.param(_flow("10.96.0.99", 53), False, id="service range, never translated"),
        pytest.param(_flow("192.0.2.1", 30053, "10.244.1.1", 5353), False, id="NodePort"),
        pytest.param(_flow("192.0.2.1", 30053, "10.244.1.2", 5353), True, id="NodePort, gone"),
        pytest.param(_flow("127.0.0.1", 30053), True, id="NodePort on loopback"),
        pytest.param(_flow("198.51.100.9", 30053), False, id="NodePort's number elsewhere"),
        pytest.param(_flow("203.0.113.5", 53, "10.244.1.1", 53), False, id="somebody's DNAT"),
    ],
)
def test_stale(flow: Flow, goes: bool) -> None:
    assert stale([flow], _DESIRED, _LOCAL) == ([flow] if goes else [])


def test_node_port_addresses_limit_what_a_node_port_is() -> None:
    flow = _flow("192.0.2.1", 30053, "10.244.1.2", 5353)
    only = Local(lambda: frozenset({"192.0.2.1", "192.0.2.2"}), frozenset({"192.0.2.2"}))
    assert stale([flow], _DESIRED, only) == []
    loopback = Local(node_ports=frozenset({"127.0.0.1"}))
    assert stale([_flow("127.0.0.5", 30053)], _DESIRED, loopback)


def test_removed_frontends_take_their_translated_flows_along() -> None:
    translated = _flow("203.0.113.5", 53, "10.244.1.1", 5353)
    untouched = _flow("203.0.113.5", 53)
    node_port = _flow("192.0.2.1", 30054, "10.244.1.1", 5353)
    removed = {("203.0.113.5", 53), ("", 30054)}
    flows = [translated, untouched, node_port]
    assert stale(flows, _DESIRED, _LOCAL, removed) == [translated, node_port]


def test_removed_frontends_are_read_off_the_report() -> None:
    change = ServiceChange(label="a/b", family="IPv4", action=Action.REMOVED)
    lost = (
        LostFrontend(Family.IPV4, "10.96.0.10", "udp", 53),
        LostFrontend(Family.IPV4, "", "udp", 30053),
        LostFrontend(Family.IPV4, "10.96.0.10", "tcp", 54),
        LostFrontend(Family.IPV6, "2001:db8::1", "udp", 53),
    )
    changes = told(change, lost=lost)
    assert removed_frontends(changes, Family.IPV4) == {("10.96.0.10", 53), ("", 30053)}
    assert removed_frontends(changes, Family.IPV6) == {("2001:db8::1", 53)}


def test_addresses_are_read_once_and_only_for_the_number_of_a_node_port() -> None:
    asked = []

    def addresses() -> frozenset[str]:
        asked.append(1)
        return frozenset({"192.0.2.1"})

    local = Local(addresses)
    others = [_flow("10.96.0.10", 53), _flow("198.51.100.9", 4000), _flow("127.0.0.1", 30053)]
    assert stale(others, _DESIRED, local) == [others[0], others[2]]
    assert not asked
    node_ports = [_flow("192.0.2.1", 30053), _flow("198.51.100.9", 30053)]
    assert stale(node_ports, _DESIRED, local) == [node_ports[0]]
    assert len(asked) == 1
