"""The agent as a service manager has it: it says when it is ready, lives, and ends."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from netplane.apply.netns import Namespace
from tests.support.agent_process import HEALTH_PORT, running_agent
from tests.support.eventually import DEADLINE, eventually
from tests.support.kernel_state import ruleset
from tests.support.manifests import endpoint_slice, kube_list, node, service
from tests.support.netns import require
from tests.support.owned_table import owned_table

pytestmark = [pytest.mark.kernel, pytest.mark.e2e]


def test_it_says_ready_once_the_rules_are_there(netns: Namespace, tmp_path: Path) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    content = kube_list(node("node-1", ip="192.0.2.1"), service("web"), endpoint_slice("web"))
    (folder / "state.json").write_bytes(content)
    said: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(0)

        def hears(word: str) -> bool:
            try:
                while True:
                    said.append(manager.recv(4096).decode())
            except BlockingIOError:
                return word in said

        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"}
        options = ["-f", str(folder), "--mode", "nftables"]
        log = tmp_path / "said.log"
        with owned_table(netns, "nftables") as _unwritable:
            agent = running_agent(netns, log, *options, environment=environment)
            with agent as running:
                running.until(lambda: hears("WATCHDOG=1"))
                running.until(lambda: "could not be written" in running.said)
                assert not hears("READY=1"), "nothing is verified yet"
                _unwritable()
                running.until(lambda: hears("READY=1"))
                assert "172.30.0.10" in ruleset(netns)
                heard = said.count("WATCHDOG=1")
                running.until(lambda: hears("") or said.count("WATCHDOG=1") > heard + 2)
                assert any(line.startswith("STATUS=") for line in said)
                assert running.said.startswith("netplane: notice: the agent has started")
                assert running.said.count("kind=in-step") == 1, "said though -v was not"
        eventually(lambda: hears("STOPPING=1"))


def test_what_strangers_send_to_its_ports_leaves_no_line(netns: Namespace, tmp_path: Path) -> None:
    """Anybody reaches the health port: a log is ours to fill, and every line of it is JSON."""
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "state.json").write_bytes(kube_list(service("web")))
    options = ["-f", str(folder), "--mode", "nftables", "--log-format", "json", "-v"]
    with running_agent(netns, tmp_path / "said.log", *options) as agent:
        agent.until(lambda: agent.healthy)
        for request in (b"GET / HTTP/1.1\r\n\r\n", b"GET /?\xff HTTP/1.1\r\nHost: a\r\n\r\n"):
            with netns.call(
                lambda: socket.create_connection(("127.0.0.1", HEALTH_PORT), timeout=DEADLINE)
            ) as stranger:
                stranger.sendall(request)
                assert b" 400 " in stranger.recv(4096)
    lines = [json.loads(line) for line in agent.said.splitlines()]
    assert "written" in {line["kind"] for line in lines}
    assert not [line for line in lines if "request" in line["message"]]


def test_many_health_check_ports_need_no_higher_limit_from_outside(
    netns: Namespace, tmp_path: Path
) -> None:
    """A soft limit on open files, 1024 nearly everywhere, is as good as none at 500 Services."""
    folder = tmp_path / "manifests"
    folder.mkdir()
    ports = range(20000, 20040)
    services = [
        service(
            f"web-{port}",
            cluster_ips=[f"172.30.9.{port - 19999}"],
            type="LoadBalancer",
            externalTrafficPolicy="Local",
            healthCheckNodePort=port,
        )
        for port in ports
    ]
    (folder / "state.json").write_bytes(kube_list(*services))
    options = ["-f", str(folder), "--mode", "iptables"]
    few = ("prlimit", "--nofile=64:")
    with running_agent(netns, tmp_path / "said.log", *options, prefix=few) as agent:
        agent.until(lambda: agent.get("/", port=ports[-1]).status == 503)
        assert {agent.get("/", port=port).status for port in ports} == {503}
        assert "health-check-port" not in agent.said


def _install(*options: str) -> subprocess.CompletedProcess[str]:
    """Install the unit where nobody else sees it; of a program that is not in /tmp."""
    netplane = f"/mnt/bin/{Path(sys.executable).name} -m netplane agent --install-systemd"
    mounts = 'mount --bind "$0" /mnt && mount -t tmpfs none /etc'
    script = f'{mounts} && exec {netplane} --node node-1 "$@"'
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, sys.prefix, *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )


def test_a_unit_without_a_source_is_told_of_when_it_is_installed() -> None:
    """It would start anew each second, for ever, and say so where nobody looks yet."""
    require()
    done = _install()
    assert (done.returncode, "netplane-agent.service" in done.stdout) == (0, True)
    assert "neither --kubeconfig FILE nor -f DIR" in done.stderr
    assert "warning" not in _install("--kubeconfig", "/etc/kubernetes/netplane.conf").stderr
    assert _install("-f", "/srv", "--kubeconfig", "/etc/x").returncode == 2


_BROKEN = """
import tests.support.flooded_agent as flooded

class Broken(flooded.Flood):
    async def run(self):
        raise RuntimeError("a fault of ours")

flooded.Flood = Broken
flooded.main()
"""


def test_a_source_that_ends_ends_the_agent(netns: Namespace) -> None:
    """A service manager starts it anew; one that hears nothing would keep a stale node."""
    argv = [sys.executable, "-c", _BROKEN, "nftables"]
    done = netns.call(
        lambda: subprocess.run(argv, capture_output=True, text=True, check=False, timeout=DEADLINE)
    )
    assert done.returncode == 1
    assert "a fault of ours" in done.stderr
