"""What is documented exists, and what exists is documented."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import msgspec
import pytest

from netplane import errors
from netplane.agent.telling.ledger import State
from netplane.agent.telling.status import AgentStatus, ServiceStanding
from netplane.apply.doctor.examination import Finding, Level
from netplane.cli import report
from netplane.cli.main import COMMANDS
from netplane.cli.watch import Interval
from netplane.core.model.problem import Problem
from netplane.core.nftables.layout import SETS
from netplane.core.plan.changes import Action, ServiceChange
from netplane.core.plan.status import EndpointStatus, FrontendStatus, Status
from netplane.errors import NetplaneError

ROOT = Path(__file__).parents[2]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PATH = re.compile(r"`((?:netplane|templates|script|tests|docs|examples|bench)/[\w./-]*)`")


def test_every_command_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    missing = [name for name in COMMANDS if f"netplane {name}" not in readme]
    assert missing == []


def test_every_exception_is_in_the_tree_of_its_module() -> None:
    tree = inspect.getdoc(errors) or ""
    classes = [
        name
        for name, value in inspect.getmembers(errors, inspect.isclass)
        if issubclass(value, NetplaneError)
    ]
    assert len(classes) > 10
    assert [name for name in classes if name not in tree] == []


def test_every_set_of_the_program_is_explained_in_it() -> None:
    program = (ROOT / "templates" / "nftables" / "program.nft.j2").read_text()
    names = [layout.name for layout in SETS]
    assert [n for n in names if not re.search(rf"\n\t(set|map) {n} {{", program)] == []


@pytest.mark.parametrize(
    "document",
    [
        report.Report,
        report.FlowReport,
        report.Rendering,
        report.StatusReport,
        report.CleanupReport,
        ServiceChange,
        Problem,
        Status,
        FrontendStatus,
        EndpointStatus,
        Interval,
        Finding,
        AgentStatus,
        ServiceStanding,
    ],
    ids=lambda document: str(document.__name__),
)
def test_every_field_that_is_printed_as_json_is_documented(
    document: type[msgspec.Struct],
) -> None:
    text = (ROOT / "docs" / "json.md").read_text()
    names = [field.encode_name for field in msgspec.structs.fields(document)]
    assert names
    assert [name for name in names if f"`{name}`" not in text] == []


@pytest.mark.parametrize("word", [word.value for kind in (Action, Level, State) for word in kind])
def test_every_word_of_a_fixed_set_in_json_is_documented(word: str) -> None:
    assert f"`{word}`" in (ROOT / "docs" / "json.md").read_text()


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_paths_in_the_documents_exist(document: Path) -> None:
    named = PATH.findall(document.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []
