"""Measures programs: wall time, CPU time and peak memory of a whole process, several times."""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

_LAUNCH = Path(__file__).with_name("launch.py")


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one program, from its start to its end."""

    seconds: float
    cpu_seconds: float
    peak_kib: int
    status: int
    stderr: str


class FailedError(Exception):
    """A program that was to be measured did not do its work."""


class Samples(msgspec.Struct, kw_only=True):
    """Repetitions of one measurement; ``error`` is why there are no more of them."""

    runs: list[Measurement] = []
    error: str = ""

    @property
    def seconds(self) -> float:
        """The median wall time."""
        return statistics.median(run.seconds for run in self.runs)

    @property
    def spread(self) -> tuple[float, float]:
        """The quickest and the slowest run, in seconds."""
        return min(run.seconds for run in self.runs), max(run.seconds for run in self.runs)

    @property
    def peak_mib(self) -> float:
        """The median peak memory."""
        return statistics.median(run.peak_kib for run in self.runs) / 1024


class Launcher:
    """Starts programs in a namespace, or in ours, and measures each; a context manager.

    Args:
        netns: Name of the network namespace programs run inside; None for the bench's own.
    """

    def __init__(self, netns: str | None = None) -> None:
        enter = [] if netns is None else ["nsenter", f"--net=/run/netns/{netns}"]
        # Without site-packages: what this process holds is the least a program can seem to hold.
        self._argv = [*enter, sys.executable, "-I", "-S", str(_LAUNCH)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._process.terminate()
        self._process.communicate()

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: Path | str = os.devnull,
        stdout: Path | str = os.devnull,
        env: Mapping[str, str] | None = None,
    ) -> Measurement:
        """Run a program to its end.

        Args:
            argv: The program and its arguments.
            stdin: The file it reads.
            stdout: The file its output goes to.
            env: What is added to the environment.

        Raises:
            FailedError: Its exit status was not 0.
        """
        job = {
            "argv": list(argv),
            "stdin": str(stdin),
            "stdout": str(stdout),
            "env": {**os.environ, "LC_ALL": "C", **(env or {})},
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(job) + b"\n")
        self._process.stdin.flush()
        measured = msgspec.json.decode(self._process.stdout.readline(), type=Measurement)
        if measured.status != 0:
            command = " ".join(argv)[:300]
            raise FailedError(f"{command}: exit {measured.status}: {measured.stderr.strip()}")
        return measured


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
