"""Every scenario file, in every mode it applies to, against the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.runner import run_scenario
from tests.support.host_iptables import Variant, use_iptables
from tests.support.scenario import Mode, load

pytestmark = pytest.mark.kernel

# What a scenario runs with: the mode, and which iptables the host has.
RUNS: dict[str, tuple[Mode, Variant]] = {
    "iptables": ("iptables", "nft"),
    "iptables-legacy": ("iptables", "legacy"),
    "nftables": ("nftables", "nft"),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per file and run: ``--scenarios DIR``, or the folder shared with the project."""
    folder = metafunc.config.getoption("--scenarios")
    if folder is None:
        folder = metafunc.config.rootpath.parent / "shared" / "scenarios"
        if not folder.is_dir():
            reason = f"no scenarios: {folder} does not exist; name a folder with --scenarios"
            metafunc.parametrize(
                ("path", "run"), [pytest.param(None, None, marks=pytest.mark.skip(reason=reason))]
            )
            return
    files = sorted(folder.glob("*.json"))
    if not files:
        raise pytest.UsageError(f"--scenarios {folder}: no .json files there")
    metafunc.parametrize(
        ("path", "run"),
        [pytest.param(path, run, id=f"{path.stem}-{run}") for path in files for run in RUNS],
    )


def test_scenario(path: Path, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mode, variant = RUNS[run]
    scenario = load(path)
    if mode not in scenario.backends:
        pytest.skip(f"{scenario.id} is about {', '.join(scenario.backends)} only")
    use_iptables(variant, tmp_path, monkeypatch)
    wrong = run_scenario(scenario, mode)
    assert not wrong, "\n".join(wrong)
