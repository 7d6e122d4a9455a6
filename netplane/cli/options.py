"""The options commands share, each in one place, and what they were set to.

Every option has an environment variable. Lists are comma-separated or repeated. Switches take an
optional value, ``--masquerade-all`` or ``--masquerade-all=false``, as kube-proxy's do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from netplane.config import Mode, Setting

_F = TypeVar("_F", bound=Callable[..., Any])
#: Parameters that are fields of ``netplane.config.Config``.
CONFIG_FIELDS = frozenset(
    {
        "mode", "node_name", "cluster_cidrs", "service_cidrs", "detect_local_mode",
        "bridge_interface", "interface_prefix", "node_port_addresses", "masquerade_all",
        "masquerade_bit", "localhost_node_ports", "node_ips", "sync_period", "min_sync_period",
        "healthz_bind_address", "metrics_bind_address",
    }
)  # fmt: skip


def _stack(*decorators: Callable[[_F], _F]) -> Callable[[_F], _F]:
    """One decorator of many, applied so that help lists them in this order."""

    def decorate(function: _F) -> _F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def _option(*names: str, **attributes: Any) -> Callable[[_F], _F]:
    """A click option with the environment variable that goes with its (last) long name."""
    long = next(name for name in reversed(names) if name.startswith("--"))
    variable = "NETPLANE_" + long.removeprefix("--").replace("-", "_").upper()
    return click.option(*names, envvar=variable, **attributes)


def _list(name: str, field: str, text: str) -> Callable[[_F], _F]:
    return _option(name, field, multiple=True, metavar="LIST", help=text)


def _switch(name: str, field: str, text: str) -> Callable[[_F], _F]:
    return _option(
        name, field, type=bool, is_flag=False, flag_value=True, metavar="[=BOOL]", help=text
    )


filenames = _option(
    "-f",
    "--filename",
    "filenames",
    multiple=True,
    metavar="PATH",
    help="File, directory or - (stdin) with the whole desired state; repeatable. "
    "YAML or JSON, lists and multi-document files.",
)
mode = _option(
    "--mode",
    type=click.Choice(["iptables", "nftables"]),
    help="How rules are written (default: the configuration's, else iptables).",
)
netns = _option("--netns", metavar="NAME", help="Act inside this named network namespace.")
take_over = _option(
    "--take-over",
    is_flag=True,
    help="Go on although a kube-proxy programs this node, and remove what it leaves behind.",
)
#: What is the same on every node.
cluster = _stack(
    _list("--cluster-cidr", "cluster_cidrs", "Where pods' addresses come from, one per family."),
    _list("--service-cidr", "service_cidrs", "Where ClusterIPs come from."),
    _list(
        "--nodeport-addresses",
        "node_port_addresses",
        "Networks whose local addresses serve NodePorts, or 'primary' "
        "(default: all; in nftables mode primary).",
    ),
    _switch("--masquerade-all", "masquerade_all", "Masquerade every connection to a ClusterIP."),
    _switch(
        "--localhost-nodeports",
        "localhost_node_ports",
        "Serve NodePorts on 127.0.0.0/8 too (iptables mode, IPv4; default: true).",
    ),
    _option(
        "--masquerade-bit",
        type=int,
        metavar="BIT",
        help="Bit of the packet mark that asks for masquerade (default: 14).",
    ),
    _option(
        "--detect-local-mode",
        metavar="MODE",
        help="How this node's own pods are recognised: ClusterCIDR (default), NodeCIDR, "
        "BridgeInterface or InterfaceNamePrefix.",
    ),
    _option(
        "--pod-bridge-interface",
        "bridge_interface",
        metavar="NAME",
        help="The bridge of BridgeInterface.",
    ),
    _option(
        "--pod-interface-name-prefix",
        "interface_prefix",
        metavar="PREFIX",
        help="The prefix of InterfaceNamePrefix.",
    ),
)
node = _stack(
    mode,
    _option(
        "--node", "node_name", metavar="NAME", help="The node's name (default: the host name)."
    ),
    _option(
        "--config",
        "config_path",
        metavar="FILE",
        help="A KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1): clusterCIDR, "
        "nodePortAddresses, iptables.masqueradeAll and so on; options override it.",
    ),
    _list("--node-ip", "node_ips", "The node's primary address, one per family."),
    cluster,
)
agent = _stack(
    _option(
        "--kubeconfig",
        metavar="FILE",
        help="How to reach the API server (default without -f: as a pod in the cluster).",
    ),
    _option(
        "--context",
        metavar="NAME",
        help="Which context of the kubeconfig (default: its current-context).",
    ),
    _option(
        "--metrics-bind-address",
        metavar="ADDRESS:PORT",
        help="Where metrics are served (default: 127.0.0.1:10249; '' nowhere).",
    ),
    _option(
        "--metrics-top-services",
        type=click.IntRange(min=0, max=1000),
        default=20,
        metavar="N",
        help="Tell the new connections of the N busiest Services (default: 20; 0: of none, "
        "and no counter is read).",
    ),
    _option(
        "--healthz-bind-address",
        metavar="ADDRESS:PORT",
        help="Where /healthz and /livez are served (default: 0.0.0.0:10256; '' nowhere).",
    ),
    _option(
        "--sync-period",
        metavar="DURATION",
        help="The kernel is compared at least this often (default: 30s).",
    ),
    _option(
        "--min-sync-period",
        metavar="DURATION",
        help="Changes are gathered at least this long (default: 0).",
    ),
    _option(
        "--install-systemd",
        is_flag=True,
        help="Write the systemd unit that runs this very command, instead of running it.",
    ),
)
report = _stack(
    _option(
        "-o",
        "--output",
        type=click.Choice(["text", "json"]),
        default="text",
        help="Form of what is printed on stdout (default: text).",
    ),
    _option("-v", "--verbose", count=True, help="Say more: rules, what was passed over."),
    _option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        help="Form of messages on stderr (default: text).",
    ),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What the shared options were set to on this command line.

    Attributes:
        settings: Fields of the configuration that a flag or the environment sets, each a
            (value, origin).
    """

    filenames: tuple[str, ...]
    netns: str | None
    config_path: str | None
    take_over: bool
    json: bool
    verbose: int
    settings: dict[str, Setting]

    @property
    def mode(self) -> Mode | None:
        """The mode asked for here, None where the configuration decides."""
        setting = self.settings.get("mode")
        if setting is None:
            return None
        return "nftables" if setting.value == "nftables" else "iptables"


