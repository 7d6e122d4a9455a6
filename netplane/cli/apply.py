"""``netplane apply``: make the kernel what the input says."""

from __future__ import annotations

import click

from netplane.cli import options

EXIT_REFUSED = 3  # done, but some objects were refused

_kept: list[object] = []


@click.command("apply", short_help="Make the kernel what the input says.")
@options.filenames
@options.node
@options.netns
@click.option(
    "--dry-run",
    is_flag=True,
    envvar="NETPLANE_DRY_RUN",
    help="Show what would change; write nothing.",
)
@options.take_over
@options.report
@click.pass_context
def command(ctx: click.Context, /, *, dry_run: bool, **_: object) -> int:
    """Make the kernel what the input says, and tell what changed.

    The input is the whole desired state: what is not in it is removed. Exit status: 0 done,
    1 error and nothing written (or the message says what was), 2 usage, 3 done but some objects
    were refused, each named on stderr.
    """
    call = options.read(ctx)
    options.require_input(ctx, call)
    return _apply(call, dry_run=dry_run)


def _apply(call: options.Call, *, dry_run: bool) -> int:
    from netplane.apply.netns import Namespace
    from netplane.apply.privilege import require_net_admin
    from netplane.apply.sync import Sync
    from netplane.cli import log
    from netplane.cli.inputs import read_config, read_snapshot
    from netplane.cli.report import print_outcome, setting_of, warn_of, warn_of_agent

    snapshot = read_snapshot(call.filenames)
    config = read_config(call, snapshot)
    require_net_admin()
    with Namespace(call.netns) as namespace:
        sync = Sync(namespace, config, snapshot)
        if dry_run and sync.kube_proxy and not call.take_over:
            log.warn(f"apply would refuse: a kube-proxy programs {namespace}: {sync.kube_proxy}")
        warn_of_agent(namespace)
        outcome = sync.foresee() if dry_run else sync.commit(take_over=call.take_over)
    _kept[:] = [snapshot, sync]  # until the process ends: see ``main.entry``
    warn_of(sync)
    setting = setting_of(call, config, sync.plan, snapshot)
    print_outcome(outcome, setting, written=not dry_run, same="no change")
    for failure in outcome.failures:
        log.warn(f"the rules are written, but: {failure}. Run again")
    if outcome.failures:
        return 1
    return EXIT_REFUSED if sync.plan.problems else 0
