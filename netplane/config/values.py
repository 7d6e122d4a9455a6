"""What a node's configuration is made of: the values, and settings on their way to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

import msgspec

Mode: TypeAlias = Literal["iptables", "nftables"]
DetectLocalMode: TypeAlias = Literal[
    "ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"
]
DEFAULT_ORIGIN = "default"
PRIMARY = "primary"  # the keyword of nodePortAddresses


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that shapes a node's rules besides the cluster's objects.

    Attributes:
        node_name: Whose node this is, as in the Node object.
        cluster_cidrs: Where pods' addresses come from; at most one per family.
        service_cidrs: Where ClusterIPs come from; () where unknown.
        node_port_addresses: Networks, or just ``primary``; () means unset: every address in
            iptables mode, the primary one in nftables mode.
        masquerade_bit: The bit of the packet mark that asks for masquerade.
        localhost_node_ports: NodePorts answer on 127.0.0.0/8 (iptables mode, IPv4).
        node_ips: The node's primary address per family where told, before the Node object's.
        kubeconfig: Path for the agent, "" means in-cluster.
        sync_period, min_sync_period, config_sync_period: Seconds.
        conntrack_max_per_core, conntrack_min: Entries; 0 leaves the kernel's limit alone.
        conntrack_tcp_established, conntrack_tcp_close_wait, conntrack_udp,
            conntrack_udp_stream: Timeouts in seconds; 0 leaves the kernel's alone.
        origins: Per field ``default``, ``file PATH``, ``environment NETPLANE_X``, ``flag --x``.
    """

    mode: Mode = "iptables"
    node_name: str = ""
    cluster_cidrs: tuple[str, ...] = ()
    service_cidrs: tuple[str, ...] = ()
    detect_local_mode: DetectLocalMode = "ClusterCIDR"
    bridge_interface: str = ""
    interface_prefix: str = ""
    node_port_addresses: tuple[str, ...] = ()
    masquerade_all: bool = False
    masquerade_bit: int = 14
    localhost_node_ports: bool = True
    node_ips: tuple[str, ...] = ()
    kubeconfig: str = ""
    client_qps: float = 5.0
    client_burst: int = 10
    sync_period: float = 30.0
    min_sync_period: float = 0.0  # kube-proxy's 1 s is for its costs; ours is none
    config_sync_period: float = 900.0
    healthz_bind_address: str = "0.0.0.0:10256"
    metrics_bind_address: str = "127.0.0.1:10249"
    oom_score_adj: int = -999
    conntrack_max_per_core: int = 32768
    conntrack_min: int = 131072
    conntrack_tcp_established: float = 86400.0
    conntrack_tcp_close_wait: float = 3600.0
    conntrack_tcp_be_liberal: bool = False
    conntrack_udp: float = 0.0
    conntrack_udp_stream: float = 0.0
    origins: Mapping[str, str] = {}

    def origin(self, field: str) -> str:
        """Where the value of a field came from."""
        return self.origins.get(field, DEFAULT_ORIGIN)

    def conntrack_limit(self, processors: int) -> int:
        """How many connections are to be tracked at the least; 0: the kernel's limit is fine."""
        if not self.conntrack_max_per_core:
            return 0
        return max(self.conntrack_max_per_core * processors, self.conntrack_min)


class Setting(NamedTuple):
    """A value for a field of Config, still to be checked, and where it came from."""

    value: object
    origin: str


Settings: TypeAlias = Mapping[str, Setting]
