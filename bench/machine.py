"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

from bench.results import Machine

_VERSIONS = {
    "nft": ["nft", "--version"],
    "iptables-nft": ["iptables-nft", "--version"],
    "iptables-legacy": ["iptables-legacy", "--version"],
}


def describe() -> Machine:
    """This machine, now."""
    tools = {"python": platform.python_version()}
    tools |= {name: _output(argv) for name, argv in _VERSIONS.items()}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        processor=_processor(),
        processors=os.cpu_count() or 1,
        memory_gib=round(memory / 2**30),
        kernel=platform.release(),
        system=platform.freedesktop_os_release().get("PRETTY_NAME", platform.system()),
        tools=tools,
        revision=_output(["git", "-C", str(Path(__file__).parent), "describe", "--always"]),
        load=round(os.getloadavg()[0], 2),
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _output(argv: list[str]) -> str:
    """What a program prints, "not installed" where it cannot be run."""
    try:
        return subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=30
        ).stdout.strip()
    except FileNotFoundError:
        return "not installed"
