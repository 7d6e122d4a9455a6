"""The agent as a service of systemd: its unit, and a oneshot for what it may not do itself.

The agent keeps CAP_NET_ADMIN and sees /proc/sys read-only; the oneshot sets kernel parameters and
makes sure that the lock of iptables exists, once, before the agent starts.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from netplane.errors import ApplyError, UsageError
from netplane.rendering import template

_UNITS = "etc/systemd/system"
AGENT_UNIT = f"{_UNITS}/netplane-agent.service"
SYSCTLS_UNIT = f"{_UNITS}/netplane-sysctls.service"
PARAMETERS = "etc/netplane/sysctl.conf"
# What stands between double quotes in a unit and means itself: no quote, backslash, % or $.
_WORD = re.compile(r"[A-Za-z0-9 _./:;,@*+=\[\]()-]+\Z")
_HIDDEN = ("/tmp/", "/var/tmp/")  # noqa: S108 (PrivateTmp= hides them; nothing is written there)


def own_program() -> Path:
    """The ``netplane`` that runs now, as an absolute path for a unit.

    Raises:
        UsageError: There is none beside this Python, nor on the PATH.
    """
    beside = Path(sys.executable).with_name("netplane")
    found = str(beside) if beside.exists() else shutil.which("netplane")
    if found is None:
        raise UsageError("no program `netplane` is installed: run script/setup, or pip install")
    return Path(found).absolute()


def systemd_files(
    command: Sequence[str], parameters: Mapping[str, str], *, netns: str | None = None
) -> dict[str, str]:
    """The files of the service, by path below the root of the file system.

    Args:
        command: The program and its arguments; every path in it absolute.
        parameters: As ``parameters.kernel_parameters`` has them.
        netns: The named namespace that the command's --netns names; entering it needs
            CAP_SYS_ADMIN.

    Raises:
        UsageError: A word cannot stand in a unit, or names a file that the service cannot see.
    """
    for word in (*command, netns or "none"):
        _check_word(word)
    modules = ["nf_conntrack", "nf_tables"]
    capabilities = ["CAP_NET_ADMIN"] + (["CAP_SYS_ADMIN"] if netns else [])
    return {
        AGENT_UNIT: template("agent/netplane-agent.service.j2").render(
            command=command,
            capabilities=" ".join(capabilities),
            enters_namespace=netns is not None,
        ),
        SYSCTLS_UNIT: template("agent/netplane-sysctls.service.j2").render(
            modules=" ".join(f"modprobe@{module}.service" for module in modules),
            parameters_path=f"/{PARAMETERS}",
            netns=netns,
        ),
        PARAMETERS: template("agent/sysctl.conf.j2").render(parameters=sorted(parameters.items())),
    }


def _check_word(word: str) -> None:
    if not _WORD.match(word):
        raise UsageError(f"{word!r:.200} cannot stand in a unit file: use another name for it")
    if word.startswith(_HIDDEN):
        raise UsageError(f"{word}: the service has a /tmp of its own and would not see this path")


def install_systemd(root: Path, files: Mapping[str, str]) -> tuple[Path, ...]:
    """Write files below a root; returns those that were not so already.

    Nothing is started: ``systemctl daemon-reload`` and ``systemctl enable --now`` are the user's.

    Raises:
        ApplyError: A file cannot be written.
    """
    written = []
    for name, text in files.items():
        path = root / name
        try:
            if path.is_file() and path.read_text(encoding="utf-8") == text:
                continue
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            unfinished = path.with_name(f".{path.name}.new")
            unfinished.write_text(text, encoding="utf-8")
            unfinished.chmod(0o644)
            unfinished.replace(path)
        except OSError as exc:
            raise ApplyError(f"cannot write {path}: {exc.strerror}") from exc
        written.append(path)
    return tuple(written)
