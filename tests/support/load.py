"""Connections that go on while something happens to the node: a generator, and its books."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from netplane.apply.netns import Namespace
from tests.support.eventually import DEADLINE, eventually
from tests.support.load_generator import Books, Order, Target, totals

_PROJECT = Path(__file__).parents[2]


class Load:
    """A generator at work; ``new_load`` starts and ends it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def books(self) -> Books:
        """What has happened since the start."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._process.stdout.readline(), type=Books)

    def made(self) -> int:
        """How many connections were made and answered so far."""
        return sum(self.books().made.values())

    def go_on(self, connections: int, *, within: float = DEADLINE) -> None:
        """Wait until so many more were made."""
        until = self.made() + connections
        eventually(lambda: self.made() >= until, within=within)

    def across(self, story: Callable[[], object], *, at_least: int) -> int:
        """Tell a story, again and again until so many connections were made meanwhile.

        Returns:
            How many were; none of them, and of those before and after, failed.
        """
        before = self.made()
        while True:
            story()
            made = self.made() - before
            self.assert_whole()
            if made >= at_least:
                return made

    def assert_whole(self) -> Books:
        """Nothing has failed so far, and no connection that is held was lost."""
        books = self.books()
        assert not books.failed, "\n".join(totals(books))
        return books


@contextlib.contextmanager
def new_load(
    world: Namespace,
    targets: Sequence[Target],
    *,
    ports: Sequence[int] = (8080,),
    rate: float = 1000.0,
) -> Iterator[Load]:
    """Start a generator in a namespace, and see its first connections made; it is ended after."""
    order = Order(targets=tuple(targets), ports=tuple(ports), rate=rate)
    argv = [sys.executable, "-m", "tests.support.load_generator"]
    argv.append(msgspec.json.encode(order).decode())

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_PROJECT)

    with world.call(start) as process:
        try:
            load = Load(process)
            load.go_on(2 * len(targets))
            yield load
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
