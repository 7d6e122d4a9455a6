"""The examples: accepted by kubectl, refused by nobody."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from netplane.core.model.cluster import build_snapshot
from netplane.core.model.documents import parse

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_has_no_problem(path: Path) -> None:
    snapshot = build_snapshot(parse(path.read_bytes(), origin=path.name))
    assert snapshot.problems == ()
    assert not snapshot.skipped


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_kubectl_decodes_an_example_into_its_own_types(path: Path, tmp_path: Path) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    # `label --local` decodes strictly typed objects without asking any server.
    done = subprocess.run(
        [kubectl, "label", "--local", "-f", str(path), "checked=true", "-o", "name"],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    documents = [text for text in path.read_text().split("\n---\n") if "kind:" in text]
    assert len(done.stdout.splitlines()) == len(documents)
