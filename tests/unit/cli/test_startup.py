"""``netplane --help`` must stay quick: nothing that only a command needs is imported for it."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import click
import pytest

from netplane.cli.main import COMMANDS, cli

# All of them together cost more than the interpreter itself; msgspec and rich 60 ms each.
_HEAVY = {
    "asyncio", "iptc", "jinja2", "logging", "msgspec", "netplane.config", "netplane.core",
    "netplane.apply", "pyroute2", "rich", "rich_click", "subprocess", "yaml",
}  # fmt: skip
_CHILD = """
import json, sys
from netplane.cli.main import main
status = main(sys.argv[1:])
sys.stderr.write(json.dumps([status, sorted(sys.modules)]))
"""


def _modules(*arguments: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, *arguments], capture_output=True, check=True, text=True
    )
    status, modules = json.loads(done.stderr)
    assert status == 0
    assert "Usage: netplane" in done.stdout
    return set(modules)


def test_help_imports_no_command_and_nothing_heavy() -> None:
    modules = _modules("--help")
    assert not modules & _HEAVY
    assert not modules & {f"netplane.cli.{name}" for name in COMMANDS}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_imports_no_library(name: str) -> None:
    assert not _modules(name, "--help") & _HEAVY


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_exists_and_every_option_has_its_variable(name: str) -> None:
    command = importlib.import_module(f"netplane.cli.{name}").command
    assert isinstance(command, click.Command)
    assert command.name == name
    for parameter in command.params:
        long = max(parameter.opts, key=len)
        variable = "NETPLANE_" + long.removeprefix("--").replace("-", "_").upper()
        assert parameter.envvar == variable


def test_the_group_lists_every_command() -> None:
    assert cli.list_commands(click.Context(cli)) == list(COMMANDS)
