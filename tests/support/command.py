"""Runs netplane's command line as a user would, without the cost of a process each time."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, NamedTuple

import msgspec

from netplane.apply.netns import Namespace
from netplane.cli.main import main
from tests.support.manifests import kube_list

EXIT_DONE = 0
EXIT_SOME_REFUSED = 3


class Ran(NamedTuple):
    """How a command line ended, and what it printed."""

    arguments: tuple[str, ...]
    status: int
    stdout: str
    stderr: str

    def document(self) -> dict[str, Any]:
        """What ``-o json`` printed."""
        document = msgspec.json.decode(self.stdout)
        assert isinstance(document, dict), self
        return document

    def __str__(self) -> str:
        return f"netplane {' '.join(self.arguments)}: exit {self.status}\n{self.stderr}"


def run_netplane(*arguments: str) -> Ran:
    """Run a command line in this process; NETPLANE_* variables of the caller's do not count."""
    variables = {name: os.environ.pop(name) for name in list(os.environ) if _is_ours(name)}
    stdout, stderr = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    try:
        with redirect_stdout(stdout), redirect_stderr(stderr):
            status = main(arguments)
    finally:
        os.environ.update(variables)
    stdout.seek(0)
    return Ran(arguments, status, stdout.read(), stderr.getvalue())


def _is_ours(name: str) -> bool:
    return name.startswith("NETPLANE_")


def apply_objects(
    namespace: Namespace, mode: str, objects: Sequence[Mapping[str, object]], *options: str
) -> Ran:
    """Apply objects with the command, which must go well; ``-o json`` has been asked for.

    Raises:
        AssertionError: The command failed; some refused objects are no failure.
    """
    with tempfile.NamedTemporaryFile(suffix=".json") as manifest:
        manifest.write(kube_list(*objects))
        manifest.flush()
        target = ["--netns", str(namespace), "--mode", mode, "-f", manifest.name, "-o", "json"]
        ran = run_netplane("apply", *target, *options)
    assert ran.status in {EXIT_DONE, EXIT_SOME_REFUSED}, str(ran)
    return ran
