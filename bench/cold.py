"""Cold loads: whole processes, from a file to the kernel's answer, each in a fresh namespace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from bench.contestants import CONTESTANTS, Workspace, load
from bench.namespaces import fresh_netns, settle
from bench.runner import FailedError, Launcher, Samples
from bench.states import Shape

#: Called with the loaded namespace's name and a launcher in it.
Visit = Callable[[str, Launcher], None]


def measure(
    shape: Shape,
    rounds: Mapping[str, int],
    workspace: Workspace,
    visits: Mapping[str, Visit] | None = None,
) -> dict[str, Samples]:
    """Let everybody load a state in turn, round after round: what the machine does hits all alike.

    A contestant that fails takes no further part; its error stands in its samples.

    Args:
        shape: Of the state.
        rounds: By contestant, in how many rounds it takes part.
        workspace: Has the files.
        visits: By contestant, what to measure in the namespace after its last round.
    """
    for key in rounds:
        workspace.file(CONTESTANTS[key].source, shape)
    samples = {key: Samples() for key in rounds}
    for key, turn in _turns(rounds):
        if samples[key].error:
            continue
        settle()
        is_last = turn == rounds[key] - 1
        with fresh_netns("cold") as netns, Launcher(netns) as inside:
            try:
                run = load(CONTESTANTS[key], shape, workspace, netns, inside)
            except FailedError as exc:
                samples[key].error = str(exc)
                continue
            samples[key].runs.append(run)
            if is_last and visits and key in visits:
                visits[key](netns, inside)
    return samples


def _turns(rounds: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    for turn in range(max(rounds.values(), default=0)):
        for key, wanted in rounds.items():
            if turn < wanted:
                yield key, turn
