"""What it costs to read a cluster state and plan it: ``python -m bench.decode [SERVICES] [SIZE]``.

Prints the processor time of each stage from the bytes of ``kubectl get -o json`` to the plan, the
best of five runs, and the most memory the process ever had. The state has as many Services as
asked for (10,000), each with SIZE endpoints (5); the stages touch nothing outside the process.
"""

from __future__ import annotations

import gc
import resource
import sys
import tempfile
import time
from pathlib import Path

from bench.inside import node_config
from bench.states import Shape, write_state
from netplane.apply.sync import plan_for
from netplane.core.model.cluster import build_snapshot
from netplane.core.model.documents import parse

_RUNS = 5
_DEFAULTS = (10_000, 5)


def main() -> None:
    """Measure one state."""
    gc.disable()  # as the command line does
    arguments = [int(argument) for argument in sys.argv[1:]]
    services, size = (*arguments, *_DEFAULTS[len(arguments) :])
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "state.json"
        write_state(Shape(services, size), path)
        content = path.read_bytes()
    print(f"{Shape(services, size)}, {len(content) / 1e6:.1f} MB of JSON")
    best: dict[str, float] = {}
    for _ in range(_RUNS):
        for stage, seconds in _stages(content, services).items():
            best[stage] = min(seconds, best.get(stage, seconds))
    for stage, seconds in best.items():
        print(f"{stage:>15} {seconds:6.3f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{'peak memory':>15} {peak / 1024:6.0f} MiB")


def _stages(content: bytes, services: int) -> dict[str, float]:
    """The processor time of each stage, once."""
    begin = time.process_time()
    manifests = parse(content, origin="bench")
    parsed = time.process_time()
    snapshot = build_snapshot(manifests)
    del manifests
    built = time.process_time()
    plan = plan_for(node_config(), snapshot)
    planned = time.process_time()
    assert len(snapshot.services) == len(plan.families[0].ports) == services
    assert not plan.problems
    return {
        "parse": parsed - begin,
        "build_snapshot": built - parsed,
        "build_plan": planned - built,
        "total": planned - begin,
    }


if __name__ == "__main__":
    main()
