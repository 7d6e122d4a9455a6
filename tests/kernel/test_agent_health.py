"""Faults while an agent runs: /healthz says so within two periods, and recovers when they end.

The period is a second here, so two of them are the patience with each fault. Times are printed,
and the deadline is one that a busy machine can keep; what is judged is that the answer turns, that
its reasons name the fault, that the agent stays alive, and that in the end the node is as wanted.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from netplane.agent.telling.ledger import State
from netplane.agent.telling.status import ask_agent
from netplane.apply.netns import Namespace
from netplane.apply.tools import find
from tests.support.agent_process import get_inside
from tests.support.command import run_netplane
from tests.support.directory_agent import DirectoryAgent, new_agent
from tests.support.eventually import eventually
from tests.support.host_iptables import Variant, break_program, use_iptables
from tests.support.hostile import hostile
from tests.support.kernel_state import ruleset
from tests.support.manifests import endpoint, endpoint_slice, node, service
from tests.support.netns import run_tool
from tests.support.topology import Addresses, new_topology

pytestmark = [pytest.mark.kernel, pytest.mark.e2e]

NODE = "192.0.2.1"
FIRST, SECOND = "10.244.1.7", "10.244.1.8"
CHECK_PORT = 32000
PERIOD = 1.0
RUNS: dict[str, tuple[str, Variant]] = {
    "iptables-nft": ("iptables", "nft"),
    "iptables-legacy": ("iptables", "legacy"),
    "nftables": ("nftables", "nft"),
}


class Stage(NamedTuple):
    """A healthy node.

    Attributes:
        programs: A directory that comes first in the agent's PATH.
    """

    netns: Namespace
    agent: DirectoryAgent
    programs: Path

    def turn_to(self, address: str) -> None:
        """Give the Service another endpoint."""
        self.agent.write("web", *_web(address))


def _web(address: str) -> list[dict[str, object]]:
    return [
        service(
            "web",
            type="LoadBalancer",
            ports=[{"name": "http", "port": 80, "nodePort": 30080}],
            externalTrafficPolicy="Local",
            healthCheckNodePort=CHECK_PORT,
        ),
        endpoint_slice("web", [endpoint(address, node="node-1")]),
    ]


@contextmanager
def _stage(run: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    mode, variant = RUNS[run]
    programs = folder / "programs"
    programs.mkdir()
    use_iptables(variant, programs, monkeypatch)
    config = folder / "config.yaml"
    config.write_text(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
        f"iptables:\n  syncPeriod: {PERIOD:.0f}s\nnftables:\n  syncPeriod: {PERIOD:.0f}s\n",
        encoding="utf-8",
    )
    with (
        new_topology(Addresses(node=(NODE,))) as topology,
        new_agent(topology.node, folder, mode, "--config", str(config)) as agent,
    ):
        agent.environment["XTABLES_LOCKFILE"] = str(folder / "xtables.lock")
        agent.write("node", node("node-1", ip=NODE))
        stage = Stage(topology.node, agent, programs)
        stage.turn_to(FIRST)
        agent.start()
        yield stage


class Fault(NamedTuple):
    """Something that keeps the node from being what it should be, for as long as it lasts.

    Attributes:
        inject: Made and ended around the time that it lasts.
        reason: What /healthz must say of it.
    """

    inject: Callable[[Stage], AbstractContextManager[object]]
    reason: str


@contextmanager
def _tool_fails(stage: Stage) -> Iterator[None]:
    """The program that writes fails, and there is something to write."""
    nftables = stage.agent.mode == "nftables"
    nft = find("nft")
    assert nft is not None
    variant = "legacy" if "legacy" in str((stage.programs / "iptables").readlink()) else "nft"
    names = ["nft"] if nftables else [f"iptables-{variant}-restore", "iptables-restore"]
    healthy = {name: (stage.programs / name).resolve() for name in names}
    for name in names:
        break_program(stage.programs, name)
    if nftables:  # a change of endpoints takes netlink alone; to read an edited program takes nft
        run_tool([nft, "flush", "chain", "ip", "netplane", "balance"], inside=stage.netns)
    stage.turn_to(SECOND)
    yield
    for name, target in healthy.items():
        (stage.programs / name).unlink()
        if target.parent != stage.programs:
            (stage.programs / name).symlink_to(target)


@contextmanager
def _lock_held(stage: Stage) -> Iterator[None]:
    """Somebody holds the lock of the legacy tables."""
    with Path(stage.agent.environment["XTABLES_LOCKFILE"]).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stage.turn_to(SECOND)
        yield


@contextmanager
def _native_rules(stage: Stage) -> Iterator[None]:
    """A native rule where ours are, so that iptables cannot show the table any more."""
    chain = "chain ip nat KUBE-INTRUDER"
    rule = "add rule ip nat KUBE-INTRUDER meta l4proto tcp ct mark set 3"
    run_tool(["nft", f"add {chain}; {rule}"], inside=stage.netns)
    yield
    run_tool(["nft", f"flush {chain}; delete {chain}"], inside=stage.netns)


@contextmanager
def _table_owned(stage: Stage) -> Iterator[None]:
    """A process has made our table its own, so nobody else may write to it."""
    nft = find("nft")
    assert nft is not None

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([nft, "-i"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)

    with stage.netns.call(start) as owner:
        assert owner.stdin is not None
        owner.stdin.write(b"delete table ip netplane; add table ip netplane { flags owner; }\n")
        owner.stdin.flush()
        eventually(lambda: "owner" in ruleset(stage.netns))
        yield
        owner.stdin.close()


@contextmanager
def _pest(stage: Stage) -> Iterator[None]:
    """Somebody puts elements into our table, and takes them out, all the time."""
    with hostile(stage.netns, "netplane", "cluster-ips", rate=50):
        yield


@contextmanager
def _directory_gone(stage: Stage) -> Iterator[None]:
    """The directory of manifests is away."""
    away = stage.agent.manifests.with_name("away")
    stage.agent.manifests.rename(away)
    yield
    away.rename(stage.agent.manifests)
    stage.turn_to(SECOND)


@contextmanager
def _kube_proxy(stage: Stage) -> Iterator[None]:
    """A kube-proxy has started beside the agent."""
    if stage.agent.mode == "nftables":
        run_tool(["nft", "add table ip kube-proxy"], inside=stage.netns)
        yield
        run_tool(["nft", "delete table ip kube-proxy"], inside=stage.netns)
        return
    canary = ["iptables", "-w", "5", "-t", "mangle"]
    run_tool([*canary, "-N", "KUBE-PROXY-CANARY"], inside=stage.netns)
    yield
    run_tool([*canary, "-X", "KUBE-PROXY-CANARY"], inside=stage.netns)


@contextmanager
def _kube_proxy_again(stage: Stage) -> Iterator[None]:
    """The same beside an agent that was to take over from an earlier one."""
    stage.agent.end()
    stage.agent.options.append("--take-over")
    stage.agent.start()
    with _kube_proxy(stage):
        yield


FAULTS = {
    "tool fails": Fault(_tool_fails, "changes wait"),
    "lock held": Fault(_lock_held, "changes wait"),
    "native rules": Fault(_native_rules, "native nft rules"),
    "table owned": Fault(_table_owned, "changes wait"),
    "pest": Fault(_pest, "somebody damages the rules again and again"),
    "directory gone": Fault(_directory_gone, "the source"),
    "kube-proxy": Fault(_kube_proxy, "a kube-proxy programs this namespace too"),
    "kube-proxy again": Fault(_kube_proxy_again, "a kube-proxy programs this namespace too"),
}
CASES = [
    *(("tool fails", run) for run in RUNS),
    ("lock held", "iptables-legacy"),
    ("native rules", "iptables-nft"),
    ("table owned", "nftables"),
    ("pest", "nftables"),
    ("directory gone", "nftables"),
    ("kube-proxy", "nftables"),
    ("kube-proxy again", "nftables"),
    ("kube-proxy", "iptables-nft"),
    ("kube-proxy", "iptables-legacy"),
]


@pytest.mark.parametrize(("name", "run"), CASES)
def test_a_fault_is_told_and_recovered_from(
    name: str, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = FAULTS[name]
    with _stage(run, tmp_path, monkeypatch) as stage:
        agent = stage.agent
        with fault.inject(stage):
            told = agent.await_health(503)
            eventually(lambda: fault.reason in agent.reasons())
            check = get_inside(stage.netns, CHECK_PORT, address=NODE)
            assert check.status == 503
            assert check.document()["serviceProxyHealthy"] is False
        recovered = agent.await_health(200)
        print(f"{name}, {run}: told after {told:.1f} s, well again after {recovered:.1f} s")
        assert agent.is_alive
        if SECOND.encode() in (agent.manifests / "web.json").read_bytes():
            eventually(
                lambda: SECOND in ruleset(stage.netns) and FIRST not in ruleset(stage.netns)
            )
        assert get_inside(stage.netns, CHECK_PORT, address=NODE).status == 200


@pytest.mark.parametrize("run", ["nftables", "iptables-nft"])
def test_faults_of_others_that_do_no_harm(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken manifest, and a foreign rule that leads to a chain of ours which has to go."""
    with _stage(run, tmp_path, monkeypatch) as stage:
        agent = stage.agent
        agent.write_raw("other", b'{"kind": "List", "items": [')
        eventually(lambda: "other.json" in agent.said())
        agent.write_raw("other", b"\x00\xff")
        _lead_to_ours(stage)
        stage.turn_to(SECOND)
        eventually(lambda: SECOND in ruleset(stage.netns) and FIRST not in ruleset(stage.netns))
        agent.await_health(200)
        agent.remove("other")
        agent.await_health(200)


