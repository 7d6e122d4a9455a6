"""The nft program: listing our tables, and loading what netlink messages of ours cannot say.

It is checked for its version the first time it is about to be run; a run that needs no nft starts
none.
"""

from __future__ import annotations

import re

from netplane.apply.netns import Namespace
from netplane.apply.tools import Completed, run
from netplane.core.model.address import Family
from netplane.core.nftables.observed import Observed
from netplane.core.nftables.parse import parse_table
from netplane.core.nftables.text import table_of
from netplane.errors import RefusedError, ToolError

_OLDEST = (1, 0, 1)  # older ones read the whole ruleset, everybody's, before any command
_TESTED = "1.0.6"
_VERSION = re.compile(r"nftables v([0-9]+)\.([0-9]+)\.([0-9]+)")
_COMPLAINT = re.compile(r"^[^:\n]+:([0-9]+):[0-9]+-[0-9]+: Error: (.*)$", re.MULTILINE)


class NftTool:
    """nft in one namespace. Every method raises ToolError where it is absent or too old."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._checked = False

    def list_table(self, family: Family) -> Observed:
        """Our table as nft prints it. Raises ToolError where it cannot."""
        self._require()
        listed = run(self._namespace, ["nft", "list", "table", *table_of(family).split()])
        if listed.status != 0:
            raise ToolError(f"nft cannot list table {table_of(family)}: {_first(listed)}")
        return parse_table(listed.stdout.decode(errors="replace"), family)

    def load(self, text: str, *, written: str = "") -> None:
        """Load a script, all or nothing.

        Args:
            text: The script; of "" nothing is loaded.
            written: What has been written before, in words, for the error.

        Raises:
            RefusedError: nft or the kernel refused a line.
            ToolError: nft failed in some other way.
        """
        if not text:
            return
        self._require()
        done = run(self._namespace, ["nft", "-f", "-"], stdin=text.encode())
        if done.status == 0:
            return
        complaint = _COMPLAINT.search(done.stderr)
        if complaint is None:
            raise ToolError(f"nft failed (status {done.status}): {_first(done)}")
        number = int(complaint[1])
        lines = text.splitlines()
        line = lines[number - 1].strip() if 0 < number <= len(lines) else ""
        raise RefusedError(
            f"nft refused line {number}, `{line:.200}`: {complaint[2]};"
            f" written: {written or 'nothing'}",
            line=number,
            written=written,
        )

    def _require(self) -> None:
        if self._checked:
            return
        answer = run(self._namespace, ["nft", "--version"])
        found = _VERSION.search(answer.stdout.decode(errors="replace"))
        if found is None:
            raise ToolError(f"nft --version says nothing of a version: {_first(answer)}")
        if tuple(int(part) for part in found.groups()) < _OLDEST:
            oldest = ".".join(map(str, _OLDEST))
            raise ToolError(
                f"{found[0]} is too old: nftables mode needs {oldest}, and is tested with"
                f" {_TESTED}"
            )
        self._checked = True


def _first(done: Completed) -> str:
    """The first line a program wrote to stderr."""
    return next(iter(done.stderr.strip().splitlines()), "no message")
