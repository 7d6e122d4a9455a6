"""Every scenario file, in every mode it applies to, against the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.runner import run_scenario
from tests.support.scenario import MODES, Mode, load

pytestmark = pytest.mark.kernel


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per file and mode: ``--scenarios DIR``, or the folder shared with the project."""
    folder = metafunc.config.getoption("--scenarios")
    if folder is None:
        folder = metafunc.config.rootpath.parent / "shared" / "scenarios"
        if not folder.is_dir():
            reason = f"no scenarios: {folder} does not exist; name a folder with --scenarios"
            metafunc.parametrize(
                ("path", "mode"), [pytest.param(None, None, marks=pytest.mark.skip(reason=reason))]
            )
            return
    files = sorted(folder.glob("*.json"))
    if not files:
        raise pytest.UsageError(f"--scenarios {folder}: no .json files there")
    metafunc.parametrize(
        ("path", "mode"),
        [pytest.param(path, mode, id=f"{path.stem}-{mode}") for path in files for mode in MODES],
    )


def test_scenario(path: Path, mode: Mode, tmp_path: Path) -> None:
    scenario = load(path)
    if mode not in scenario.backends:
        pytest.skip(f"{scenario.id} is about {', '.join(scenario.backends)} only")
    wrong = run_scenario(scenario, mode, tmp_path)
    assert not wrong, "\n".join(wrong)
