"""What a run may cost, in counts: they are the same on every machine, seconds are not.

Processes are counted by a directory of wrappers at the head of PATH, one for each of the kernel's
tools, which note that they were called and become the tool.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink.socket import NfnetlinkSocket
from netplane.apply.tools import find
from tests.support.manifests import endpoint_slice, kube_list, service

pytestmark = [pytest.mark.kernel, pytest.mark.e2e]

_SERVICES = 2000
_SHOWN = 50
_TOOLS = (
    "nft", "conntrack", "ip", "sysctl", "modprobe",
    *(
        f"{program}{variant}{verb}"
        for program in ("iptables", "ip6tables")
        for variant in ("", "-nft", "-legacy")
        for verb in ("", "-save", "-restore")
    ),
)  # fmt: skip
_CHILD = """
import sys
from netplane.cli.main import main
status = main(sys.argv[1:])
print(*sorted(sys.modules), sep="\\n", file=sys.stderr)
sys.exit(status)
"""
#: Nothing of these is needed to apply a state in JSON, printed to no terminal.
_HEAVY = {"asyncio", "iptc", "pyroute2", "rich", "yaml"}

Apply = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Services of two endpoints each; one is for UDP."""
    objects = []
    for number in range(_SERVICES):
        name, high, low = f"s{number}", number >> 8, number & 255
        ports = [{"name": "http", "port": 80, "protocol": "TCP" if number else "UDP"}]
        objects.append(service(name, cluster_ips=(f"172.30.{high}.{low}",), ports=ports))
        addresses = (f"10.1.{high}.{low}", f"10.2.{high}.{low}")
        objects.append(endpoint_slice(name, addresses, ports=ports))
    path = tmp_path_factory.mktemp("state") / "state.json"
    path.write_bytes(kube_list(*objects))
    return path


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """Where the wrappers note the tools that were called, a line each."""
    directory = tmp_path / "bin"
    directory.mkdir()
    noted = tmp_path / "calls"
    noted.touch()
    for tool in filter(find, _TOOLS):
        wrapper = directory / tool
        wrapper.write_text(
            f'#!/bin/sh\necho "{tool} $*" >> {shlex.quote(str(noted))}\nexec {find(tool)} "$@"\n',
            encoding="utf-8",
        )
        wrapper.chmod(0o755)
    return noted


@pytest.fixture
def apply(netns: Namespace, state: Path, calls: Path) -> Apply:
    """Applies the state in a process of its own; its modules are on stderr."""

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        path = f"{calls.parent / 'bin'}{os.pathsep}{os.environ['PATH']}"
        target = ["-f", str(state), "--netns", str(netns), "--node", "n"]
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, "apply", *target, *arguments],
            env={**os.environ, "PATH": path},
            capture_output=True,
            check=False,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done

    return call


def _called(calls: Path) -> list[str]:
    """The tools called since this was last asked, each with what was asked of it."""
    found = calls.read_text(encoding="utf-8").splitlines()
    calls.write_text("", encoding="utf-8")
    return found


def _generation(netns: Namespace) -> int:
    with NfnetlinkSocket(netns) as link:
        return link.generation()


def test_nftables_mode_starts_nft_alone(apply: Apply, calls: Path, netns: Namespace) -> None:
    apply("--mode", "nftables")
    called = _called(calls)
    assert called.count("nft -f -") <= 1
    assert set(called) <= {"nft -f -", "nft --version"}
    before = _generation(netns)
    assert apply("--mode", "nftables").stdout == "no change\n"
    called = _called(calls)
    assert len(called) <= 3  # its version, and a table per family
    assert {call.split()[0] for call in called} <= {"nft"}
    assert _generation(netns) == before


def test_iptables_mode_starts_its_own_programs_alone(apply: Apply, calls: Path) -> None:
    apply("--mode", "iptables")
    # One per family, and where none of our jumps is there another, which must say the same.
    assert Counter(map(_kind, _called(calls)))["save"] == 4
    assert apply("--mode", "iptables").stdout == "no change\n"
    again = Counter(map(_kind, _called(calls)))
    assert again["save"] == 2
    assert again["version"] <= 1
    assert again.total() <= 3


def _kind(call: str) -> str:
    """``save`` or ``restore``, or else what a program of iptables was asked."""
    program, _, arguments = call.partition(" ")
    assert program.startswith(("iptables", "ip6tables")), call
    verb = program.rpartition("-")[2]
    return verb if verb in {"save", "restore"} else arguments.strip("-")


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_nothing_heavy_is_imported(apply: Apply, mode: str) -> None:
    other = {"iptables": "nftables", "nftables": "iptables"}[mode]
    for _ in ("something to do", "nothing to do"):
        modules = set(apply("--mode", mode).stderr.splitlines())
        assert "netplane.apply.sync" in modules
        assert not modules & {*_HEAVY, f"netplane.apply.{other}.mode"}


def test_what_is_printed_is_bounded(apply: Apply) -> None:
    lines = apply("--mode", "nftables").stdout.splitlines()
    assert sum(line.startswith("+ default/s") for line in lines) == _SHOWN
    assert lines[_SHOWN] == f"... and {_SERVICES - _SHOWN:,} more service ports (-v shows all)"
    assert lines[-1] == f"service ports: {_SERVICES:,} added, 0 removed, 0 changed"
    assert len(lines) < 2 * _SHOWN


def test_a_document_is_complete(apply: Apply) -> None:
    document = json.loads(apply("--mode", "nftables", "-o", "json").stdout)
    assert len(document["services"]) == _SERVICES
    assert all(len(change["endpoints_added"]) == 2 for change in document["services"])
