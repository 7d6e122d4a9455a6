"""``netplane cleanup``: remove all and only what is ours."""

from __future__ import annotations

import click

from netplane.cli import options
from netplane.errors import NetplaneError


@click.command("cleanup", short_help="Remove all and only what is netplane's.")
@options.netns
@options.take_over
@options.report
@click.pass_context
def command(ctx: click.Context, /, **_: object) -> int:
    """Remove all and only what is netplane's from a network namespace, in both modes.

    In iptables mode our chains are kube-proxy's: where one programs iptables here they are left
    to it, unless --take-over says otherwise. Tables of nftables mode are ours alone.
    """
    return _cleanup(options.read(ctx))


def _cleanup(call: options.Call) -> int:
    from netplane.apply.cleanup import cleanup
    from netplane.apply.netns import Namespace
    from netplane.apply.privilege import require_net_admin
    from netplane.cli import log
    from netplane.cli.report import warn_of_agent

    require_net_admin()
    removed: list[str] = []
    try:
        with Namespace(call.netns) as namespace:
            warn_of_agent(namespace)
            for step in cleanup(namespace, take_over=call.take_over):
                if step.left:
                    log.warn(step.text)
                else:
                    removed.append(step.text)
    except NetplaneError:
        if removed:  # it is gone, although something failed later
            _print(call, removed)
        raise
    _print(call, removed)
    return 0


def _print(call: options.Call, removed: list[str]) -> None:
    from netplane.cli.report import CleanupReport
    from netplane.cli.terminal import Screen, emit_json

    if call.json:
        emit_json(CleanupReport(call.netns, tuple(removed)))
        return
    screen = Screen()
    for text in removed:
        screen.print(("- ", "red"), text)
    if not removed:
        screen.print("nothing to remove")
