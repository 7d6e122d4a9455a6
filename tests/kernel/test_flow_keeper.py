"""UDP flows made by real packets, and which of them a change through the keeper ends."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from netplane.agent.changes import ClusterChange, ObjectKey
from netplane.agent.cluster_state import ClusterState
from netplane.agent.flow_keeper import FlowKeeper
from netplane.agent.keeper import Keeper, Kept
from netplane.apply.conntrack import flows
from netplane.apply.follow_up import FollowUp
from netplane.apply.modes import open_engine
from netplane.apply.netns import Namespace
from netplane.apply.sync import view_for
from netplane.config import Config, Setting, resolve
from netplane.core.model.address import Family
from netplane.errors import ApplyError, BusyError
from tests.support.host_iptables import break_program, use_iptables
from tests.support.manifests import Object, endpoint_slice, service
from tests.support.netns import ip, run_tool
from tests.support.snapshots import cluster_change

pytestmark = pytest.mark.kernel

_T = TypeVar("_T")
_DNS = "172.30.0.53"
# Somebody else's rules that make the kernel track connections, whatever becomes of ours.
_TRACKING = "table ip t { chain c { type filter hook output priority 0; ct state new counter; }; }"
_PORTS = ({"name": "dns", "port": 53, "protocol": "UDP"},)


@pytest.fixture(params=["iptables", "nftables"])
def config(request: pytest.FixtureRequest) -> Config:
    asked = {"mode": Setting(request.param, "flag"), "node_name": Setting("node-1", "flag")}
    return resolve(None, asked, host_name="node-1")


@pytest.fixture
def node(netns: Namespace) -> Namespace:
    """A namespace from which the Services can be asked for; their endpoints are its own."""
    lines = [f"addr add 10.244.1.{host}/32 dev lo" for host in (7, 8)]
    lines += ["link add out0 type veth peer name out1", "link set out1 up"]
    lines += ["addr add 192.0.2.1/24 dev out0", "link set out0 up"]
    ip("-n", str(netns), batch=[*lines, "route add 172.30.0.0/16 dev out0"])
    return netns


def _dns() -> Object:
    return service("dns", cluster_ips=[_DNS], ports=_PORTS)


def _ends(*addresses: str) -> Object:
    return endpoint_slice("dns", addresses, ports=_PORTS)


@contextlib.contextmanager
def _asking(node: Namespace) -> Iterator[Callable[[], None]]:
    """A client that asks the Service again and again, from one port."""
    with node.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
        client.bind(("192.0.2.1", 0))

        def ask() -> None:
            with contextlib.suppress(ConnectionRefusedError, PermissionError):
                client.sendto(b"?", (_DNS, 53))

        yield ask


def _answering(node: Namespace) -> list[str]:
    """Where the flows to the Service go."""
    return [f.answers for f in flows(node, Family.IPV4) if f.destination == _DNS]


def _kept(keeper: Keeper, change: ClusterChange | None = None, *, look: bool = False) -> Kept:
    if change is not None:
        keeper.take(change)
    kept = keeper.keep(look=look)
    assert kept.after.failures == []
    return kept


def test_a_flow_follows_its_service(node: Namespace, config: Config) -> None:
    state = ClusterState("node-1")
    with Keeper(node, config) as keeper, _asking(node) as ask:
        _kept(keeper, cluster_change(state, _dns(), _ends("10.244.1.7")), look=True)
        ask()
        assert _answering(node) == ["10.244.1.7"]
        kept = _kept(keeper, cluster_change(state, _ends("10.244.1.7", "10.244.1.8")))
        assert kept.after.flows == [], "an endpoint more is no reason to end a flow"
        kept = _kept(keeper, cluster_change(state, _ends("10.244.1.8")))
        assert [flow.answers for flow in kept.after.flows] == ["10.244.1.7"]
        assert Family.IPV4 in kept.flow_seconds
        ask()
        assert _answering(node) == ["10.244.1.8"]


def test_a_flow_from_before_the_first_endpoint_is_ended(node: Namespace, config: Config) -> None:
    state = ClusterState("node-1")
    with Keeper(node, config) as keeper, _asking(node) as ask:
        _kept(keeper, look=True)  # from here on the kernel tracks connections
        ask()  # nobody translates it: it leaves the node, and its entry would stay for ever
        assert _answering(node) == [_DNS]
        _kept(keeper, cluster_change(state, _dns()), look=True)
        _kept(keeper, cluster_change(state, _ends("10.244.1.7")))
        assert _answering(node) == []
        ask()
        assert _answering(node) == ["10.244.1.7"]


def test_a_flow_to_a_deleted_service_is_ended(node: Namespace, config: Config) -> None:
    state = ClusterState("node-1")
    with Keeper(node, config) as keeper, _asking(node) as ask:
        _kept(keeper, cluster_change(state, _dns(), _ends("10.244.1.7")), look=True)
        ask()
        for kind, name in (("Service", "dns"), ("EndpointSlice", "dns-ipv4")):
            state.delete(ObjectKey(kind, "default", name))
        kept = _kept(keeper, state.take())
        assert [flow.answers for flow in kept.after.flows] == ["10.244.1.7"]
        assert _answering(node) == []


def test_a_packet_on_its_way_while_the_rules_changed_is_found_by_the_next_look(
    node: Namespace, config: Config
) -> None:
    state = ClusterState("node-1")
    with Keeper(node, config) as keeper, _asking(node) as ask:
        _kept(keeper, cluster_change(state, _dns(), _ends("10.244.1.7")), look=True)
        ask()
        _kept(keeper, cluster_change(state, _ends("10.244.1.8")))
        _translated_late(node)
        assert _answering(node) == ["10.244.1.7"]
        assert _kept(keeper).after.flows == [], "without a change nothing is judged"
        kept = _kept(keeper, look=True)
        assert [flow.answers for flow in kept.after.flows] == ["10.244.1.7"]
        assert _kept(keeper, look=True).flow_seconds == {}, "nothing is owed any more"


def _translated_late(node: Namespace) -> None:
    """An entry as a packet makes it that had met the old rules already."""
    entry = f"-I -p udp -s 192.0.2.1 -d {_DNS} --sport 5353 --dport 53 -r 10.244.1.7 -q 192.0.2.1"
    reply = "--reply-port-src 8080 --reply-port-dst 5353 --timeout 600"
    run_tool(["conntrack", *entry.split(), *reply.split()], inside=node)


def test_a_flow_that_began_while_the_rules_were_gone_is_ended(
    node: Namespace, config: Config
) -> None:
    flush = "nft flush table ip netplane" if config.mode == "nftables" else "iptables -t nat -F"
    run_tool(["nft", _TRACKING], inside=node)
    state = ClusterState("node-1")
    with Keeper(node, config) as keeper, _asking(node) as ask:
        _kept(keeper, cluster_change(state, _dns(), _ends("10.244.1.7")), look=True)
        _kept(keeper, look=True)
        run_tool(flush.split(), inside=node)
        ask()
        assert _answering(node) == [_DNS], "nobody translated it"
        kept = _kept(keeper, look=True)
        assert [flow.answers for flow in kept.after.flows] == [_DNS]
        ask()
        assert _answering(node) == ["10.244.1.7"]


def test_a_flow_that_began_when_half_was_written_is_ended(
    node: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IPv4 was written, IPv6 failed, and then all is wanted as it was: no plan is another."""
    use_iptables("nft", tmp_path, monkeypatch)
    asked = {"mode": Setting("iptables", "flag"), "node_name": Setting("node-1", "flag")}
    config = resolve(None, asked, host_name="node-1")
    state = ClusterState("node-1")
    dns = service("dns", cluster_ips=[_DNS, "fd00:30::53"], ports=_PORTS)

    def ends(host: int) -> ClusterChange:
        addresses = {"IPv4": f"10.244.1.{host}", "IPv6": f"fd00:244::{host}"}
        slices = [endpoint_slice("dns", [a], ports=_PORTS, family=f) for f, a in addresses.items()]
        return cluster_change(state, dns, *slices)

    with Keeper(node, config) as keeper, _asking(node) as ask:
        _kept(keeper, ends(7), look=True)
        _kept(keeper, look=True)
        program = break_program(tmp_path, "ip6tables-nft-restore")
        keeper.take(ends(8))
        with pytest.raises(ApplyError):
            keeper.keep(look=False)
        ask()
        assert _answering(node) == ["10.244.1.8"]
        program.unlink()
        _kept(keeper, ends(7))
        kept = _kept(keeper, look=True)
        assert [flow.answers for flow in kept.after.flows] == ["10.244.1.8"]
        assert _kept(keeper, look=True).flow_seconds == {}, "nothing is owed any more"


