"""``python -m bench``: measures netplane and its peers in one run, and writes the report."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from bench import balance, cold, end_to_end, latency, report, running
from bench.contestants import CONTESTANTS, KUBE_NFT, NETPLANE, Workspace
from bench.inside import call
from bench.machine import describe
from bench.namespaces import fresh_netns, hide_names, settle
from bench.plan import FULL, QUICK, SMOKE, Plan
from bench.results import Changes, Results, Stages
from bench.runner import FailedError, Launcher
from bench.states import Shape

_HERE = Path(__file__).parent
#: What loading the largest state takes at most, with making its file: less than this and it waits.
_HUGE_SECONDS = 50.0


class Run:
    """One run of the bench: the parts in order, each adding to the results.

    Args:
        plan: What to measure.
        directory: For files of the run alone.
    """

    def __init__(self, plan: Plan, directory: Path) -> None:
        self._plan = plan
        self._directory = directory
        self._workspace = Workspace(directory)
        self._begin = time.monotonic()
        command = shlex.join(["script/bench", *sys.argv[1:]])
        self.results = Results(machine=describe(), command=command, plan=plan.name)

    def all_parts(self) -> Results:
        """Measure everything."""
        faults = self._check_rules()
        for shape, rounds in self._plan.cold.items():
            self._say(f"cold loads, {shape}")
            able = {key: count for key, count in rounds.items() if key not in faults}
            self._cold(shape, able)
        for services, count in self._plan.engine_changes.items():
            self._engine(Shape(services, self._plan.large.endpoints), count)
        for services, keys in self._plan.latency.items():
            self._latency(services, [key for key in keys if key not in faults])
        for source in end_to_end.SOURCES:
            self._end_to_end(source)
        self._huge(faults)
        for shape in (self._plan.middle, self._plan.large):
            self._stages(shape)
        self.results.seconds = time.monotonic() - self._begin
        return self.results

    def _check_rules(self) -> dict[str, str]:
        self._say("checking that everybody's rules serve")
        wanted = dict.fromkeys(key for rounds in self._plan.cold.values() for key in rounds)
        faults = balance.check(wanted, self._workspace)
        for key, fault in faults.items():
            self._note(f"{CONTESTANTS[key].title} {fault}")
        return faults

    def _cold(self, shape: Shape, rounds: dict[str, int]) -> None:
        visits: dict[str, cold.Visit] = {}
        if shape == self._plan.large:
            visits = {KUBE_NFT: self._kube_changes, NETPLANE: self._idle}
        measured = cold.measure(shape, rounds, self._workspace, visits)
        for key, samples in measured.items():
            if samples.error:
                self._note(f"{CONTESTANTS[key].title}, {shape}: {samples.error}")
        self.results.cold[str(shape)] = measured

    def _kube_changes(self, netns: str, inside: Launcher) -> None:
        del netns
        self._say("kube-proxy's delta, on its loaded table")
        changes = running.kube_changes(
            self._plan.large, self._plan.changes, inside, self._directory
        )
        self.results.kube_changes.append(changes)

    def _idle(self, netns: str, inside: Launcher) -> None:
        self._say("nothing to do")
        self.results.idle = running.idle(
            self._plan.large, self._plan.idle_rounds, self._workspace, netns, inside
        )

    def _engine(self, shape: Shape, count: int) -> None:
        self._say(f"the running engine, {shape}")
        settle()
        with fresh_netns("engine") as netns:
            arguments = [str(self._workspace.file("state", shape)), netns, str(count)]
            answer = self._directory / "answer"
            try:
                seconds = call("bench.engine", arguments, answer, list[float])
            except FailedError as exc:
                self._note(f"the running engine, {shape}: {exc}")
                return
        self.results.engine_changes.append(
            Changes(services=shape.services, endpoints=shape.endpoints, seconds=seconds)
        )

    def _latency(self, services: int, keys: list[str]) -> None:
        self._say(f"first packets, {services:,} Services")
        try:
            self.results.connects += latency.measure(
                services, keys, self._plan.connections, self._workspace
            )
        except (FailedError, OSError) as exc:
            self._note(f"first packets, {services:,} Services: {exc}")

    def _end_to_end(self, source: str) -> None:
        self._say(f"an agent, fed by {source}, {self._plan.kept}")
        settle()
        with tempfile.TemporaryDirectory(dir=self._directory) as directory:
            try:
                self.results.end_to_end.append(
                    end_to_end.measure(
                        source, self._plan.kept, self._plan.kept_changes, Path(directory)
                    )
                )
            except (FailedError, OSError) as exc:
                self._note(f"an agent, fed by {source}: {exc}")

    def _stages(self, shape: Shape) -> None:
        self._say(f"stages, {shape}")
        settle()
        with fresh_netns("stages") as netns:
            arguments = [str(self._workspace.file("state", shape)), netns]
            answer = self._directory / "answer"
            try:
                found = call("bench.stages", arguments, answer, dict[str, dict[str, float]])
            except FailedError as exc:
                self._note(f"stages, {shape}: {exc}")
                return
        self.results.stages.append(
            Stages(services=shape.services, endpoints=shape.endpoints, **found)
        )

    def _huge(self, faults: dict[str, str]) -> None:
        shape = self._plan.huge
        left = self._plan.seconds - (time.monotonic() - self._begin)
        if NETPLANE in faults:
            return
        if left < _HUGE_SECONDS:
            self._note(f"{shape} was left out: {left:.0f} s of the run's time were left")
            return
        self._say(f"cold load, {shape}")
        self._cold(shape, {NETPLANE: 1})

    def _say(self, what: str) -> None:
        print(f"bench: {time.monotonic() - self._begin:6.1f} s  {what}", file=sys.stderr)

    def _note(self, text: str) -> None:
        """Keep what went wrong for the report, in one line."""
        line = " ".join(text.split())
        self.results.notes.append(line)
        self._say(line)


def main() -> None:
    """Parse the command line, measure, write."""
    parser = argparse.ArgumentParser(prog="script/bench", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="under five minutes on two processors")
    size.add_argument("--smoke", action="store_true", help="tiny: only shows that the bench works")
    parser.add_argument(
        "--output", type=Path, default=_HERE, help="directory for the report (default: bench/)"
    )
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("network namespaces need root")
    plan = SMOKE if arguments.smoke else QUICK if arguments.quick else FULL
    # Whoever ends the bench leaves through the same doors as Ctrl-C: files and processes go.
    signal.signal(signal.SIGTERM, _interrupt)
    hide_names()
    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="np-bench-") as directory:
        results = Run(plan, Path(directory)).all_parts()
    report.write(results, plan, arguments.output)
    print(arguments.output / "report.md")


def _interrupt(signum: int, frame: FrameType | None) -> None:
    del frame
    sys.exit(128 + signum)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
