"""Every scenario file, in every mode it applies to, against the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.runner import run_scenario
from tests.support.host_iptables import Variant, use_iptables
from tests.support.scenario import Mode, Scenario, load

pytestmark = pytest.mark.kernel

SCENARIOS = Path(__file__).parent / "scenarios"

# What a scenario runs with: the mode, and which iptables the host has.
RUNS: dict[str, tuple[Mode, Variant]] = {
    "iptables": ("iptables", "nft"),
    "iptables-legacy": ("iptables", "legacy"),
    "nftables": ("nftables", "nft"),
}


# What these are about is decided before there are rules, and both variants of iptables are given
# the same text: tests/kernel/test_iptables.py reads it back from either.
_PLAN_ALONE = frozenset({"topology", "slices", "terminating", "ownership", "healthcheck"})


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per file and run: the project's own folder, or ``--scenarios DIR``."""
    folder = metafunc.config.getoption("--scenarios")
    files = sorted((folder or SCENARIOS).glob("*.json"))
    if not files:
        raise pytest.UsageError(f"--scenarios {folder}: no .json files there")
    metafunc.parametrize(
        ("path", "run"),
        [
            pytest.param(path, run, id=f"{path.stem}-{run}")
            for path in files
            for run in RUNS
            if folder is not None or _is_worth_running(load(path), run)
        ],
    )


def _is_worth_running(scenario: Scenario, run: str) -> bool:
    """Whether a scenario of our own says anything about a run."""
    if RUNS[run][0] not in scenario.backends:
        return False
    return run != "iptables-legacy" or scenario.category not in _PLAN_ALONE


def test_scenario(path: Path, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mode, variant = RUNS[run]
    scenario = load(path)
    if mode not in scenario.backends:
        pytest.skip(f"{scenario.id} is about {', '.join(scenario.backends)} only")
    use_iptables(variant, tmp_path, monkeypatch)
    wrong = run_scenario(scenario, mode)
    assert not wrong, "\n".join(wrong)
