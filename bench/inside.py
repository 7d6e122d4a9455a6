"""What the programs of the bench that call netplane's own functions have in common."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from bench.runner import Launcher
from bench.states import CLUSTER_CIDR, NODE, SERVICE_CIDR
from netplane.config import Config, Setting, resolve

_T = TypeVar("_T")


def node_config() -> Config:
    """The configuration netplane has in every measurement."""
    settings = {
        "mode": "nftables",
        "node_name": NODE,
        "cluster_cidrs": (CLUSTER_CIDR,),
        "service_cidrs": (SERVICE_CIDR,),
    }
    chosen = {field: Setting(value, "bench") for field, value in settings.items()}
    return resolve(None, chosen, host_name=NODE)


def call(module: str, arguments: Sequence[str], answer: Path, kind: type[_T]) -> _T:
    """Run a module of the bench as a process of its own, and return what it printed.

    Args:
        module: As ``python -m`` wants it.
        arguments: Of its command line.
        answer: A file for its standard output.
        kind: The type of the one JSON value it prints.

    Raises:
        FailedError: It failed.
    """
    # Netplane is found beside the bench, whether or not it is installed.
    root = str(Path(__file__).parent.parent)
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    with Launcher() as launcher:
        argv = [sys.executable, "-m", module, *arguments]
        launcher.run(argv, stdout=answer, env={"PYTHONPATH": paths})
    return msgspec.json.decode(answer.read_bytes(), type=kind)
