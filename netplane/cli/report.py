"""What the commands print: a line per service port for people, stable documents for machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from netplane.agent.holder import keeper_of
from netplane.agent.telling.status import AgentStatus
from netplane.apply.flows import Flow
from netplane.apply.netns import Namespace
from netplane.apply.sync import Outcome, Sync
from netplane.cli import log
from netplane.cli.options import Call
from netplane.cli.terminal import Line, Part, Screen, emit_json
from netplane.config import Config
from netplane.core.model.address import join_host_port
from netplane.core.model.problem import Problem
from netplane.core.model.snapshot import Snapshot
from netplane.core.plan.changes import Action, ServiceChange
from netplane.core.plan.plan import Plan
from netplane.core.plan.status import Status

_NAMED = 4  # how many endpoints a line names before it counts the rest
_SHOWN = 50  # how many lines of a kind there are without -v before the rest is counted
_MARKS = {
    Action.ADDED: ("+", "green"),
    Action.REMOVED: ("-", "red"),
    Action.CHANGED: ("~", "yellow"),
}


class FlowReport(msgspec.Struct, frozen=True):
    """A UDP flow that was deleted: who talked to which frontend, and what answered."""

    client: str
    frontend: str
    endpoint: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The document ``-o json`` prints.

    Attributes:
        mode, node: Whose rules, for which node.
        namespace: The named network namespace, null for the process's own.
        changed: Whether anything differs (diff, dry run) or was changed (apply).
        written: Whether anything was written.
        services: Per service port what changes; ``rules`` are there with -v.
        base: Lines of what Services share, ``+ `` or ``- ``; there with -v.
        also: Other changes, in words.
        flows: UDP conntrack entries deleted.
        problems: Refused objects.
        skipped: Objects of kinds with nothing to program, counted.
        failures: Steps after the rules that failed, in words.
    """

    mode: str
    node: str
    namespace: str | None
    changed: bool
    written: bool
    services: tuple[ServiceChange, ...]
    base: tuple[str, ...]
    also: tuple[str, ...]
    flows: tuple[FlowReport, ...] = ()
    problems: tuple[Problem, ...] = ()
    skipped: Mapping[str, int] = {}
    failures: tuple[str, ...] = ()


class Rendering(msgspec.Struct, frozen=True):
    """The document of ``netplane render -o json``; ``rules`` is the text itself."""

    mode: str
    node: str
    rules: str
    problems: tuple[Problem, ...]


class StatusReport(msgspec.Struct, frozen=True):
    """The document of ``netplane status -o json``; ``agent`` where one keeps the namespace."""

    namespace: str | None
    modes: tuple[Status, ...]
    agent: AgentStatus | None = None


class CleanupReport(msgspec.Struct, frozen=True):
    """The document of ``netplane cleanup -o json``: what was removed, in words."""

    namespace: str | None
    removed: tuple[str, ...]


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """Whose rules a report is about, and how much it says."""

    mode: str
    node: str
    namespace: str | None
    verbose: bool
    json: bool
    problems: tuple[Problem, ...]
    skipped: Mapping[str, int]


def name_problems(problems: Iterable[Problem]) -> None:
    """Name every refused object on stderr."""
    for problem in problems:
        log.warn(f"refused: {problem}")


def warn_of_agent(namespace: Namespace) -> None:
    """Say that an agent will soon undo what is done here, where one runs."""
    agent = keeper_of(namespace)
    if agent:
        log.warn(
            f"an agent keeps {namespace}, {agent}: it will soon make it again what its own source "
            "says. Stop it first"
        )


def warn_of(sync: Sync) -> None:
    """Say on stderr what a pass leaves out: a family, refused objects."""
    for note in sync.notes:
        log.warn(note)
    name_problems(sync.plan.problems)