def read(ctx: click.Context) -> Call:
    """Read the shared options of a command, and start logging as they say."""
    from netplane.cli import log

    params = ctx.params
    log.start(json=params.get("log_format") == "json", verbose=params.get("verbose", 0))
    return Call(
        filenames=params.get("filenames", ()),
        netns=params.get("netns"),
        config_path=params.get("config_path"),
        take_over=params.get("take_over", False),
        json=params.get("output") == "json",
        verbose=params.get("verbose", 0),
        settings=_settings(ctx),
    )


def require_input(ctx: click.Context, call: Call) -> None:
    """Raise a usage error where no ``-f`` was given."""
    if not call.filenames:
        raise click.UsageError(
            "no input: give -f PATH, or -f - as in "
            "`kubectl get svc,endpointslices,nodes -A -o yaml | netplane diff -f -`",
            ctx,
        )


def _settings(ctx: click.Context) -> dict[str, Setting]:
    """What flags and environment set, with the origin of each value."""
    from netplane.config import Setting

    found = {}
    for parameter in ctx.command.params:
        field = str(parameter.name)
        value = ctx.params.get(field) if field in CONFIG_FIELDS else None
        if value in {None, ()}:
            continue
        if ctx.get_parameter_source(field) is ParameterSource.ENVIRONMENT:
            origin = f"environment {parameter.envvar}"
        else:
            origin = f"flag {parameter.opts[-1]}"
        found[field] = Setting(value, origin)
    return found
