"""What a pass owes besides the changes it is given: looks, and steps that failed before."""

from __future__ import annotations

from pathlib import Path

import pytest

from netplane.agent.changes import ClusterChange
from netplane.agent.cluster_state import ClusterState
from netplane.agent.keeper import Keeper
from netplane.apply.modes import open_inhabited
from netplane.apply.netns import Namespace
from netplane.config import Config, Mode, Setting, resolve
from netplane.core.model.address import Family
from netplane.core.model.service import ServiceName
from netplane.errors import ConflictError
from tests.support.command import apply_objects
from tests.support.host_iptables import break_program, use_iptables
from tests.support.kernel_state import meaning
from tests.support.manifests import Object, endpoint_slice, node, service
from tests.support.netns import run_tool
from tests.support.scenario import MODES
from tests.support.snapshots import cluster_change

pytestmark = pytest.mark.kernel

_TABLE = "table ip kube-proxy"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a program put is found before the host's."""
    folder = tmp_path / "programs"
    folder.mkdir()
    use_iptables("nft", folder, monkeypatch)
    return folder


def _config(mode: str) -> Config:
    return resolve(None, {"mode": Setting(mode, "flag")}, host_name="node-1")


def _web(address: str) -> list[Object]:
    return [service("web", cluster_ips=["172.30.0.10"]), endpoint_slice("web", [address])]


def _inhabited(netns: Namespace) -> list[str]:
    """The modes with rules of ours; legacy tables stay, empty, once they were asked for."""
    return [name for name, found in open_inhabited(netns) if found.status().installed]


def _with_rules_of_iptables(netns: Namespace) -> None:
    with Keeper(netns, _config("iptables")) as keeper:
        keeper.take(cluster_change(ClusterState("node-1"), *_web("10.244.1.7")))
        assert keeper.keep(look=True).after.failures == []


@pytest.mark.parametrize("mode", MODES)
def test_a_look_looks_though_something_has_changed_too(netns: Namespace, mode: Mode) -> None:
    """Where changes come all the time, every look has one beside it."""
    flush = "nft flush table ip netplane" if mode == "nftables" else "iptables -w 5 -t nat -F"
    state = ClusterState("node-1")
    with Keeper(netns, _config(mode)) as keeper:
        for address in ("10.244.1.8", "10.244.1.7"):
            keeper.take(cluster_change(state, *_web(address)))
            keeper.keep(look=False)
        keeper.take(cluster_change(state, *_web("10.244.1.9")))
        assert not keeper.keep(look=True).applied.mended, "nobody has done anything"
        keeper.take(cluster_change(state, *_web("10.244.1.7")))
        keeper.keep(look=False)
        whole = meaning(netns)
        keeper.take(cluster_change(state, *_web("10.244.1.8")))
        keeper.keep(look=False)
        run_tool(flush.split(), inside=netns)
        keeper.take(cluster_change(state, *_web("10.244.1.7")))
        kept = keeper.keep(look=True)
        assert kept.applied.observed
        assert kept.applied.mended == {Family.IPV4}, (
            "though in nftables mode the change itself came upon it"
        )
        assert meaning(netns) == whole
        assert not keeper.keep(look=True).applied.changes


def test_what_is_not_known_of_the_node_is_told_as_long_as_it_matters(netns: Namespace) -> None:
    state = ClusterState("node-1")
    local = service("web", type="NodePort", externalTrafficPolicy="Local")
    local["spec"]["ports"][0]["nodePort"] = 30080
    with Keeper(netns, _config("nftables")) as keeper:
        keeper.take(cluster_change(state, local, endpoint_slice("web", ["10.244.1.7"])))
        words = [note for note in keeper.keep(look=True).notes if "IPv4" in note]
        assert "1 NodePorts answer on no address" in words[0]
        assert "--cluster-cidr" in words[1]
        keeper.take(cluster_change(state, node("node-1", ip="192.0.2.1")))
        words = [note for note in keeper.keep(look=True).notes if "IPv4" in note]
        assert len(words) == 1
        keeper.take(ClusterChange(services={ServiceName("default", "web"): None}, slices={}))
        assert not [note for note in keeper.keep(look=True).notes if "IPv4" in note]


