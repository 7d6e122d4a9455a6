"""``netplane status``: what is in the kernel now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from netplane.cli import options

if TYPE_CHECKING:
    from netplane.cli.terminal import Part
    from netplane.core.plan.status import FrontendStatus, Status

_NUMBERS = ("CONNECTIONS", "SHARE")
_COLUMNS = ("SERVICE", "KIND", "FRONTEND", "ENDPOINT", *_NUMBERS)
_NOT_COUNTED = "-"


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
    from netplane.apply.modes import open_all, open_inhabited
    from netplane.apply.netns import Namespace
    from netplane.apply.privilege import require_net_admin
    from netplane.cli.report import StatusReport
    from netplane.cli.terminal import emit_json

    require_net_admin()
    with Namespace(call.netns) as namespace:
        opened = open_all(namespace, call.mode) if call.mode else open_inhabited(namespace)
        found = tuple(dataplane.status() for _, dataplane in opened)
    if call.json:
        emit_json(StatusReport(call.netns, found))
    else:
        _print(found, where=call.netns or "this namespace")
    return 0


def _print(found: tuple[Status, ...], *, where: str) -> None:
    from netplane.cli.terminal import Screen

    screen = Screen()
    installed = [status for status in found if status.installed]
    if not installed:
        screen.print(f"{where} holds nothing of netplane's")
    for status in installed:
        screen.print((status.mode, "bold"), f": {len(status.frontends)} frontends in {where}")
        if status.frontends:
            rows = [row for frontend in status.frontends for row in _rows(frontend)]
            screen.print_table(_COLUMNS, rows, right=_NUMBERS)
        for drift in status.drift:
            screen.print(("drift: ", "red"), drift)


def _rows(frontend: FrontendStatus) -> list[tuple[Part, ...]]:
    """A frontend's rows: one per endpoint, or one that says what happens without any."""
    from netplane.core.model.address import join_host_port

    address = join_host_port(frontend.address, frontend.port)
    head = (frontend.label or "-", frontend.kind, f"{address}/{frontend.protocol}")
    if not frontend.endpoints:
        total = _NOT_COUNTED if frontend.connections is None else str(frontend.connections)
        return [(*head, (frontend.verdict, "yellow"), total, "")]
    counted = sum(endpoint.connections or 0 for endpoint in frontend.endpoints)
    rows: list[tuple[Part, ...]] = []
    for endpoint in frontend.endpoints:
        count = endpoint.connections
        share = _NOT_COUNTED if count is None or not counted else f"{count / counted:.0%}"
        rows.append(
            (
                *(head if not rows else ("", "", "")),
                join_host_port(endpoint.address, endpoint.port),
                _NOT_COUNTED if count is None else str(count),
                share,
            )
        )
    return rows
