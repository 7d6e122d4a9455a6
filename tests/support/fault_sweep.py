"""One fault per run: what it has left behind, and whether the next sync makes it good."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Self

import msgspec

from netplane.apply.netns import Namespace
from tests.support.fault_scene import (
    STALE_ADDRESS,
    add_stale_flow,
    half_services,
    others_state,
    scene,
    states,
    udp_flows,
)
from tests.support.fault_subject import OWN_CALLS, Order, Said, Subject
from tests.support.kernel_state import meaning
from tests.support.manifests import kube_list
from tests.support.netns import require
from tests.support.strace import Call, Fault, injected, recorded

ERRORS = ("ENOBUFS", "EPERM", "ENOMEM", "EINTR", "EAGAIN", "EMSGSIZE", "EIO")
_SECONDS = 30
# What an error must name: whom netplane asked, or for what.
_NAMED = re.compile(
    "netlink socket|the kernel|transaction|nft|ip6?tables|conntrack|namespace|threads|interfaces"
)


class Stage(NamedTuple):
    """What is done while the fault happens.

    Attributes:
        subject: By an engine or the command, see ``Order``.
        first: The state before; "" for an empty kernel.
        second: The state wanted.
    """

    subject: Subject
    first: str
    second: str

    @property
    def is_engine(self) -> bool:
        """Whether it is an engine, which leaves flows to others."""
        return self.subject.startswith("engine")

    def __str__(self) -> str:
        return f"{self.subject}-{'change' if self.first else 'cold'}-{self.second}"


class Undisturbed(NamedTuple):
    """A run without a fault.

    Attributes:
        calls: Its system calls, by thread.
        before, after: What the kernel held of ours.
        others: What is not ours, before and after.
    """

    calls: list[list[Call]]
    before: dict[str, object]
    after: dict[str, object]
    others: list[str]

    def most(self) -> dict[str, int]:
        """How often each call of a sync is made, by the thread that makes it most."""
        found: Counter[str] = Counter()
        for call in (call for thread in self.calls for call in thread):
            if call.name not in OWN_CALLS:
                found[call.name] = max(found[call.name], call.number)
        return dict(found)


class Verdict(NamedTuple):
    """What a fault came to: whether it happened, what was told, and what is not as it must be."""

    fault: Fault
    fired: bool
    told: str
    problems: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.fault}: {'; '.join(self.problems)} [told: {self.told or 'success'}]"


class Sweep:
    """Runs one stage again and again, each time in a fresh namespace; a context manager."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._folder = tempfile.TemporaryDirectory()
        self._subject: subprocess.Popen[bytes] | None = None
        self._undisturbed: Undisturbed | None = None
        self._child = 0

    def __enter__(self) -> Self:
        require()  # before the subject starts: it must see the same names
        for name, objects in states().items():
            Path(self._folder.name, name).write_bytes(kube_list(*objects))
        self._subject = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fault_subject"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd=Path(__file__).parents[2],
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._subject is not None
        assert self._subject.stdin is not None
        assert self._subject.stdout is not None
        self._subject.stdin.close()
        self._subject.stdout.close()
        self._subject.wait(_SECONDS)
        self._folder.cleanup()

    def undisturbed(self, *, tree: bool = False) -> Undisturbed:
        """Run without a fault; ``tree``: the calls of the programs it starts are told, too."""
        with scene() as netns:
            others = others_state(netns)
            ready = self._order(netns, self.stage.first)
            before = meaning(netns)
            with recorded(ready, tree=tree) as trace:
                first = self._go_on()
            after = meaning(netns)
            again = self._go_on()
            left = self._hear()
            assert first == again == left == Said(), (first, again, left)
            assert self._hear() == Said(ended=0)
            assert not half_services(after), after
            assert others_state(netns) == others
            self._undisturbed = Undisturbed(trace.calls(), before, after, others)
            return self._undisturbed

    def disturb(self, fault: Fault) -> Verdict:
        """Run with a fault, then go on without; says what is not as it must be."""
        if self._undisturbed is None:
            self.undisturbed()
        with scene() as netns:
            ready = self._order(netns, self.stage.first)
            if self.stage.first:
                add_stale_flow(netns)
            with injected(ready, fault) as trace:
                said = self._go_on()
            problems = [*self._judge(netns, said)]
            if said.ended is None:
                problems += self._same_process()
            else:
                problems += self._fresh_process(netns)
            problems += self._judge_end(netns)
        told = said.failure if said.ended is None else f"ended {said.ended}"
        fired = trace.fired() or said.ended == -signal.SIGKILL
        return Verdict(fault, fired, told.strip(), tuple(problems))

    def _judge(self, netns: Namespace, said: Said) -> Iterator[str]:
        """What is wrong right after the fault."""
        assert self._undisturbed is not None
        held = meaning(netns)
        if said.bug:
            yield f"a bug: {said.bug}"
        if said.failure and not _NAMED.search(said.failure):
            yield "the failure does not say what failed"
        # iptables-save may fail in the same way each time, silently: two that agree on a chain
        # without its jumps are believed. A jump that is there twice does no harm until the next.
        held_once, after = _once(held), _once(self._undisturbed.after)
        if said == Said() and held_once != after:
            yield "reported as done, and is not"
        if held not in (self._undisturbed.before, self._undisturbed.after):
            yield from half_services(held)

    def _same_process(self) -> Iterator[str]:
        again = self._go_on()
        if again != Said():
            yield f"then: {again.failure}{again.bug}"
        left = self._hear()
        if left.left:
            yield f"left open: {left.left}"
        ended = self._hear()
        if ended != Said(ended=0):
            yield f"the process ended strangely: {ended}"

    def _fresh_process(self, netns: Namespace) -> Iterator[str]:
        self._order(netns, "")
        first, _, left, ended = self._go_on(), self._go_on(), self._hear(), self._hear()
        if first != Said() or ended != Said(ended=0):
            yield f"a fresh process: {first}, {left}, {ended}"

    def _judge_end(self, netns: Namespace) -> Iterator[str]:
        assert self._undisturbed is not None
        if meaning(netns) != self._undisturbed.after:
            yield "the next sync does not make it good"
        if others_state(netns) != self._undisturbed.others:
            yield "what is not ours has changed"
        if not self.stage.is_engine and STALE_ADDRESS in udp_flows(netns):
            yield "a stale flow is still there"

    def _order(self, netns: Namespace, first: str) -> int:
        """Start a child; returns its process id when it is ready."""
        folder = Path(self._folder.name)
        subject, _, second = self.stage
        order = Order(
            str(netns), subject, str(folder / first) if first else "", str(folder / second)
        )
        self._write(msgspec.json.encode(order))
        said = self._hear()
        assert said.ready, said
        self._child = said.ready
        return said.ready

    def _go_on(self) -> Said:
        """Let it act; returns what it tells, or how it ended."""
        self._write(b"go on")
        return self._hear()

    def _write(self, line: bytes) -> None:
        assert self._subject is not None
        assert self._subject.stdin is not None
        self._subject.stdin.write(line + b"\n")

    def _hear(self) -> Said:
        assert self._subject is not None
        assert self._subject.stdout is not None
        stdout = self._subject.stdout.fileno()
        line = b""
        deadline = time.monotonic() + _SECONDS
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([stdout], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                os.kill(self._child, signal.SIGKILL)
                raise AssertionError(f"nothing is heard for {_SECONDS} s")
            byte = self._subject.stdout.read(1)
            assert byte, f"the subject has ended: {self._subject.wait(_SECONDS)}"
            line += byte
        return msgspec.json.decode(line, type=Said)


def _once(held: dict[str, object]) -> dict[str, object]:
    """A meaning, each rule of an iptables chain told once."""
    found = dict(held)
    for program in ("iptables-save", "ip6tables-save"):
        tables = held[program]
        assert isinstance(tables, dict)
        found[program] = {
            table: {chain: list(dict.fromkeys(rules)) for chain, rules in chains.items()}
            for table, chains in tables.items()
        }
    return found


def spread(faults: Iterable[Fault], count: int) -> list[Fault]:
    """So many of them, evenly; all where there are no more."""
    every = list(faults)
    if len(every) <= count:
        return every
    return [every[index * len(every) // count] for index in range(count)]
