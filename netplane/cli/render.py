"""``netplane render``: the whole desired state as text, for this mode's own tool to load."""

from __future__ import annotations

import click

from netplane.cli import options


@click.command("render", short_help="Print the rules the input asks for.")
@options.filenames
@options.node
@options.report
@click.pass_context
def command(ctx: click.Context, /, **_: object) -> int:
    """Print the rules the input asks for; needs no privileges and reads no kernel.

    The text is an nft script or iptables-restore input. The node's addresses come from --node-ip
    and from the Node object alone.
    """
    call = options.read(ctx)
    options.require_input(ctx, call)
    return _render(call)


def _render(call: options.Call) -> int:
    from netplane.apply.modes import open_mode
    from netplane.apply.netns import Namespace
    from netplane.apply.sync import plan_for
    from netplane.cli import log
    from netplane.cli.inputs import read_config, read_snapshot
    from netplane.cli.report import Rendering, name_problems
    from netplane.cli.terminal import emit_json, emit_raw
    from netplane.core.plan.plan import notes_of

    snapshot = read_snapshot(call.filenames)
    config = read_config(call, snapshot)
    plan = plan_for(config, snapshot)
    with Namespace() as namespace:
        rules = open_mode(config.mode, namespace).render(plan)
    for note in notes_of(plan):
        log.warn(note)
    name_problems(plan.problems)
    if call.json:
        rendering = Rendering(config.mode, config.node_name, rules, plan.problems)
        emit_json(rendering)
    else:
        emit_raw(rules)
    return 0