def _lead_to_ours(stage: Stage) -> None:
    if stage.agent.mode == "nftables":
        run_tool(["nft", "add chain ip netplane intruder"], inside=stage.netns)
        run_tool(["nft", "add rule ip netplane intruder jump pick-1"], inside=stage.netns)
        return
    saved = run_tool(["iptables-save", "-t", "nat"], inside=stage.netns)
    chain = next(line.split()[0][1:] for line in saved.splitlines() if line[:9] == ":KUBE-SEP")
    run_tool(
        ["iptables", "-t", "nat", "-A", "OUTPUT", "-p", "137", "-j", chain], inside=stage.netns
    )


@pytest.mark.parametrize("run", ["nftables"])
def test_a_health_check_port_that_somebody_has_is_tried_again(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = CHECK_PORT + 1
    with _stage(run, tmp_path, monkeypatch) as stage:
        with contextlib.closing(stage.netns.call(lambda: socket.create_server((NODE, other)))):
            stage.agent.write(
                "more",
                service(
                    "more",
                    cluster_ips=["172.30.0.11"],
                    type="LoadBalancer",
                    ports=[{"name": "http", "port": 80, "nodePort": 30081}],
                    externalTrafficPolicy="Local",
                    healthCheckNodePort=other,
                ),
                endpoint_slice("more", [endpoint("10.244.1.9", node="node-1")]),
            )
            eventually(lambda: "cannot listen on" in stage.agent.said())
            assert get_inside(stage.netns, CHECK_PORT, address=NODE).status == 200, (
                "the other one is served"
            )
            stage.agent.await_health(200)
            told = run_netplane("status", "--netns", str(stage.netns)).stdout
            assert "default/more: cannot listen on" in told
            stage.agent.write("unrelated", service("unrelated", cluster_ips=["172.30.0.12"]))
            eventually(lambda: "172.30.0.12" in ruleset(stage.netns))
            assert stage.agent.said().count("cannot listen on") == 1, "said once, not each time"
        seconds = eventually(lambda: get_inside(stage.netns, other, address=NODE).status == 200)
        told = run_netplane("status", "--netns", str(stage.netns)).stdout
        assert "cannot listen on" not in told
        print(f"{run}: served {seconds:.1f} s after the port was free")


def test_who_is_told_that_all_is_well_may_ask_every_health_check_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three hundred ports take long enough to open that a port opened later would be missed."""
    count = 300

    def is_programmed() -> bool:
        status = ask_agent(stage.netns)
        assert status is not None
        return len(status.services) == count + 1 and not status.counts[State.PENDING]

    with _stage("nftables", tmp_path, monkeypatch) as stage:
        stage.agent.write("many", *(_checked(number) for number in range(count)))
        eventually(is_programmed, poll=0.002)
        replies = [
            get_inside(stage.netns, CHECK_PORT + 1 + number, address=NODE)
            for number in reversed(range(count))
        ]
        assert {reply.status for reply in replies} == {503}, "answered, and without endpoints"


def _checked(number: int) -> dict[str, object]:
    return service(
        f"checked-{number}",
        type="LoadBalancer",
        cluster_ips=[f"172.30.{1 + number // 200}.{1 + number % 200}"],
        ports=[{"name": "http", "port": 80, "nodePort": 30100 + number}],
        externalTrafficPolicy="Local",
        healthCheckNodePort=CHECK_PORT + 1 + number,
    )
