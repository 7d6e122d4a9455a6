"""What the convergence tests compare: equal where two states mean the same, and only there."""

from __future__ import annotations

import pytest

from netplane.apply.netns import Namespace
from tests.support.kernel_state import meaning
from tests.support.netns import new_netns, run_tool

pytestmark = pytest.mark.kernel

PROGRAM = """
table ip netplane {{
  map endpoints {{
    typeof ip daddr . meta l4proto . th dport . numgen random mod 65536 : ip daddr . th dport
    counter
    elements = {{ {elements} }}
  }}
  set cluster-ips {{ type ipv4_addr; elements = {{ {addresses} }} }}
  chain pick-2 {{ {rule}; }}
}}
"""
ONE = "172.30.0.1 . tcp . 80 . {} : 10.244.1.1 . 8080"
TWO = "172.30.0.1 . tcp . 80 . {} : 10.244.1.2 . 8080"
SAME = {"elements": f"{ONE.format(0)}, {TWO.format(1)}", "addresses": "172.30.0.1", "rule": "drop"}


def _loaded(netns: Namespace, **changes: str) -> object:
    run_tool(["nft", "-f", "-"], stdin=PROGRAM.format_map({**SAME, **changes}), inside=netns)
    return meaning(netns)


@pytest.mark.parametrize(
    ("changes", "equal"),
    [
        pytest.param({}, True, id="itself"),
        pytest.param({"elements": f"{TWO.format(0)}, {ONE.format(1)}"}, True, id="slots-swapped"),
        pytest.param({"elements": f"{ONE.format(0)}, {TWO.format(2)}"}, False, id="slot-gap"),
        pytest.param({"elements": ONE.format(0)}, False, id="endpoint-missing"),
        pytest.param({"addresses": "172.30.0.2"}, False, id="other-address"),
        pytest.param({"rule": "accept"}, False, id="other-rule"),
    ],
)
def test_nftables(netns: Namespace, changes: dict[str, str], equal: bool) -> None:
    with new_netns() as other:
        assert (_loaded(netns, **changes) == _loaded(other)) is equal


@pytest.mark.parametrize(
    ("rules", "equal"),
    [
        pytest.param(":KUBE-A - [0:0]\n:KUBE-B - [0:0]\n-A KUBE-B -j KUBE-A", True, id="same"),
        pytest.param(":KUBE-B - [3:4]\n:KUBE-A - [0:0]\n-A KUBE-B -j KUBE-A", True, id="order"),
        pytest.param(":KUBE-A - [0:0]\n:KUBE-B - [0:0]\n-A KUBE-A -j KUBE-B", False, id="rule"),
        pytest.param(":KUBE-B - [0:0]", False, id="chain-missing"),
    ],
)
def test_iptables(netns: Namespace, rules: str, equal: bool) -> None:
    base = ":KUBE-A - [0:0]\n:KUBE-B - [0:0]\n-A KUBE-B -j KUBE-A"
    with new_netns() as other:
        for namespace, text in ((netns, rules), (other, base)):
            restore = f"*nat\n{text}\nCOMMIT\n"
            run_tool(["iptables-restore"], stdin=restore, inside=namespace)
        assert (meaning(netns) == meaning(other)) is equal
