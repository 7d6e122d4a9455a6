"""Kernel parameters that kube-proxy sets and the agent may not: which, and which are missing.

They are about the whole machine: the oneshot of ``--install-systemd`` sets those that a
configuration asks for, and the agent says which of them are not so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from netplane.apply import sysctl
from netplane.apply.netns import Namespace
from netplane.config import DEFAULT_ORIGIN, Config

_MOST: Final = "net/netfilter/nf_conntrack_max"
_LIBERAL: Final = "net/netfilter/nf_conntrack_tcp_be_liberal"
_TIMEOUTS: Final = {
    "conntrack_tcp_established": "net/netfilter/nf_conntrack_tcp_timeout_established",
    "conntrack_tcp_close_wait": "net/netfilter/nf_conntrack_tcp_timeout_close_wait",
    "conntrack_udp": "net/netfilter/nf_conntrack_udp_timeout",
    "conntrack_udp_stream": "net/netfilter/nf_conntrack_udp_timeout_stream",
}


def kernel_parameters(config: Config, *, processors: int) -> dict[str, str]:
    """The kernel parameters that a configuration asks for (reference section 5), by path.

    The limits and timeouts of connection tracking only where they are set on purpose: defaults
    would lower what an administrator has raised.
    """
    wanted = {}
    if config.mode == "iptables" and config.localhost_node_ports:
        wanted[sysctl.ROUTE_LOCALNET] = "1"
    chosen = {field for field, origin in config.origins.items() if origin != DEFAULT_ORIGIN}
    limit = config.conntrack_limit(processors)
    if limit and chosen & {"conntrack_max_per_core", "conntrack_min"}:
        wanted[_MOST] = str(limit)
    for field, name in _TIMEOUTS.items():
        seconds = getattr(config, field)
        if field in chosen and seconds > 0:
            wanted[name] = f"{seconds:.0f}"
    if config.conntrack_tcp_be_liberal:
        wanted[_LIBERAL] = "1"
    return wanted


def unmet_parameters(config: Config, namespace: Namespace, *, processors: int) -> Iterator[str]:
    """What of connection tracking is not as the configuration asks, in words.

    Its limit also where nobody has asked: kube-proxy raises it with every start, so that a node
    which has been without one for a while, and was started anew, has less than it used to have.

    Raises:
        ApplyError: A parameter cannot be read.
    """
    wanted = kernel_parameters(config, processors=processors)
    if limit := config.conntrack_limit(processors):
        wanted.setdefault(_MOST, str(limit))
    for name, value in wanted.items():
        there = None if name == sysctl.ROUTE_LOCALNET else sysctl.read(namespace, name)
        enough = name == _MOST and there is not None and (int(there) >= int(value) or there == "0")
        if there not in {None, value} and not enough:
            setting = f"{name.replace('/', '.')}={value}"
            yield (
                f"{_title(name)} is {there}, and kube-proxy would set {value}; netplane does not: "
                f"`sysctl -w {setting}`, and keep it in /etc/sysctl.d"
            )


def _title(name: str) -> str:
    return name.rpartition("/")[2]
