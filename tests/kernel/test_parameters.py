"""What of the kernel's connection tracking is told as missing, and what is left alone."""

from __future__ import annotations

import pytest

from netplane.agent.parameters import unmet_parameters
from netplane.apply import sysctl
from netplane.apply.doctor.examination import Examination, Level, _conntrack
from netplane.apply.netns import Namespace
from netplane.config import Config, Setting, resolve
from tests.support.netns import run_tool

pytestmark = pytest.mark.kernel

_MOST = "net/netfilter/nf_conntrack_max"
_CLOSE_WAIT = "net/netfilter/nf_conntrack_tcp_timeout_close_wait"


@pytest.fixture
def tracking(netns: Namespace) -> Namespace:
    """A namespace in which connections are tracked; the first rule that asks loads it."""
    rule = "add table ip t; add chain ip t c { type filter hook input priority 0; }"
    run_tool(["nft", f"{rule}; add rule ip t c ct state new accept"], inside=netns)
    return netns


def _unmet(netns: Namespace, processors: int = 1, **asked: object) -> list[str]:
    settings = {field: Setting(value, "file x") for field, value in asked.items()}
    config = resolve(None, settings, host_name="node-1")
    return list(unmet_parameters(config, netns, processors=processors))


def _limit(netns: Namespace) -> int:
    return int(sysctl.read(netns, _MOST) or 0)


def test_a_limit_below_kube_proxys_is_told_though_nobody_asked_for_it(tracking: Namespace) -> None:
    limit = _limit(tracking)
    (words,) = _unmet(tracking, processors=limit)
    assert f"nf_conntrack_max is {limit}, " in words
    assert f"sysctl -w net.netfilter.nf_conntrack_max={limit * 32768}" in words


def test_a_limit_that_is_large_enough_is_well(tracking: Namespace) -> None:
    limit = _limit(tracking)
    assert _unmet(tracking, conntrack_min=limit, conntrack_max_per_core=1) == []
    assert _unmet(tracking, conntrack_min=limit - 1, conntrack_max_per_core=1) == []
    assert len(_unmet(tracking, conntrack_min=limit + 1, conntrack_max_per_core=1)) == 1
    assert _unmet(tracking, processors=limit, conntrack_max_per_core=0) == [], "left alone"


def test_timeouts_are_told_where_they_were_asked_for(tracking: Namespace) -> None:
    assert _unmet(tracking, conntrack_max_per_core=0) == []
    there = int(sysctl.read(tracking, _CLOSE_WAIT) or 0)
    as_it_is = f"{there}s"
    assert not _unmet(tracking, conntrack_max_per_core=0, conntrack_tcp_close_wait=as_it_is)
    (words,) = _unmet(tracking, conntrack_max_per_core=0, conntrack_tcp_close_wait="7s")
    assert f"nf_conntrack_tcp_timeout_close_wait is {there}, " in words


def test_route_localnet_is_the_follow_ups(netns: Namespace) -> None:
    assert Config().mode == "iptables"
    assert not any("route_localnet" in words for words in _unmet(netns))


def test_the_doctor_knows_kube_proxys_limit(
    tracking: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    examination = Examination(tracking, "nftables")
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    limit = _limit(tracking)
    (finding,) = _conntrack(examination)
    assert (finding.level is Level.OK) == (limit >= 131072)
    monkeypatch.setattr("os.cpu_count", lambda: limit)
    (finding,) = _conntrack(examination)
    assert finding.level is Level.WARN
    assert f"sysctl -w net.netfilter.nf_conntrack_max={limit * 32768}" in finding.todo
