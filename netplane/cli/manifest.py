"""``netplane manifest``: the agent as a workload of Kubernetes."""

from __future__ import annotations

import click

from netplane.cli import options


@click.command("manifest", short_help="Print what runs the agent on every node of a cluster.")
@options.mode
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
def command(
    mode: str | None, image: str | None, namespace: str | None, api_server: str, *, dashboard: bool
) -> int:
    """Print a DaemonSet and the rights it needs, for `kubectl apply -f -`; touches no cluster."""
    from netplane.agent import manifest
    from netplane.cli import log
    from netplane.cli.terminal import emit_raw

    log.start()
    if dashboard:
        emit_raw(manifest.dashboard())
        return 0
    text = manifest.manifest(
        mode="nftables" if mode == "nftables" else "iptables",
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
