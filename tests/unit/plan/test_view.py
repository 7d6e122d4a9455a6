"""The node's view: detectors, NodePort addresses, primary addresses."""

from __future__ import annotations

import pytest

from netplane.config import Config
from netplane.core.model.address import Family
from netplane.core.model.service import Node
from netplane.core.plan.node import DetectorKind, FamilyView, LocalDetector
from netplane.core.plan.view import build_view

NODE = Node(
    name="n1",
    zone="z1",
    addresses=("192.0.2.1", "2001:db8::1"),
    pod_cidrs=("10.244.1.0/24", "fd00:1::/64"),
)
LOCAL = ("127.0.0.1", "::1", "192.0.2.1", "198.51.100.7", "2001:db8::1", "fe80::1")


def view(config: Config, *, mode: str = "iptables", family: Family = Family.IPV4) -> FamilyView:
    built = build_view(config, mode=mode, node=NODE, local_addresses=LOCAL)
    return next(found for found in built.families if found.family is family)


@pytest.mark.parametrize(
    ("wanted", "mode", "family", "expected"),
    [
        pytest.param((), "iptables", 4, None, id="unset, iptables: all"),
        pytest.param((), "nftables", 4, ("192.0.2.1",), id="unset, nftables: primary"),
        pytest.param((), "nftables", 6, ("2001:db8::1",), id="unset, nftables, IPv6: primary"),
        pytest.param(("primary",), "iptables", 4, ("192.0.2.1",), id="primary"),
        pytest.param(("198.51.100.0/24",), "nftables", 4, ("198.51.100.7",), id="a network"),
        pytest.param(("198.51.100.0/24",), "nftables", 6, None, id="none of this family: all"),
        pytest.param(("203.0.113.0/24",), "iptables", 4, (), id="a network without addresses"),
        pytest.param(("192.0.2.0/24", "0.0.0.0/0"), "nftables", 4, None, id="a zero network: all"),
        pytest.param(("127.0.0.0/8",), "iptables", 4, ("127.0.0.1",), id="loopback, iptables"),
        pytest.param(("127.0.0.0/8",), "nftables", 4, (), id="loopback, nftables"),
        pytest.param(("::/64",), "iptables", 6, (), id="loopback, IPv6"),
    ],
)
def test_node_port_addresses(
    wanted: tuple[str, ...], mode: str, family: int, expected: tuple[str, ...] | None
) -> None:
    config = Config(node_name="n1", node_port_addresses=wanted)
    assert view(config, mode=mode, family=Family(family)).node_port_addresses == expected


def test_without_localhost_node_ports_loopback_is_left_out() -> None:
    config = Config(node_port_addresses=("127.0.0.0/8",), localhost_node_ports=False)
    assert view(config).node_port_addresses == ()
    assert view(config).localhost_node_ports is False


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param(Config(), LocalDetector(), id="nothing known: none"),
        pytest.param(
            Config(cluster_cidrs=("fd00::/32", "10.0.0.0/8", "10.1.0.0/16")),
            LocalDetector(DetectorKind.CLUSTER_CIDR, "10.0.0.0/8"),
            id="the first network of the family",
        ),
        pytest.param(
            Config(detect_local_mode="NodeCIDR", cluster_cidrs=("10.0.0.0/8",)),
            LocalDetector(DetectorKind.CLUSTER_CIDR, "10.244.1.0/24"),
            id="the node's own network",
        ),
        pytest.param(
            Config(detect_local_mode="BridgeInterface", bridge_interface="cni0"),
            LocalDetector(DetectorKind.BRIDGE_INTERFACE, "cni0"),
            id="a bridge",
        ),
        pytest.param(
            Config(detect_local_mode="InterfaceNamePrefix", interface_prefix="cali"),
            LocalDetector(DetectorKind.INTERFACE_PREFIX, "cali"),
            id="a prefix",
        ),
    ],
)
def test_detector(config: Config, expected: LocalDetector) -> None:
    assert view(config).detector == expected


def test_told_addresses_come_before_the_nodes() -> None:
    assert view(Config(node_ips=("198.51.100.7",))).node_ip == "198.51.100.7"
    assert view(Config(node_ips=("198.51.100.7",)), family=Family.IPV6).node_ip == "2001:db8::1"


def test_without_a_node_object_there_is_no_zone_and_no_primary_address() -> None:
    built = build_view(Config(node_name="n1"), mode="nftables", node=None)
    assert built.zone == ""
    assert [found.node_ip for found in built.families] == ["", ""]
    assert [found.node_port_addresses for found in built.families] == [(), ()]


def test_mark_and_liberal_conntrack() -> None:
    found = view(Config(masquerade_bit=15, conntrack_tcp_be_liberal=True, masquerade_all=True))
    assert found.masquerade_mark == 0x8000
    assert found.drop_invalid is False
    assert found.masquerade_all is True
