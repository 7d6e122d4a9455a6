"""One cold load inside one process, stage by stage: ``python -m bench.stages FILE NETNS``.

Prints ``{"seconds": {STAGE: S}, "peak_mib": {STAGE: M}}``. The stages are netplane's public
functions, in the order a command calls them:

    program   the fixed part, by nft -f     compile   the plan to map elements
    decode    the file to a snapshot        pack      elements to netlink messages
    plan      what traffic should do        commit    messages to the kernel's answer

A command packs a transaction while the kernel is at work on the one before; here that is apart.
"""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bench.inside import node_config
from netplane.apply.modes import open_mode
from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink.commit import commit_all
from netplane.apply.nfnetlink.socket import NfnetlinkSocket
from netplane.apply.sync import plan_for
from netplane.cli.inputs import read_snapshot
from netplane.core.model.snapshot import Snapshot
from netplane.core.nftables.compile import compile_family
from netplane.core.nftables.diff import diff
from netplane.core.nftables.layout import Ruleset
from netplane.core.nftables.observed import Observed
from netplane.core.nftables.wire import Message
from netplane.core.nftables.wire_rules import new_chains
from netplane.core.nftables.wire_transactions import transactions
from netplane.rendering import environment

_EMPTY = Snapshot(services={}, slices={}, nodes={})


class Clock:
    """Times stages, and notes the peak memory at the end of each."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_mib: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what is done inside."""
        begin = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - begin
        self.peak_mib[name] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(path: Path, netns: str) -> None:
    """Load the state of a file into a namespace that has no rules."""
    gc.disable()  # as the command does
    clock = Clock()
    config = node_config()
    with Namespace(netns) as namespace, NfnetlinkSocket(namespace) as link:
        with clock.stage("program"):
            open_mode("nftables", namespace).prepare(plan_for(config, _EMPTY)).commit()
        with clock.stage("decode"):
            snapshot = read_snapshot([str(path)])
        with clock.stage("plan"):
            plan = plan_for(config, snapshot)
        with clock.stage("compile"):
            rulesets = [compile_family(family, environment()) for family in plan.families]
        with clock.stage("pack"):
            series = [messages for ruleset in rulesets for messages in _pack(ruleset)]
        with clock.stage("commit"):
            outcome = commit_all(link, series, generation=link.generation())
    assert not outcome.refused, outcome.refused[:3]
    answer = {"seconds": clock.seconds, "peak_mib": clock.peak_mib}
    sys.stdout.buffer.write(msgspec.json.encode(answer))


def _pack(ruleset: Ruleset) -> list[list[Message]]:
    """The transactions that fill a table which has only its program."""
    delta = diff(ruleset, Observed(family=ruleset.family))
    chains = new_chains(ruleset.family, delta.chains)
    assert chains is not None, "the bench's states need no chain that netlink cannot say"
    return list(transactions(ruleset.family, delta.elements, before=chains))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
