"""What is documented exists, and what exists is documented."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from netplane import errors
from netplane.agent.telling.ledger import State
from netplane.agent.telling.status import AgentStatus, ServiceStanding
from netplane.apply.doctor.examination import Finding, Level
from netplane.cli import agent, apply, options, report
from netplane.cli.main import COMMANDS
from netplane.cli.watch import Interval
from netplane.config.document import decode
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


def test_every_option_that_configures_is_in_the_table_of_the_configuration() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    asked = {
        parameter.opts[-1]
        for command in (apply.command, agent.command)
        for parameter in command.params
        if str(parameter.name) in options.CONFIG_FIELDS
    }
    assert len(asked) > 12
    assert [option for option in sorted(asked) if f"`{option}`" not in text] == []


def test_every_field_of_the_file_in_that_table_is_one() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| ")]
    tree: dict[str, Any] = {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1"}
    tree["kind"] = "KubeProxyConfiguration"
    for name in re.findall(r"`([a-z]\w+(?:\.\w+)?)`", "".join(row[3] for row in rows)):
        section, _, field = name.partition(".")
        if field:
            tree.setdefault(section, {})[field] = None
        else:
            tree[section] = None
    assert len(tree) > 10
    assert decode(msgspec.json.encode(tree), path="table").unknown == ()


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_paths_in_the_documents_exist(document: Path) -> None:
    named = PATH.findall(document.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []
