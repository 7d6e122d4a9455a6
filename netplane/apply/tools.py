"""Running the kernel's tools (nft, iptables-restore, iptables-save) inside a namespace.

Arguments are lists, never a shell; input is bytes on stdin; the environment is the C locale.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink import own_hands
from netplane.errors import ToolError

# Where distributions keep administrators' programs; a user's PATH often lacks them.
_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")


class Completed(NamedTuple):
    """How a program ended: exit status (negative: the signal), and what it printed."""

    status: int
    stdout: bytes
    stderr: str


def find(program: str) -> str | None:
    """The path of a program, or None where it is not installed."""
    path = os.environ.get("PATH", "")
    return shutil.which(program, path=os.pathsep.join([path, *_SBIN]))


def run(
    namespace: Namespace, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 600.0
) -> Completed:
    """Run a program to its end inside the namespace.

    Args:
        namespace: Where.
        argv: The program's name and its arguments.
        stdin: What it reads.
        timeout: Seconds after which it is killed.

    Raises:
        ToolError: It is not installed, cannot be started, or did not end in time.
    """
    program = find(argv[0])
    if program is None:
        raise ToolError(f"{argv[0]} is not installed; `netplane doctor` says which package has it")

    def call() -> Completed:
        with subprocess.Popen(
            [program, *argv[1:]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
        ) as process:
            own_hands.started(process.pid)
            try:
                stdout, stderr = process.communicate(stdin, timeout=timeout)
            except BaseException:
                process.kill()
                raise
            return Completed(process.returncode, stdout, stderr.decode(errors="replace"))

    try:
        return namespace.call(call)
    except subprocess.TimeoutExpired as exc:
        raise ToolError(f"{argv[0]} did not end within {timeout:.0f} s and was killed") from exc
    except OSError as exc:
        raise ToolError(f"{argv[0]} cannot be started: {exc.strerror}") from exc
