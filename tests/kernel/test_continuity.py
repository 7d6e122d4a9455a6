"""New connections go on, and none fails, while an agent ends, starts, changes mode or takes over.

A generator opens connections to a ClusterIP and to a NodePort all the time. One counts when it was
answered by an endpoint without a packet sent again; so a rule that is away for a moment is seen.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from netplane.apply.foreign import find_kube_proxy
from netplane.apply.netns import Namespace
from tests.support.command import run_netplane
from tests.support.directory_agent import DirectoryAgent, new_agent
from tests.support.eventually import eventually
from tests.support.kernel_state import meaning, ruleset
from tests.support.kube_proxy import Served, leave_iptables, leave_nftables
from tests.support.load import Load, new_load
from tests.support.load_generator import Target
from tests.support.manifests import Object, endpoint_slice, kube_list, node, service
from tests.support.netns import run_tool
from tests.support.scenario import MODES, Mode
from tests.support.topology import Addresses, new_topology

pytestmark = [pytest.mark.kernel, pytest.mark.e2e]

NODE = "192.0.2.1"
CLUSTER_IP = "172.30.0.10"
NODE_PORT = 30080
ENDPOINTS = ("10.244.1.7", "10.244.1.8", "10.244.2.7")
CLUSTER_CIDR = "10.244.0.0/16"
SERVICE_CIDR = "172.30.0.0/16"
OPTIONS = ("--cluster-cidr", CLUSTER_CIDR, "--service-cidr", SERVICE_CIDR)
OTHERS = 20  # Services besides the one that is called
SERVED = Served("default/web", CLUSTER_IP, 80, NODE_PORT, ENDPOINTS)
PROJECT = Path(__file__).parents[2]


class Amount(NamedTuple):
    """How many connections across each story, and how many a second at the most."""

    connections: int
    rate: float


@pytest.fixture(
    params=[
        pytest.param(Amount(300, 250.0), id="short"),
        pytest.param(Amount(10_000, 1500.0), id="soak", marks=pytest.mark.soak),
    ]
)
def amount(request: pytest.FixtureRequest) -> Amount:
    assert isinstance(request.param, Amount)
    return request.param


def _cluster(*, changed: bool = False) -> list[Object]:
    """The Service that is called, and others; ``changed``, some of the others are different."""
    objects = [
        node("node-1", ip=NODE),
        service(
            "web",
            cluster_ips=[CLUSTER_IP],
            type="NodePort",
            ports=[{"name": "http", "port": 80, "nodePort": NODE_PORT}],
        ),
        endpoint_slice("web", ENDPOINTS),
    ]
    for number in range(OTHERS):
        hosts = (1, 3) if changed and number % 2 else (1, 2, 4)
        objects += [
            service(f"other-{number}", cluster_ips=[f"172.30.1.{number + 1}"]),
            endpoint_slice(f"other-{number}", [f"10.244.{host}.{number + 100}" for host in hosts]),
        ]
    return objects


class Stage(NamedTuple):
    """A node under load, and its agent."""

    node: Namespace
    agent: DirectoryAgent
    load: Load


@contextmanager
def _stage(
    mode: Mode,
    folder: Path,
    amount: Amount,
    *,
    before: Callable[[Namespace], None] | None = None,
) -> Iterator[Stage]:
    """A node that serves: by its agent, or by what ``before`` has left there."""
    endpoints = frozenset(f"{address}:8080" for address in ENDPOINTS)
    targets = [
        Target(
            name="ClusterIP",
            source="10.244.1.99",
            address=CLUSTER_IP,
            port=80,
            endpoints=endpoints,
            held=2,
        ),
        Target(
            name="NodePort",
            source="198.51.100.9",
            address=NODE,
            port=NODE_PORT,
            endpoints=endpoints,
            held=2,
        ),
    ]
    addresses = Addresses(node=(NODE,), pods=("10.244.1.0/24",))
    with (
        new_topology(addresses) as topology,
        new_agent(topology.node, folder, mode, *OPTIONS) as agent,
    ):
        agent.write("state", *_cluster())
        if before is None:
            agent.start()
        else:
            before(topology.node)
        with new_load(topology.world, targets, rate=amount.rate) as load:
            yield Stage(topology.node, agent, load)
            load.go_on(50)
            assert load.assert_whole().held == 4


def _say(what: str, made: int) -> None:
    print(f"{what}: {made} connections, 0 failures")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("mode", MODES)
def test_restart(mode: Mode, how: signal.Signals, amount: Amount, tmp_path: Path) -> None:
    with _stage(mode, tmp_path, amount) as (netns, agent, load):
        whole = ruleset(netns)

        def restart() -> None:
            assert agent.end(how) == (0 if how is signal.SIGTERM else -how)
            assert ruleset(netns) == whole, "on exit the rules stay"
            agent.start()
            assert ruleset(netns) == whole, "rules of an earlier life are adopted"

        _say(f"{mode} {how.name}", load.across(restart, at_least=amount.connections))


def test_mode_switch(amount: Amount, tmp_path: Path) -> None:
    with _stage("iptables", tmp_path, amount) as (netns, agent, load):

        def switch() -> None:
            for mode, gone in (("nftables", "KUBE-SVC"), ("iptables", "table ip netplane")):
                agent.end()
                agent.mode = mode
                agent.start()
                assert gone not in ruleset(netns), "the other mode's rules go last"

        _say("there and back", load.across(switch, at_least=amount.connections))


@pytest.mark.parametrize("mode", MODES)
def test_upgrade(mode: Mode, amount: Amount, tmp_path: Path) -> None:
    """An older netplane, whose templates say the same in other rules, and the new one in turn."""
    older = _older(tmp_path / "older")
    with _stage(mode, tmp_path, amount) as (netns, agent, load):
        new, ways = meaning(netns), (str(older), str(PROJECT))

        def upgrade() -> None:
            for path in ways:
                agent.end()
                agent.environment["PYTHONPATH"] = path
                agent.start()
                assert (meaning(netns) == new) is (path == ways[-1])

        _say(f"{mode} upgrade", load.across(upgrade, at_least=amount.connections))


def _older(folder: Path) -> Path:
    """A copy of the program with rules of another text, but the same sense."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PROJECT / "netplane", folder / "netplane", ignore=ignored)
    shutil.copytree(PROJECT / "templates", folder / "templates", ignore=ignored)
    _edit(folder / "templates/nftables/program.nft.j2", "netplane layout", "netplane LAYOUT")
    _edit(
        folder / "templates/iptables/service-port.j2", "masquerade traffic", "MASQUERADE traffic"
    )
    _edit(folder / "templates/iptables/service-port.j2", "cluster IP", "CLUSTER IP")
    return folder


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{path.name} has no {old!r} to edit"
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize("left", ["iptables", "nft"])
@pytest.mark.parametrize("mode", MODES)
def test_take_over(mode: Mode, left: str, amount: Amount, tmp_path: Path) -> None:
    def leave(netns: Namespace) -> None:
        if left == "iptables":
            leave_iptables(netns, SERVED, cluster_cidr=CLUSTER_CIDR)
        else:
            leave_nftables(netns, SERVED, cluster_cidr=CLUSTER_CIDR, service_cidr=SERVICE_CIDR)

    with _stage(mode, tmp_path, amount, before=leave) as (netns, agent, load):
        assert find_kube_proxy(netns)

        def take_over() -> None:
            agent.options = [*OPTIONS, "--take-over"]
            agent.start()
            eventually(lambda: not find_kube_proxy(netns))
            _assert_same_as_fresh(netns, mode, agent)

        made = load.across(take_over, at_least=0)
        if made < amount.connections:
            load.go_on(amount.connections - made, within=60)
        _say(f"{mode} from kube-proxy {left}", load.made())


