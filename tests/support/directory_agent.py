"""The agent as a process of its own, on a directory of manifests, in a test's namespace."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from netplane.apply.netns import Namespace
from tests.support.agent_process import HEALTH_PORT, Reply, get_inside
from tests.support.eventually import DEADLINE, eventually
from tests.support.manifests import Object, kube_list

_START = 60.0  # seconds for a new process until all is written, beside others that start
_PROJECT = Path(__file__).parents[2]


class DirectoryAgent:
    """An agent that can be ended and started again; ``new_agent`` makes and ends it.

    Attributes:
        manifests: The directory it reads.
        mode: Of its next start.
        options: Of its next start, besides those that say where it runs.
        environment: Of its next start.
    """

    def __init__(
        self, namespace: Namespace, folder: Path, mode: str, options: Sequence[str]
    ) -> None:
        self.manifests = folder / "manifests"
        self.manifests.mkdir(exist_ok=True)
        self.mode = mode
        self.options = list(options)
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("NETPLANE_")}
        self.environment["PYTHONPATH"] = str(_PROJECT)
        self._namespace = namespace
        self._log = folder / "said.log"
        self._process: subprocess.Popen[bytes] | None = None

    # --- the manifests ------------------------------------------------------------------------

    def write(self, name: str, *objects: Object) -> None:
        """Put a file of these objects in the place of the one of this name, if any."""
        self.write_raw(name, kube_list(*objects))

    def write_raw(self, name: str, content: bytes) -> None:
        """The same with any content."""
        fresh = self.manifests / f".{name}.new"
        fresh.write_bytes(content)
        fresh.rename(self.manifests / f"{name}.json")

    def remove(self, name: str) -> None:
        """Take a file away."""
        (self.manifests / f"{name}.json").unlink()

    # --- the process --------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *, healthy: bool = True) -> None:
        """Start it, and wait until it says that all is well, unless told not to."""
        assert not self.is_alive, "already running"
        argv = [sys.executable, "-P", "-m", "netplane", "agent", "-f", str(self.manifests)]
        argv += ["--mode", self.mode, "--netns", str(self._namespace), "--node", "node-1"]
        argv += ["--healthz-bind-address", f"127.0.0.1:{HEALTH_PORT}"]
        argv += ["--metrics-bind-address", "", "-v", *self.options]
        with self._log.open("a") as said:
            self._process = subprocess.Popen(argv, stderr=said, env=self.environment)
        if healthy:
            self.await_health(200, within=_START)

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it with a signal, and return its exit status."""
        assert self._process is not None, "not started"
        self._process.send_signal(how)
        try:
            return self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise

    def said(self) -> str:
        """All that it and its predecessors have logged."""
        return self._log.read_text(encoding="utf-8") if self._log.exists() else ""

    # --- what it answers ----------------------------------------------------------------------

    def await_health(self, status: int, *, within: float = DEADLINE) -> float:
        """Wait until /healthz answers so; returns the seconds that took. It must be alive."""

        last = Reply(0, b"{}")

        def answers_so() -> bool:
            nonlocal last
            assert self.is_alive, f"the agent has ended:\n{self.said()}"
            last = self.healthz()
            return last.status == status

        return eventually(answers_so, within=within, last=lambda: last)

    def healthz(self, path: str = "/healthz?verbose") -> Reply:
        """What its health port answers."""
        return get_inside(self._namespace, HEALTH_PORT, path)

    def reasons(self) -> str:
        """Why it is not healthy, "" where it is."""
        return "; ".join(self.healthz().document().get("reasons", ()))


@contextlib.contextmanager
def new_agent(
    namespace: Namespace,
    folder: Path,
    mode: str,
    *options: str,
    environment: Mapping[str, str] | None = None,
) -> Iterator[DirectoryAgent]:
    """An agent, not started yet; it has ended afterwards, and what it said is printed."""
    agent = DirectoryAgent(namespace, folder, mode, options)
    agent.environment.update(environment or {})
    try:
        yield agent
    finally:
        if agent.is_alive:
            agent.end()
        print(agent.said())
