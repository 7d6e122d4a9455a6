"""``netplane status``: what is in the kernel now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from netplane.cli import options

if TYPE_CHECKING:
    from rich.table import Table

    from netplane.core.plan.status import FrontendStatus, Status


@click.command("status", short_help="Show what is in the kernel now.")
@options.mode
@options.netns
@options.report
@click.pass_context
def command(ctx: click.Context, /, **_: object) -> int:
    """Show what is in the kernel now: frontends, endpoints, new connections, drift.

    Both modes are looked at unless --mode names one. Connections are counted since the rule or
    element was written; a dash stands where the kernel does not count them.
    """
    return _status(options.read(ctx))


def _status(call: options.Call) -> int:
    from netplane.apply.modes import open_all
    from netplane.apply.netns import Namespace
    from netplane.apply.privilege import require_net_admin
    from netplane.cli.report import StatusReport
    from netplane.cli.terminal import emit_json

    require_net_admin()
    with Namespace(call.netns) as namespace:
        found = tuple(d.status() for _, d in open_all(namespace, call.mode))
    if call.json:
        emit_json(StatusReport(call.netns, found))
    else:
        _print(found, where=call.netns or "this namespace")
    return 0


def _print(found: tuple[Status, ...], *, where: str) -> None:
    from netplane.cli.terminal import console, line

    out = console()
    installed = [status for status in found if status.installed]
    if not installed:
        out.print(line(f"{where} holds nothing of netplane's"))
    for status in installed:
        count = len(status.frontends)
        out.print(line((f"{status.mode}", "bold"), f": {count} frontends in {where}"))
        if status.frontends:
            out.print(_table(status.frontends))
        for drift in status.drift:
            out.print(line(("drift: ", "red"), drift))


def _table(frontends: tuple[FrontendStatus, ...]) -> Table:
    from rich.text import Text

    from netplane.cli.terminal import line, table
    from netplane.core.model.address import join_host_port

    numbers = ("CONNECTIONS", "SHARE")
    result = table(("SERVICE", "KIND", "FRONTEND", "ENDPOINT", *numbers), right=numbers)
    for frontend in frontends:
        address = join_host_port(frontend.address, frontend.port)
        head = (
            line(frontend.label or "-"),
            line(frontend.kind),
            line(f"{address}/{frontend.protocol}"),
        )
        total = line("-" if frontend.connections is None else str(frontend.connections))
        if not frontend.endpoints:
            result.add_row(*head, line((frontend.verdict, "yellow")), total, Text())
        counted = sum(endpoint.connections or 0 for endpoint in frontend.endpoints)
        for endpoint in frontend.endpoints:
            count = endpoint.connections
            share = "-" if count is None or not counted else f"{100 * count / counted:.0f} %"
            result.add_row(
                *head,
                line(join_host_port(endpoint.address, endpoint.port)),
                line("-" if count is None else str(count)),
                line(share),
            )
            head = (Text(), Text(), Text())
    return result
