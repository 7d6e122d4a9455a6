"""``netplane manifest``: the agent as a workload of Kubernetes."""

from __future__ import annotations

import click

from netplane.cli import options
from netplane.cli.words import chosen


@click.command("manifest", short_help="Print what runs the agent on every node of a cluster.")
@options.mode
@options.cluster
@options.take_over
@click.option("--image", envvar="NETPLANE_IMAGE", metavar="NAME", help="The container image.")
@click.option("--namespace", envvar="NETPLANE_NAMESPACE", metavar="NAME", help="Where it runs.")
@click.option(
    "--api-server",
    envvar="NETPLANE_API_SERVER",
    default="",
    metavar="HOST:PORT",
    help="Where nodes reach the API server without any Service; needed to come up after a reboot.",
)
@click.option(
    "--dashboard",
    is_flag=True,
    envvar="NETPLANE_DASHBOARD",
    help="Print the Grafana dashboard instead.",
)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    image: str | None,
    namespace: str | None,
    api_server: str,
    dashboard: bool,
    **_: object,
) -> int:
    """Print a DaemonSet and the rights it needs, for `kubectl apply -f -`; touches no cluster.

    What is said of Services' traffic is said to the agents: the cluster's pods, --take-over.
    """
    from netplane.agent import manifest
    from netplane.cli import log
    from netplane.cli.inputs import read_config
    from netplane.cli.terminal import emit_raw

    config = read_config(options.read(ctx))  # what the agents would refuse is refused here
    if dashboard:
        emit_raw(manifest.dashboard())
        return 0
    text = manifest.manifest(
        mode=config.mode,
        options=chosen(ctx, leave_out=_OUR_OWN),
        localhost=config.localhost_node_ports,
        image=image or manifest.DEFAULT_IMAGE,
        namespace=namespace or manifest.DEFAULT_NAMESPACE,
        api_server=api_server,
    )
    emit_raw(text)
    if not api_server:
        log.warn(
            "without --api-server HOST:PORT the agent asks at the ClusterIP of the Service "
            "`kubernetes`, which nobody serves after a reboot of the node"
        )
    return 0


#: Said in any case, or not to the agents.
_OUR_OWN = frozenset({"mode", "image", "namespace", "api_server", "dashboard"})
