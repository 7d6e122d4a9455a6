"""``netplane status``: what is in the kernel now, and with --watch what happens there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from netplane.cli import options

if TYPE_CHECKING:
    from netplane.agent.telling.status import AgentStatus
    from netplane.apply.netns import Namespace
    from netplane.core.plan.status import Status

_SECONDS = 2.0
_SHORTEST = 0.1


@click.command("status", short_help="Show what is in the kernel now.")
@options.mode
@options.netns
@click.option(
    "--watch",
    "seconds",
    type=click.FloatRange(min=_SHORTEST),
    is_flag=False,
    flag_value=_SECONDS,
    envvar="NETPLANE_WATCH",
    metavar="[SECONDS]",
    help="Show the new connections of each interval until Ctrl-C (every 2 seconds).",
)
@click.option(
    "--count",
    type=click.IntRange(min=1),
    envvar="NETPLANE_COUNT",
    metavar="N",
    help="With --watch: end after so many intervals.",
)
@options.report
@click.pass_context
def command(
    ctx: click.Context, /, *, seconds: float | None, count: int | None, **_: object
) -> int:
    """Show what is in the kernel now: frontends, endpoints, new connections, drift.

    Where an agent keeps the namespace, also what it says: how many Services are programmed, and
    which are not and why; with -v all of them.

    Both modes are looked at unless --mode names one. Connections are counted since the rule or
    element was written, with --watch since the interval before; a dash stands where the kernel
    does not count them. Exit status: 0, 1 on error, also where an agent does not answer.
    """
    call = options.read(ctx)
    if seconds is None:
        if count is not None:
            raise click.UsageError("--count goes with --watch", ctx)
        return _status(call)
    return _watch(call, seconds, count)


def _status(call: options.Call) -> int:
    from netplane.agent.telling.status import ask_agent
    from netplane.apply.netns import Namespace
    from netplane.apply.privilege import require_net_admin
    from netplane.cli.report import StatusReport
    from netplane.cli.terminal import emit_json
    from netplane.errors import ConflictError, WireError

    require_net_admin()
    agent, silent = None, None
    with Namespace(call.netns) as namespace:
        found = tuple(_read(call, namespace).values())
        try:
            agent = ask_agent(namespace)
        except (WireError, ConflictError) as exc:
            silent = exc  # who looks because an agent hangs wants to see what the kernel has
    if call.json:
        emit_json(StatusReport(call.netns, found, agent))
    else:
        _print(found, where=call.netns or "this namespace")
        if agent is not None:
            _print_agent(agent, every=bool(call.verbose))
    if silent is not None:
        raise silent
    return 0


def _watch(call: options.Call, seconds: float, count: int | None) -> int:
    from netplane.apply.netns import Namespace
    from netplane.apply.privilege import require_net_admin
    from netplane.cli.watch import intervals, show

    require_net_admin()
    with Namespace(call.netns) as namespace:
        found = intervals(lambda: _read(call, namespace), call.netns, seconds=seconds, count=count)
        show(found, json=call.json, verbose=bool(call.verbose))
    return 0


def _read(call: options.Call, namespace: Namespace) -> dict[str, Status]:
    """What is in the kernel now, by the name of the mode."""
    from netplane.apply.modes import open_all, open_inhabited

    opened = open_all(namespace, call.mode) if call.mode else open_inhabited(namespace)
    return {name: dataplane.status() for name, dataplane in opened}


def _print(found: tuple[Status, ...], *, where: str) -> None:
    from netplane.cli.status_rows import COLUMNS, NUMBERS, rows_of
    from netplane.cli.terminal import Screen

    screen = Screen()
    installed = [status for status in found if status.installed]
    if not installed:
        screen.print(f"{where} holds nothing of netplane's")
    for status in installed:
        count = len(status.frontends)
        noun = "frontend" if count == 1 else "frontends"
        screen.print((status.mode, "bold"), f": {count:,} {noun} in {where}")
        if status.frontends:
            rows = [row for frontend in status.frontends for row in rows_of(frontend)]
            screen.print_table(COLUMNS, rows, right=NUMBERS)
        for drift in status.drift:
            screen.print(("drift: ", "red"), drift)


def _print_agent(agent: AgentStatus, *, every: bool) -> None:
    from netplane.cli.terminal import Screen

    screen = Screen()
    health = ("healthy", "green") if agent.healthy else ("not healthy", "bold red")
    counts = ", ".join(f"{count:,} {state}" for state, count in agent.counts.items() if count)
    screen.print(
        ("agent", "bold"),
        f" pid {agent.pid}, {agent.mode} mode, node {agent.node}: ",
        health,
        f"; Services: {counts or 'none'}",
    )
    for reason in agent.reasons:
        screen.print("  ", (reason, "red"))
    if agent.fault:
        screen.print("  the source: ", (agent.fault, "red"))
    told = {words for standing in agent.services for words in standing.why}
    for standing in agent.services:
        if every or standing.state != "programmed":
            screen.print(f"  {standing.namespace}/{standing.name}: ", (standing.state, "yellow"))
            for words in standing.why:
                screen.print("    ", words)
    for problem in agent.problems:
        if problem not in told:
            screen.print("  refused: ", problem)
    for remark in agent.remarks:
        screen.print("  ", (remark, "yellow"))
