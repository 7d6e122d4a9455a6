"""The doctor where tools are missing, and the small judgements it makes."""

from __future__ import annotations

import pytest

from netplane.apply import tools
from netplane.apply.doctor.examination import Level, _version, examine
from netplane.apply.netns import Namespace
from netplane.apply.sysctl import wants_route_localnet
from netplane.config import Mode
from netplane.core.model.address import Family
from netplane.core.plan.node import FamilyView


@pytest.mark.parametrize(
    ("answer", "version"),
    [
        ("nftables v1.0.6 (Lester Gooch #5)", (1, 0, 6)),
        ("iptables v1.8.9 (nf_tables)", (1, 8, 9)),
        ("iptables v1.4.21", (1, 4, 21)),
        ("cannot say", ()),
    ],
)
def test_versions_are_read(answer: str, version: tuple[int, ...]) -> None:
    assert _version(answer) == version


@pytest.mark.parametrize(
    ("mode", "levels"),
    [
        ("iptables", {"nft": Level.WARN, "iptables": Level.STOP, "ip6tables": Level.STOP}),
        ("nftables", {"nft": Level.STOP, "iptables": Level.WARN, "ip6tables": Level.WARN}),
    ],
)
def test_a_missing_tool_stops_only_the_mode_that_needs_it(
    monkeypatch: pytest.MonkeyPatch, mode: Mode, levels: dict[str, Level]
) -> None:
    monkeypatch.setattr(tools, "_SBIN", ())
    monkeypatch.setenv("PATH", "/nowhere")
    with Namespace() as namespace:
        missing = [f for f in examine(namespace, mode) if f.check == "tools"]
    assert {finding.what.split()[0]: finding.level for finding in missing} == levels
    assert all("install the package" in finding.todo for finding in missing)


@pytest.mark.parametrize(
    ("view", "wanted"),
    [
        (FamilyView(family=Family.IPV4, localhost_node_ports=True), True),
        (FamilyView(family=Family.IPV4), False),
        (
            FamilyView(
                family=Family.IPV4, localhost_node_ports=True, node_port_addresses=("192.0.2.1",)
            ),
            False,
        ),
        (
            FamilyView(
                family=Family.IPV4, localhost_node_ports=True, node_port_addresses=("127.0.0.1",)
            ),
            True,
        ),
    ],
)
def test_localhost_is_routed_where_node_ports_answer_there(view: FamilyView, wanted: bool) -> None:
    assert wants_route_localnet(view) is wanted
