"""``netplane diff``: the live kernel against the input."""

from __future__ import annotations

import click

from netplane.cli import options
from netplane.errors import NetplaneError

EXIT_DIFFERS = 1
EXIT_ERROR = 3  # 1 is taken, 2 is usage


@click.command("diff", short_help="Show what differs between the kernel and the input.")
@options.filenames
@options.node
@options.netns
@options.report
@click.pass_context
def command(ctx: click.Context, /, **_: object) -> int:
    """Show what differs between the kernel and the input, per Service; writes nothing.

    On a node run by kube-proxy in iptables mode this is a real comparison. Exit status: 0 same,
    1 differs, 2 usage, 3 error.
    """
    call = options.read(ctx)
    options.require_input(ctx, call)
    try:
        return _diff(call)
    except NetplaneError as exc:
        from netplane.cli import log

        log.error(exc)
        return EXIT_ERROR if exc.exit_status == EXIT_DIFFERS else exc.exit_status


def _diff(call: options.Call) -> int:
    from netplane.apply.netns import Namespace
    from netplane.apply.privilege import require_net_admin
    from netplane.apply.sync import Sync
    from netplane.cli import log
    from netplane.cli.inputs import read_config, read_snapshot
    from netplane.cli.report import print_outcome, setting_of, warn_of

    snapshot = read_snapshot(call.filenames)
    config = read_config(call, snapshot)
    require_net_admin()
    with Namespace(call.netns) as namespace:
        sync = Sync(namespace, config, snapshot)
        if sync.kube_proxy:
            log.warn(f"a kube-proxy programs {namespace}: {sync.kube_proxy}; apply would refuse")
        outcome = sync.foresee()
    warn_of(sync)
    setting = setting_of(call, config, sync.plan, snapshot)
    print_outcome(outcome, setting, written=False, same="no difference")
    return EXIT_DIFFERS if outcome else 0
