"""``netplane agent`` as a process of its own inside a namespace, and what it answers there."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from netplane.apply.netns import Namespace
from tests.support.eventually import DEADLINE, eventually

HEALTH_PORT = 10256
METRICS_PORT = 10249
_NODE = ("--node", "node-1")
_ADDRESSES = (
    *("--healthz-bind-address", f"127.0.0.1:{HEALTH_PORT}"),
    *("--metrics-bind-address", f"127.0.0.1:{METRICS_PORT}"),
)
_PROJECT = Path(__file__).parents[2]
_TICKS = os.sysconf("SC_CLK_TCK")


class Reply(NamedTuple):
    """A status, 0 while nobody listens, and a body."""

    status: int
    body: bytes

    def document(self) -> dict[str, Any]:
        document = json.loads(self.body)
        assert isinstance(document, dict), self
        return document


class AgentProcess:
    """A running agent; made by ``running_agent``."""

    def __init__(self, namespace: Namespace, process: subprocess.Popen[bytes], said: Path) -> None:
        self.namespace = namespace
        self.process = process
        self._said = said

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def said(self) -> str:
        """What it wrote to stderr so far."""
        return self._said.read_text(encoding="utf-8")

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def get(self, path: str, *, port: int = HEALTH_PORT, timeout: float = 5.0) -> Reply:
        return get_inside(self.namespace, port, path, timeout=timeout)

    @property
    def healthy(self) -> bool:
        return self.get("/healthz").status == 200

    def metrics(self) -> dict[str, float]:
        """Samples by name and labels, as the exposition writes them."""
        reply = self.get("/metrics", port=METRICS_PORT)
        lines = reply.body.decode().splitlines()
        pairs = [line.rpartition(" ") for line in lines if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in pairs}

    def until(self, condition: Callable[[], bool], *, within: float = DEADLINE) -> None:
        """Wait for a condition while the agent lives."""

        def holds() -> bool:
            assert self.alive, f"the agent has ended: {self.process.returncode}\n{self.said}"
            return condition()

        eventually(holds, within=within)

    def cpu_seconds(self) -> float:
        """What it has used so far, user and system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2]
        user, system = fields.split()[11:13]
        return (int(user) + int(system)) / _TICKS

    def memory(self) -> int:
        """Its resident memory in bytes."""
        pages = Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))


@contextlib.contextmanager
def running_agent(
    namespace: Namespace,
    said: Path,
    *options: str,
    program: Sequence[str] = ("-m", "netplane"),
    environment: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
) -> Iterator[AgentProcess]:
    """Run an agent inside the namespace until the block ends; then it must end well.

    Args:
        said: The file that takes its stderr.
        options: Of ``netplane agent``; the node, and both addresses, are given.
        program: What Python is to run.
        environment: More variables.
        prefix: A program that runs the agent.
    """
    argv = [*prefix, sys.executable, *program, "agent", *_NODE, *_ADDRESSES, *options]
    ours = {name: value for name, value in os.environ.items() if not name.startswith("NETPLANE_")}
    ours |= environment or {}
    with said.open("wb") as stderr:
        process = namespace.call(
            lambda: subprocess.Popen(argv, stderr=stderr, env=ours, cwd=_PROJECT)
        )
        with process:
            try:
                yield AgentProcess(namespace, process, said)
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                try:
                    process.wait(timeout=DEADLINE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise
                finally:
                    print(said.read_text(encoding="utf-8")[-20_000:])
    assert process.returncode == 0, process.returncode


def get_inside(
    namespace: Namespace,
    port: int,
    path: str = "/",
    *,
    address: str = "127.0.0.1",
    timeout: float = 5.0,
) -> Reply:
    """GET something of a server, asked from inside a namespace."""

    def ask() -> Reply:
        connection = http.client.HTTPConnection(address, port, timeout=timeout)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return Reply(answer.status, answer.read())
        except (OSError, http.client.HTTPException):
            return Reply(0, b"{}")
        finally:
            connection.close()

    return namespace.call(ask)
