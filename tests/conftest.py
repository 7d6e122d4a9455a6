"""Options and fixtures every test may use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-goldens",
        action="store_true",
        help="rewrite the golden texts with what the code renders now, then read the diff",
    )
    parser.addoption(
        "--scenarios",
        type=Path,
        default=None,
        help="another folder of behaviour scenarios (default: tests/conformance/scenarios)",
    )
    parser.addoption(
        "--soak",
        action="store_true",
        help="run the long tests, which are left out otherwise, and only those",
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare text, byte for byte, with a file beside the test; `--update-goldens` rewrites it."""

    def check(name: str, text: str) -> None:
        path = request.path.parent / name
        if request.config.getoption("--update-goldens"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        assert path.exists(), f"{path.name} is missing: run with --update-goldens and read it"
        assert text == path.read_text(encoding="utf-8")

    return check


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long tests run when asked for; kernel tests need root, and say so once for all."""
    soak = config.getoption("--soak")
    left_out = [i for i in items if (i.get_closest_marker("soak") is not None) != soak]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [i for i in items if (i.get_closest_marker("soak") is not None) == soak]
    if os.geteuid() == 0:
        return
    skip = pytest.mark.skip(reason="kernel tests need root: run `sudo script/test`")
    for item in items:
        if item.get_closest_marker("kernel") is not None:
            item.add_marker(skip)