class _Reluctant(Namespace):
    """A namespace whose kernel is busy as often as is said."""

    def __init__(self, other: Namespace) -> None:
        super().__init__(other.name)
        self._other = other
        self.refusals = 0

    def call(self, function: Callable[[], _T]) -> _T:
        if self.refusals:
            self.refusals -= 1
            raise BusyError("the kernel is short of memory")
        return self._other.call(function)


def test_what_failed_is_tried_again_until_it_is_done(node: Namespace, config: Config) -> None:
    state = ClusterState("node-1")
    change = cluster_change(state, _dns(), _ends("10.244.1.7"))
    view = view_for(config, None, tuple)
    reluctant = _Reluctant(node)
    keeper = FlowKeeper(reluctant)
    with open_engine(config.mode, node, view) as engine, _asking(node) as ask:
        keeper.clean(
            engine.planner,
            engine.change(change.services, change.slices),
            FollowUp(),
            everything=True,
        )
        assert not keeper.owed
        ask()
        change = cluster_change(state, _ends("10.244.1.8"))
        reluctant.refusals = 2
        after = FollowUp()
        applied = engine.change(change.services, change.slices)
        keeper.clean(engine.planner, applied, after, everything=False)
        assert after.failures
        assert keeper.owed
        assert _answering(node) == ["10.244.1.7"]
        reluctant.refusals = 0
        after = FollowUp()
        keeper.clean(engine.planner, engine.verify(), after, everything=True)
        assert after.failures == []
        assert _answering(node) == []
        assert not keeper.owed
