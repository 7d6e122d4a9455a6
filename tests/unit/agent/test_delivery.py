"""The service of systemd: what its files say, how exposed it is, and how they are installed."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from netplane.agent.delivery import (
    AGENT_UNIT,
    PARAMETERS,
    SYSCTLS_UNIT,
    install_systemd,
    own_program,
    systemd_files,
)
from netplane.agent.parameters import kernel_parameters
from netplane.config import Config
from netplane.errors import ApplyError, UsageError

_COMMAND = ("/usr/local/bin/netplane", "agent", "--kubeconfig", "/etc/kubernetes/kube proxy.conf")
_PARAMETERS = {"net/ipv4/conf/all/route_localnet": "1"}
_ANALYZE = shutil.which("systemd-analyze")
_needs_analyze = pytest.mark.skipif(_ANALYZE is None, reason="systemd-analyze is not installed")


def _run(*arguments: str) -> str:
    done = subprocess.run(
        [_ANALYZE or "", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout[-300:] + done.stderr
    return done.stdout + done.stderr


def _installed(root: Path, *, netns: str | None = None) -> Path:
    install_systemd(root, systemd_files(_COMMAND, _PARAMETERS, netns=netns))
    return root


@_needs_analyze
@pytest.mark.parametrize("unit", [AGENT_UNIT, SYSCTLS_UNIT])
def test_the_exposure_is_at_most_two(unit: str, tmp_path: Path) -> None:
    path = _installed(tmp_path) / unit
    _run("security", "--offline=true", "--no-pager", "--threshold=20", str(path))


@_needs_analyze
@pytest.mark.parametrize("netns", [None, "node-1"])
def test_systemd_understands_every_line(netns: str | None, tmp_path: Path) -> None:
    # The programs that ExecStart names need not be on the machine that runs the tests.
    files = systemd_files(("/bin/sh", "agent"), _PARAMETERS, netns=netns)
    install_systemd(tmp_path, files)
    said = _run(
        "verify", "--man=no", *[str(tmp_path / unit) for unit in (AGENT_UNIT, SYSCTLS_UNIT)]
    )
    assert "netplane" not in said, said


def _service(text: str) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return parser["Service"]


def test_the_unit() -> None:
    service = _service(systemd_files(_COMMAND, _PARAMETERS)[AGENT_UNIT])
    assert service["Type"] == "notify"
    assert service["CapabilityBoundingSet"] == "CAP_NET_ADMIN"
    assert service["NoNewPrivileges"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["RestrictAddressFamilies"] == "AF_NETLINK AF_INET AF_INET6 AF_UNIX"
    assert service["ExecStart"] == (
        '"/usr/local/bin/netplane" "agent" "--kubeconfig" "/etc/kubernetes/kube proxy.conf"'
    )


def test_a_namespace_costs_one_capability_more() -> None:
    files = systemd_files(_COMMAND, _PARAMETERS, netns="node-1")
    service = _service(files[AGENT_UNIT])
    assert service["CapabilityBoundingSet"] == "CAP_NET_ADMIN CAP_SYS_ADMIN"
    assert service["RestrictNamespaces"] == "net"
    assert _service(files[SYSCTLS_UNIT])["NetworkNamespacePath"] == "/run/netns/node-1"


@pytest.mark.parametrize(
    "word", ['a"b', "100%", "$HOME", "back\\slash", "two\nlines", "ümlaut", "", "/tmp/kubeconfig"]
)
def test_a_word_that_cannot_stand_in_a_unit(word: str) -> None:
    with pytest.raises(UsageError):
        systemd_files((*_COMMAND, word), _PARAMETERS)


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        pytest.param(Config(), {"net/ipv4/conf/all/route_localnet": "1"}, id="defaults"),
        pytest.param(Config(mode="nftables"), {}, id="nftables"),
        pytest.param(Config(localhost_node_ports=False), {}, id="no localhost"),
        pytest.param(
            Config(
                mode="nftables",
                conntrack_max_per_core=1000,
                conntrack_min=5000,
                conntrack_udp=30.0,
                conntrack_tcp_be_liberal=True,
                origins={"conntrack_max_per_core": "file x", "conntrack_udp": "file x"},
            ),
            {
                "net/netfilter/nf_conntrack_max": "8000",
                "net/netfilter/nf_conntrack_udp_timeout": "30",
                "net/netfilter/nf_conntrack_tcp_be_liberal": "1",
            },
            id="what was set on purpose",
        ),
        pytest.param(
            Config(
                mode="nftables",
                conntrack_max_per_core=0,
                conntrack_udp=0.0,
                origins={"conntrack_max_per_core": "file x", "conntrack_udp": "file x"},
            ),
            {},
            id="left alone on purpose",
        ),
    ],
)
def test_kernel_parameters(config: Config, wanted: dict[str, str]) -> None:
    assert kernel_parameters(config, processors=8) == wanted


def test_the_parameters_file_is_what_systemd_sysctl_reads() -> None:
    lines = systemd_files(_COMMAND, _PARAMETERS)[PARAMETERS].splitlines()
    assert lines[1:] == ["-net/ipv4/conf/all/route_localnet = 1"]
    assert lines[0].startswith("#")


def test_installing_twice_writes_once(tmp_path: Path) -> None:
    files = systemd_files(_COMMAND, _PARAMETERS)
    written = install_systemd(tmp_path, files)
    assert written == tuple(tmp_path / name for name in (AGENT_UNIT, SYSCTLS_UNIT, PARAMETERS))
    assert install_systemd(tmp_path, files) == ()
    (tmp_path / AGENT_UNIT).write_text("[Unit]\n", encoding="utf-8")
    assert install_systemd(tmp_path, files) == (tmp_path / AGENT_UNIT,)
    assert {path.stat().st_mode & 0o777 for path in written} == {0o644}
    everything = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert everything == set(written), "nothing half-written is left"


def test_a_root_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("no directory", encoding="utf-8")
    with pytest.raises(ApplyError, match="cannot write"):
        install_systemd(tmp_path, systemd_files(_COMMAND, _PARAMETERS))


def test_our_own_program_is_named_whole() -> None:
    program = own_program()
    assert program.is_absolute()
    assert program.name == "netplane"