def _assert_same_as_fresh(netns: Namespace, mode: Mode, agent: DirectoryAgent) -> None:
    """What is there is what an apply to an empty namespace makes."""
    manifest = str(agent.manifests)
    arguments = ["apply", "-f", manifest, "--mode", mode, "--node", "node-1", *OPTIONS]
    with new_topology(Addresses(node=(NODE,))) as other:
        ran = run_netplane(*arguments, "--netns", str(other.node))
        assert ran.status == 0, str(ran)
        assert meaning(netns) == meaning(other.node)


@pytest.mark.parametrize("mode", MODES)
def test_apply_beside_a_stopped_agent(mode: Mode, amount: Amount, tmp_path: Path) -> None:
    changed = tmp_path / "changed.json"
    changed.write_bytes(kube_list(*_cluster(changed=True)))
    with _stage(mode, tmp_path, amount) as (netns, agent, load):
        whole = meaning(netns)

        def apply() -> None:
            agent.end()
            target = ["--mode", mode, "--node", "node-1", "--netns", str(netns), *OPTIONS]
            ran = run_netplane("apply", "-f", str(changed), *target)
            assert ran.status == 0, str(ran)
            assert meaning(netns) != whole
            agent.start()
            assert meaning(netns) == whole

        _say(f"{mode} apply", load.across(apply, at_least=amount.connections))


@pytest.mark.parametrize("mode", MODES)
def test_rules_stay_until_cleanup(netns: Namespace, mode: Mode, tmp_path: Path) -> None:
    with new_agent(netns, tmp_path, mode, *OPTIONS) as agent:
        agent.write("state", *_cluster())
        agent.start()
        assert agent.end() == 0
    assert CLUSTER_IP in ruleset(netns)
    ran = run_netplane("cleanup", "--netns", str(netns))
    assert ran.status == 0, str(ran)
    left = run_tool(["nft", "list", "ruleset"], inside=netns)
    assert "KUBE-" not in left
    assert "netplane" not in left
