"""``script/demo``: it works, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.netns import require

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.kernel, pytest.mark.e2e]


def test_it_leaves_nothing_behind() -> None:
    require()
    with subprocess.Popen(
        [ROOT / "script" / "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "NETPLANE_NO_LINK": "1"},
        text=True,
        start_new_session=True,
    ) as demo:
        said, _ = demo.communicate(timeout=300)
    assert demo.returncode == 0, said
    assert "saw" in said
    assert list(Path("/run/netns").glob(f"np-demo-{demo.pid}-*")) == []
    assert _of_session(demo.pid) == []


def _of_session(session: int) -> list[str]:
    """The processes of a session that still run, by their command lines."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # it has just ended
        if int(fields[3]) == session and line:
            found.append(line)
    return found
