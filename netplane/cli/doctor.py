"""``netplane doctor``: check this machine."""

from __future__ import annotations

import click

from netplane.cli import options

_STYLES = {"ok": "green", "warn": "yellow", "stop": "bold red"}


@click.command("doctor", short_help="Check this machine.")
@options.mode
@options.netns
@options.report
@click.pass_context
def command(ctx: click.Context, /, **_: object) -> int:
    """Check this machine, and say what to do about each finding.

    Rules are tried in a network namespace of their own; nothing else is written. Exit status: 1
    if something stops netplane in the mode asked for (default: iptables), else 0.
    """
    return _doctor(options.read(ctx))


def _doctor(call: options.Call) -> int:
    from netplane.apply.doctor.examination import Finding, Level, examine
    from netplane.apply.netns import Namespace
    from netplane.cli.terminal import Screen, emit_json

    findings: list[Finding] = []
    screen = Screen()
    with Namespace(call.netns) as namespace:
        for finding in examine(namespace, call.mode or "iptables"):
            findings.append(finding)
            if call.json:
                continue
            level = finding.level.value
            screen.print((f"{level:4}", _STYLES[level]), f"  {finding.check}: {finding.what}")
            if finding.todo:
                screen.print("      ", (f"-> {finding.todo}", "cyan"))
    if call.json:
        emit_json(findings)
    return 1 if any(finding.level is Level.STOP for finding in findings) else 0
