"""``netplane agent``: keep this node's rules what the cluster says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from netplane.cli import options
from netplane.cli.words import chosen

if TYPE_CHECKING:
    from collections.abc import Callable

    from netplane.agent.changes import Source
    from netplane.agent.telling.logs import Journal
    from netplane.agent.telling.metrics import Metrics
    from netplane.config import Config


@click.command("agent", short_help="Keep this node's rules what the cluster says.")
@options.filenames
@options.agent
@options.node
@options.netns
@options.take_over
@options.report
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    kubeconfig: str | None,
    context: str | None,
    install_systemd: bool,
    metrics_top_services: int,
    **_: object,
) -> int:
    """Watch an API server, or a file or directory of manifests, and keep the rules true.

    Without -f and --kubeconfig it uses the credentials of the pod it runs in. Rules that are
    there are adopted; an edit by somebody else is found and repaired; on exit the rules stay
    (`netplane cleanup` removes them). Exit status: 0 when told to end, 1 on error, 2 usage.
    """
    call = options.read(ctx)
    from netplane.cli.inputs import read_config

    config = read_config(call)
    if call.filenames and kubeconfig:
        raise click.UsageError("-f and --kubeconfig: the cluster's state comes from one of them")
    if "-" in call.filenames:
        raise click.UsageError(
            "-f -: the agent follows files as they change; the standard input is read only once"
        )
    if context and (call.filenames or not (kubeconfig or config.kubeconfig)):
        raise click.UsageError("--context: it names a context of a kubeconfig; give --kubeconfig")
    if install_systemd:
        return _install(ctx, call, config)
    from netplane.agent.node_agent import Settings, run

    run(
        Settings(
            config=config,
            netns=call.netns,
            make_source=_source(call, config, kubeconfig, context),
            take_over=call.take_over,
            log_json=ctx.params["log_format"] == "json",
            verbose=bool(call.verbose),
            top_services=metrics_top_services,
        )
    )
    return 0


def _source(
    call: options.Call, config: Config, kubeconfig: str | None, context: str | None
) -> Callable[[Journal, Metrics], Source]:
    """What makes the source that the options name."""
    if call.filenames:
        paths = tuple(Path(name) for name in call.filenames)
        return lambda journal, _: _directory_source(paths, config, journal)
    from netplane.agent.api.kubeconfig import in_cluster, read_kubeconfig

    path, context = kubeconfig or config.kubeconfig, context or ""
    access = read_kubeconfig(Path(path), context=context) if path else in_cluster(os.environ)

    def make(journal: Journal, metrics: Metrics) -> Source:
        import random

        from netplane.agent.api.source import ApiSource
        from netplane.agent.clocks import CLOCKS

        return ApiSource(
            access,
            node_name=config.node_name,
            clocks=CLOCKS,
            rng=random.Random(),  # noqa: S311 (jitter)
            period=config.sync_period,
            on_fault=lambda kind, fault: _heard(journal, kind, fault),
            on_answer=lambda host, code: metrics.requests.labels(code, host, "GET").inc(),
        )

    return make


def _heard(journal: Journal, kind: str, fault: str) -> None:
    """Log a fault of a resource, or its end: of a kind of its own, so that no fault drops it."""
    if fault:
        journal.warning("watch", fault, resource=kind)
    else:
        journal.warning("heard-again", "the API server is heard again", resource=kind)


def _read(journal: Journal, fault: str) -> None:
    """Log why manifests cannot be read, or that they can be again."""
    if fault:
        journal.warning("manifests", fault)
    else:
        journal.warning("read-again", "the manifests can be read again")


def _directory_source(paths: tuple[Path, ...], config: Config, journal: Journal) -> Source:
    from netplane.agent.clocks import CLOCKS
    from netplane.agent.files.source import DirectorySource

    return DirectorySource(
        paths,
        node_name=config.node_name,
        clocks=CLOCKS,
        on_fault=lambda fault: _read(journal, fault),
    )


def _install(ctx: click.Context, call: options.Call, config: Config) -> int:
    """Write the unit that runs this very command line, and say how to start it."""
    from netplane.agent.delivery import install_systemd, own_program, systemd_files
    from netplane.agent.parameters import kernel_parameters
    from netplane.cli import log

    words = [str(own_program()), "agent", *words_of(ctx, config)]
    parameters = kernel_parameters(config, processors=os.cpu_count() or 1)
    files = systemd_files(words, parameters, netns=call.netns)
    for path in install_systemd(Path("/"), files):
        print(path)
    if not (call.filenames or ctx.params["kubeconfig"] or config.kubeconfig):
        log.warn(
            "the unit names neither --kubeconfig FILE nor -f DIR, and no Pod runs it: it cannot "
            "start before /etc/netplane/agent.env sets NETPLANE_KUBECONFIG or NETPLANE_FILENAME"
        )
    print("now: systemctl daemon-reload && systemctl enable --now netplane-agent")
    return 0


def words_of(ctx: click.Context, config: Config) -> list[str]:
    """The options of this call as a unit needs them.

    The mode and the node are always said, for their defaults may change.
    """
    said = chosen(ctx, leave_out=_SAID_ANYWAY)
    return [f"--mode={config.mode}", f"--node={config.node_name}", *said]


#: Said in any case, or about this call alone.
_SAID_ANYWAY = frozenset({"mode", "node_name", "install_systemd", "output"})