def test_a_step_that_fails_costs_changes_nothing(netns: Namespace, programs: Path) -> None:
    _with_rules_of_iptables(netns)
    broken = break_program(programs, "iptables-nft-restore")
    state = ClusterState("node-1")
    with Keeper(netns, _config("nftables")) as keeper:
        keeper.take(cluster_change(state, *_web("10.244.1.7")))
        first = keeper.keep(look=True)
        assert first.applied.changes
        assert any("out of order" in failure for failure in first.after.failures), (
            first.after.failures
        )
        assert first.flow_seconds

        keeper.take(cluster_change(state, *_web("10.244.1.8")))
        changed = keeper.keep(look=False)
        assert changed.applied.changes
        assert not changed.after.failures
        assert not changed.flow_seconds, "no UDP Service has changed"

        run_tool(["nft", "add", *_TABLE.split()], inside=netns)
        beside = keeper.keep(look=True)
        assert "kube-proxy" in beside.rival, "one that comes later is told, and ends nothing"
        assert beside.after.failures
        run_tool(["nft", "delete", *_TABLE.split()], inside=netns)

        broken.unlink()
        last = keeper.keep(look=True)
        assert not last.after.failures
        assert last.rival == ""
        assert any("iptables" in line for line in last.after.also), last.after.also
        assert _inhabited(netns) == ["nftables"]
        assert keeper.keep(look=True).after.also == []


@pytest.mark.parametrize("legacy", [False, True], ids=["iptables-nft", "iptables-legacy"])
@pytest.mark.parametrize("mode", MODES)
def test_rules_of_another_mode_that_come_later_are_removed(
    netns: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Mode, legacy: bool
) -> None:
    """As ``netplane apply`` with another --mode, or with the other iptables, leaves them."""
    use_iptables("nft", tmp_path, monkeypatch)
    state = [*_web("10.244.1.8")]
    with Keeper(netns, _config(mode)) as keeper:
        keeper.take(cluster_change(ClusterState("node-1"), *_web("10.244.1.7")))
        assert not keeper.keep(look=True).after.failures
        mine = _inhabited(netns)
        whole = meaning(netns)
        with monkeypatch.context() as other:
            if legacy:
                (folder := tmp_path / "legacy").mkdir()
                use_iptables("legacy", folder, other)
            theirs = "nftables" if mode == "iptables" and not legacy else "iptables"
            apply_objects(netns, theirs, state)
        assert _inhabited(netns) != mine
        kept = keeper.keep(look=True)
        assert not kept.after.failures
        assert any("removed from" in line for line in kept.after.also), kept.after.also
        assert _inhabited(netns) == mine
        assert meaning(netns) == whole
        assert keeper.keep(look=True).after.also == []


@pytest.mark.usefixtures("programs")
def test_what_a_kubelet_or_a_kube_proxy_makes_later_stays(
    netns: Namespace,
) -> None:
    """An old kubelet makes chains of ours once a minute, and a kube-proxy's are the same."""
    chains = ["KUBE-MARK-MASQ", "KUBE-POSTROUTING"]
    with Keeper(netns, _config("nftables")) as keeper:
        keeper.take(cluster_change(ClusterState("node-1"), *_web("10.244.1.7")))
        assert keeper.keep(look=True).after.also == []
        for chain in chains:
            run_tool(["iptables", "-w", "5", "-t", "nat", "-N", chain], inside=netns)
        assert keeper.keep(look=True).after.also == []
        for table, chain in (("mangle", "KUBE-PROXY-CANARY"), ("nat", "KUBE-SERVICES")):
            run_tool(["iptables", "-w", "5", "-t", table, "-N", chain], inside=netns)
        kept = keeper.keep(look=True)
        assert kept.after.also == []
        assert "KUBE-PROXY-CANARY" in kept.rival
        for chain in (*chains, "KUBE-SERVICES"):
            run_tool(["iptables", "-w", "5", "-t", "nat", "-S", chain], inside=netns)


def test_a_take_over_that_fails_is_tried_again_and_then_over(
    netns: Namespace, programs: Path
) -> None:
    chain = ["iptables", "-w", "5", "-t", "mangle", "-N", "KUBE-PROXY-CANARY"]
    run_tool(chain, inside=netns)
    broken = break_program(programs, "iptables-nft")
    with Keeper(netns, _config("nftables"), take_over=True) as keeper:
        keeper.take(cluster_change(ClusterState("node-1"), *_web("10.244.1.7")))
        first = keeper.keep(look=True)
        assert any("out of order" in failure for failure in first.after.failures), (
            first.after.failures
        )
        assert first.rival == "", "it is being taken over"
        broken.unlink()
        second = keeper.keep(look=True)
        assert not second.after.failures
        assert any("KUBE-PROXY-CANARY" in line for line in second.after.also), second.after.also
        run_tool(chain, inside=netns)
        assert "KUBE-PROXY-CANARY" in keeper.keep(look=True).rival


def test_before_the_first_rules_a_kube_proxy_is_left_alone(netns: Namespace) -> None:
    run_tool(["nft", "add", *_TABLE.split()], inside=netns)
    with Keeper(netns, _config("nftables")) as keeper:
        keeper.take(cluster_change(ClusterState("node-1"), *_web("10.244.1.7")))
        with pytest.raises(ConflictError, match="kube-proxy"):
            keeper.keep(look=False)
        assert _inhabited(netns) == []
        run_tool(["nft", "delete", *_TABLE.split()], inside=netns)
        assert keeper.keep(look=False).applied.changes