def print_outcome(outcome: Outcome, setting: Setting, *, written: bool, same: str) -> None:
    """Print what a sync changed, or would change.

    Args:
        outcome: The changes.
        setting: Whose, and how.
        written: Whether they are in the kernel by now.
        same: What to say where there are none.
    """
    changes = outcome.changes
    if setting.json:
        emit_json(_document(outcome, setting, written=written))
        return
    screen = Screen()
    limit = None if setting.verbose else _SHOWN
    services = changes.outline(limit=limit, rules=setting.verbose)
    for service in services:
        screen.print(*service_line(service))
        for rule in service.rules:
            screen.print(*_rule_line(rule))
    totals = changes.totals()
    _say_more(screen, totals.total() - len(services), "service ports")
    for base in _base_lines(changes.base, verbose=setting.verbose):
        screen.print(*base)
    for step in outcome.also:
        screen.print(("* ", "cyan"), step)
    for flow in map(_flow, outcome.flows[:limit]):
        screen.print(
            ("* ", "cyan"),
            f"deleted the UDP flow of {flow.client} to {flow.frontend}: {flow.endpoint} "
            "must not answer it",
        )
    if limit is not None:
        _say_more(screen, len(outcome.flows) - limit, "deleted UDP flows")
    screen.print(_summary(totals) if outcome else same)


def _say_more(screen: Screen, count: int, what: str) -> None:
    """Say how many lines were left out."""
    if count > 0:
        screen.print(f"... and {count:,} more {what} (-v shows all)")


def _document(outcome: Outcome, setting: Setting, *, written: bool) -> Report:
    changes = outcome.changes
    return Report(
        mode=setting.mode,
        node=setting.node,
        namespace=setting.namespace,
        changed=bool(outcome),
        written=written and bool(outcome),
        services=tuple(changes.outline(rules=setting.verbose)),
        base=changes.base if setting.verbose else (),
        also=outcome.also,
        flows=tuple(map(_flow, outcome.flows)),
        problems=setting.problems,
        skipped=setting.skipped,
        failures=outcome.failures,
    )


def _flow(flow: Flow) -> FlowReport:
    return FlowReport(
        client=join_host_port(flow.source, flow.source_port),
        frontend=join_host_port(flow.destination, flow.port),
        endpoint=join_host_port(flow.answers, flow.answer_port),
    )


def service_line(change: ServiceChange) -> Line:
    """``~ default/web:http tcp  +1 endpoint (10.244.1.8:8080)  10.244.1.7:8080 gone``."""
    mark, style = _MARKS[change.action]
    words = [change.protocol, change.family if change.family == "IPv6" else ""]
    parts: list[Part] = [
        (f"{mark} ", style),
        (change.label or "?", f"bold {style}"),
        *(f" {word}" for word in words if word),
    ]
    parts += [(f"  +{frontend}", "green") for frontend in change.frontends_added]
    parts += [(f"  -{frontend}", "red") for frontend in change.frontends_removed]
    added, gone = change.endpoints_added, change.endpoints_removed
    if added:
        more = ", ..." if len(added) > _NAMED else ""
        noun = "endpoint" if len(added) == 1 else "endpoints"
        parts += [(f"  +{len(added)} {noun}", "green"), f" ({', '.join(added[:_NAMED])}{more})"]
    parts += [(f"  {endpoint} gone", "red") for endpoint in gone[:_NAMED]]
    if len(gone) > _NAMED:
        parts.append((f"  and {len(gone) - _NAMED} more gone", "red"))
    parts += [f"  {note}" for note in change.notes]
    return parts


def _rule_line(rule: str) -> Line:
    styles = {"+": "green", "-": "red"}
    return ["    ", (rule, styles[rule[0]]) if rule[:1] in styles else rule]


def _base_lines(base: tuple[str, ...], *, verbose: bool) -> Iterable[Line]:
    """What Services share: every line under -v, else just how many."""
    if not base:
        return
    if verbose:
        yield [("~ ", "yellow"), "what Services share"]
        yield from map(_rule_line, base)
        return
    added = sum(text.startswith("+") for text in base)
    removed = sum(text.startswith("-") for text in base)
    yield [("~ ", "yellow"), f"what Services share: +{added} -{removed} lines (-v shows them)"]


def _summary(totals: Counter[Action]) -> str:
    """``2 added, 1 changed, 0 removed``: service ports."""
    return "service ports: " + ", ".join(f"{totals[action]:,} {action.value}" for action in Action)


def setting_of(call: Call, config: Config, plan: Plan, snapshot: Snapshot) -> Setting:
    """The setting of this command line's report."""
    return Setting(
        mode=config.mode,
        node=config.node_name,
        namespace=call.netns,
        verbose=bool(call.verbose),
        json=call.json,
        problems=plan.problems,
        skipped=snapshot.skipped,
    )
