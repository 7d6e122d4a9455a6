"""Every scenario file, in every mode it applies to, against the kernel."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.conformance.agent_runner import is_about_an_agent, run_with_agent
from tests.conformance.runner import run_scenario
from tests.support.host_iptables import Variant, use_iptables
from tests.support.scenario import Mode, Scenario, load

pytestmark = pytest.mark.kernel

SCENARIOS = Path(__file__).parent / "scenarios"

# What a scenario runs with: the mode, and which iptables the host has. Most are one run of the
# command for each step; an agent that goes on is given the scenarios in which something changes.
RUNS: dict[str, tuple[Mode, Variant]] = {
    "iptables": ("iptables", "nft"),
    "iptables-legacy": ("iptables", "legacy"),
    "nftables": ("nftables", "nft"),
    "iptables-agent": ("iptables", "nft"),
    "nftables-agent": ("nftables", "nft"),
}


# What these are about is decided before there are rules: one mode shows it. Both variants of
# iptables are given the same text: tests/kernel/test_iptables.py reads it back from either.
_PLAN_ALONE = frozenset({"topology", "slices", "terminating", "ownership", "healthcheck"})
_ONE_MODE = _PLAN_ALONE - {"healthcheck"}  # iptables mode lets its ports in by rules
# Where the variants of iptables could differ: what the kernel does with the rules.
_KERNELS_OWN = frozenset({"nodeport", "masquerade", "affinity"})


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per file and run: the project's own folder, or ``--scenarios DIR``."""
    folder = metafunc.config.getoption("--scenarios")
    files = sorted((folder or SCENARIOS).glob("*.json"))
    if not files:
        raise pytest.UsageError(f"--scenarios {folder}: no .json files there")
    metafunc.parametrize(
        ("path", "run"),
        [
            pytest.param(path, run, id=f"{path.stem}-{run}", marks=marks)
            for path in files
            for run in RUNS
            for marks in (_worth(load(path), run) if folder is None else _wanted(path, run))
        ],
    )


def _wanted(path: Path, run: str) -> list[tuple[pytest.MarkDecorator, ...]]:
    """The same for a file that somebody else wrote: each mode has to do what it says."""
    if not run.endswith("-agent"):
        return [()]
    try:
        return [marks for marks in _worth(load(path), run) if not marks]
    except msgspec.DecodeError:
        return []  # the other runs tell what is wrong with it


def _worth(scenario: Scenario, run: str) -> list[tuple[pytest.MarkDecorator, ...]]:
    """The marks of a run with a scenario of our own, none where it says nothing new."""
    category = scenario.category
    says_more = RUNS[run][0] in scenario.backends
    usual = True
    if run.endswith("-agent"):
        says_more = says_more and is_about_an_agent(scenario)
        # An agent alone opens ports, deletes flows while it goes on, and can be restarted. Flows
        # are the same in both modes.
        usual = (
            category == "healthcheck"
            or (category == "conntrack" and run == "nftables-agent")
            or any(step.restart for step in scenario.steps)
        )
    elif run == "iptables-legacy":
        says_more = says_more and category not in _PLAN_ALONE
        usual = category in _KERNELS_OWN
    elif run == "iptables":
        usual = category not in _ONE_MODE or "nftables" not in scenario.backends
    if not says_more:
        return []
    return [() if usual else (pytest.mark.soak,)]


def test_scenario(path: Path, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mode, variant = RUNS[run]
    scenario = load(path)
    if mode not in scenario.backends:
        pytest.skip(f"{scenario.id} is about {', '.join(scenario.backends)} only")
    links = tmp_path / "links"
    links.mkdir()
    use_iptables(variant, links, monkeypatch)
    if run.endswith("-agent"):
        wrong = run_with_agent(scenario, mode, tmp_path)
    else:
        wrong = run_scenario(scenario, mode)
    assert not wrong, "\n".join(wrong)
