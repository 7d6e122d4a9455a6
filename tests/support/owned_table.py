"""A table that only its owner may write to: others get EPERM until the owner ends."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator

from netplane.apply.netns import Namespace
from tests.support.eventually import DEADLINE, eventually
from tests.support.netns import run_tool

#: The table each mode writes to first.
TABLES = {"nftables": "ip netplane", "iptables": "ip nat"}


@contextlib.contextmanager
def owned_table(namespace: Namespace, mode: str) -> Iterator[Callable[[], None]]:
    """Let a stranger own the mode's table, in the place of what is there.

    Yields what ends the stranger, and the table with it; the end of the block does so, too.
    """
    table = TABLES[mode]
    argv = ["nft", "-i"]
    stranger = namespace.call(
        lambda: subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    )
    with stranger:
        assert stranger.stdin is not None
        stranger.stdin.write(
            f"add table {table}; delete table {table}; add table {table} {{ flags owner; }}\n"
        )
        stranger.stdin.flush()
        eventually(lambda: "flags owner" in run_tool(["nft", "list", "ruleset"], inside=namespace))

        def end() -> None:
            stranger.communicate(timeout=DEADLINE)

        yield end
