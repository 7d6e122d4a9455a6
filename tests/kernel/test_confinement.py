"""What the unit allows is enough: capabilities, memory, system calls."""

from __future__ import annotations

import functools
import re
import shutil
import sys
from pathlib import Path

import pytest

from netplane.agent.delivery import AGENT_UNIT, systemd_files
from netplane.apply.netns import Namespace
from tests.support.netns import run_tool

pytestmark = pytest.mark.kernel

_TOP = Path(__file__).parents[2]
_EXAMPLES = _TOP / "examples"
_SETPRIV = ("setpriv", "--bounding-set=-all,+net_admin", "--inh-caps=-all", "--no-new-privs")
# prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN): what MemoryDenyWriteExecute= means.
_DENY = """
import ctypes, os, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) != 0:
    sys.exit("no PR_SET_MDWE")
os.execv(sys.argv[1], sys.argv[1:])
"""
_LIBRARIES = "import aiohttp.web, prometheus_client, pyroute2, asyncinotify; print('imported')"
_PREPARED = "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet"


def _require(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def _apply(mode: str) -> list[str]:
    options = ["--mode", mode, "--node", "node-1", "--cluster-cidr", "10.244.0.0/16"]
    return [sys.executable, "-m", "netplane", "apply", "-f", str(_EXAMPLES), *options]


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_one_capability_is_enough(mode: str, netns: Namespace) -> None:
    _require("setpriv")
    run_tool(["sh", "-c", _PREPARED], inside=netns)
    run_tool([*_SETPRIV, *_apply(mode)], inside=netns)
    assert "no change" in run_tool([*_SETPRIV, *_apply(mode)], inside=netns)


def test_without_it_nothing_is_written(netns: Namespace) -> None:
    _require("setpriv")
    with pytest.raises(AssertionError, match="CAP_NET_ADMIN"):
        run_tool(["setpriv", "--bounding-set=-all", "--inh-caps=-all", *_apply("nftables")],
                 inside=netns)  # fmt: skip


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param(_apply("nftables"), id="nftables"),
        pytest.param(_apply("iptables"), id="iptables"),
        pytest.param([sys.executable, "-c", _LIBRARIES], id="libraries"),
    ],
)
def test_no_memory_is_written_and_executed(argv: list[str], netns: Namespace) -> None:
    try:
        assert run_tool([sys.executable, "-c", _DENY, *argv], inside=netns)
    except AssertionError as exc:
        if "no PR_SET_MDWE" not in str(exc):
            raise
        pytest.skip("this kernel has no PR_SET_MDWE (Linux 6.3)")


@functools.cache
def _sets() -> dict[str, list[str]]:
    """The named sets of system calls, with their members, which may be sets."""
    sets: dict[str, list[str]] = {}
    for line in run_tool(["systemd-analyze", "syscall-filter"]).splitlines():
        if line.startswith("@"):
            sets[line] = []
        elif line.startswith("    ") and sets and not line.lstrip().startswith("#"):
            sets[list(sets)[-1]].append(line.strip())
    return sets


def _calls(name: str) -> set[str]:
    if not name.startswith("@"):
        return {name}
    return {call for member in _sets()[name] for call in _calls(member)}


def _allowed() -> set[str]:
    unit = systemd_files(("/usr/bin/netplane",), {})[AGENT_UNIT]
    allowed: set[str] = set()
    for value in re.findall(r"^SystemCallFilter=(.*)$", unit, re.MULTILINE):
        calls = {call for name in value.lstrip("~").split() for call in _calls(name)}
        allowed = allowed - calls if value.startswith("~") else allowed | calls
    return allowed


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_the_system_calls_are_allowed(mode: str, netns: Namespace, tmp_path: Path) -> None:
    _require("strace", "systemd-analyze")
    trace = tmp_path / "trace"
    run_tool(["strace", "-f", "-qq", "-e", "signal=none", "-o", str(trace), *_apply(mode)],
             inside=netns)  # fmt: skip
    lines = trace.read_text(encoding="utf-8", errors="replace").splitlines()
    called = {m[1] for line in lines if (m := re.match(r"\d+ +(?:<\.\.\. )?([a-z]\w+)[( ]", line))}
    assert {"execve", "sendto", "socket"} <= called
    assert called <= _allowed()
