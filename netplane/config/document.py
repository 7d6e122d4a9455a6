"""The configuration file: a ``KubeProxyConfiguration`` (v1alpha1), decoded strictly."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from netplane.config.values import Setting
from netplane.errors import UsageError

_API_VERSION = "kubeproxy.config.k8s.io/v1alpha1"
_KIND = "KubeProxyConfiguration"
_NO_TIME = re.compile(r"\+?(?:0[0.]*(?:ns|us|µs|ms|s|m|h)?)+")


class _Section(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A part of the file; null and absent mean the same, as in kube-proxy's defaulting."""


class _ClientConnection(_Section, frozen=True, kw_only=True, rename="camel"):
    accept_content_types: object = None
    burst: int | None = None
    content_type: object = None
    kubeconfig: str | None = None
    qps: float | None = None


class _RuleSection(_Section, frozen=True, kw_only=True, rename="camel"):
    """What the sections ``iptables`` and ``nftables`` share."""

    masquerade_bit: int | None = None
    masquerade_all: bool | None = None
    sync_period: str | None = None
    min_sync_period: str | None = None


class _IptablesSection(_RuleSection, frozen=True, kw_only=True, rename="camel"):
    localhost_node_ports: bool | None = None


class _DetectLocal(_Section, frozen=True, kw_only=True, rename="camel"):
    bridge_interface: str | None = None
    interface_name_prefix: str | None = None


class _Conntrack(_Section, frozen=True, kw_only=True, rename="camel"):
    max_per_core: int | None = None
    min: int | None = None
    tcp_established_timeout: str | None = None
    tcp_close_wait_timeout: str | None = None
    tcp_be_liberal: bool | None = None
    udp_timeout: str | None = None
    udp_stream_timeout: str | None = None


class _Document(_Section, frozen=True, kw_only=True, rename="camel"):
    """A KubeProxyConfiguration; ``object`` fields are kube-proxy's own and mean nothing here."""

    api_version: str
    kind: str
    feature_gates: object = None
    client_connection: _ClientConnection | None = None
    logging: object = None
    hostname_override: str | None = None
    bind_address: str | None = None
    healthz_bind_address: str | None = None
    metrics_bind_address: str | None = None
    bind_address_hard_fail: object = None
    enable_profiling: object = None
    show_hidden_metrics_for_version: object = None
    mode: str | None = None
    iptables: _IptablesSection | None = None
    ipvs: object = None
    winkernel: object = None
    nftables: _RuleSection | None = None
    detect_local_mode: str | None = None
    detect_local: _DetectLocal | None = None
    cluster_cidr: str | None = msgspec.field(default=None, name="clusterCIDR")
    node_port_addresses: tuple[str, ...] | None = None
    oom_score_adj: int | None = msgspec.field(default=None, name="oomScoreAdj")
    conntrack: _Conntrack | None = None
    config_sync_period: str | None = None
    port_range: object = None
    windows_run_as_service: object = None


class ConfigFile(msgspec.Struct, frozen=True):
    """A decoded configuration file.

    Attributes:
        path: As the user named it, for messages.
        document: Its content; what applies depends on the mode.
        unknown: Paths of fields that KubeProxyConfiguration does not have. kube-proxy warns of
            them and goes on, and so do we: newer releases add fields.
    """

    path: str
    document: _Document
    unknown: tuple[str, ...] = ()


def decode(content: bytes, *, path: str) -> ConfigFile:
    """Decode a KubeProxyConfiguration (v1alpha1) from YAML or JSON.

    Raises:
        UsageError: It is not one, or a field has the wrong type; the message has path and field.
    """
    from netplane.config.strict_yaml import read  # few command lines name a file: yaml is 25 ms

    try:
        tree = read(content)
    except ValueError as exc:
        reason = " ".join(str(exc).split())
        raise UsageError(f"{path}: not readable as YAML or JSON: {reason:.300}") from exc
    if not isinstance(tree, dict):
        raise UsageError(f"{path}: not a {_KIND}: the top level is not a mapping")
    if (tree.get("apiVersion"), tree.get("kind")) != (_API_VERSION, _KIND):
        raise UsageError(
            f"{path}: apiVersion and kind are {tree.get('apiVersion')!r:.80} and "
            f"{tree.get('kind')!r:.80}; wanted {_API_VERSION} {_KIND}"
        )
    try:
        document = msgspec.convert(tree, _Document)
    except msgspec.ValidationError as exc:
        raise UsageError(f"{path}: {exc}") from exc
    return ConfigFile(path, document, tuple(_unknown(tree, _Document, "")))


def _unknown(tree: dict[str, object], struct: type[msgspec.Struct], at: str) -> list[str]:
    """Paths of keys that a struct, or a section of it, does not have."""
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
    found = []
    for key, value in tree.items():
        if key not in fields:
            found.append(f"{at}{key}")
            continue
        for section in getattr(fields[key], "__args__", ()):
            is_struct = isinstance(section, type) and issubclass(section, msgspec.Struct)
            if is_struct and isinstance(value, dict):
                found += _unknown(value, section, f"{at}{key}.")
    return found


def top_settings(file: ConfigFile) -> dict[str, Setting]:
    """What the file sets whatever the mode."""
    doc = file.document
    client = doc.client_connection or _ClientConnection()
    local = doc.detect_local or _DetectLocal()
    conntrack = doc.conntrack or _Conntrack()
    return _given(
        file,
        {
            "mode": doc.mode or None,
            "node_name": (doc.hostname_override or "").strip().lower() or None,
            "node_ips": _bound(doc.bind_address),
            "cluster_cidrs": doc.cluster_cidr or None,
            "detect_local_mode": doc.detect_local_mode or None,
            "bridge_interface": local.bridge_interface or None,
            "interface_prefix": local.interface_name_prefix or None,
            "node_port_addresses": doc.node_port_addresses or None,
            "kubeconfig": client.kubeconfig or None,
            "client_qps": client.qps or None,
            "client_burst": client.burst or None,
            "config_sync_period": _some(doc.config_sync_period),
            "healthz_bind_address": doc.healthz_bind_address or None,
            "metrics_bind_address": doc.metrics_bind_address or None,
            "oom_score_adj": doc.oom_score_adj,
            "conntrack_max_per_core": conntrack.max_per_core,
            "conntrack_min": conntrack.min,
            "conntrack_tcp_established": conntrack.tcp_established_timeout,
            "conntrack_tcp_close_wait": conntrack.tcp_close_wait_timeout,
            "conntrack_tcp_be_liberal": conntrack.tcp_be_liberal,
            "conntrack_udp": conntrack.udp_timeout,
            "conntrack_udp_stream": conntrack.udp_stream_timeout,
        },
    )


def section_settings(file: ConfigFile, *, nftables: bool) -> dict[str, Setting]:
    """What the section of the chosen mode sets."""
    iptables = file.document.iptables or _IptablesSection()
    section = (file.document.nftables or _RuleSection()) if nftables else iptables
    return _given(
        file,
        {
            "masquerade_all": section.masquerade_all,
            "masquerade_bit": section.masquerade_bit,
            "localhost_node_ports": iptables.localhost_node_ports,
            "sync_period": _some(section.sync_period),
            "min_sync_period": _some(section.min_sync_period),
        },
    )


def _given(file: ConfigFile, values: Mapping[str, object]) -> dict[str, Setting]:
    """The values that are set at all, marked as coming from the file."""
    origin = f"file {file.path}"
    return {field: Setting(value, origin) for field, value in values.items() if value is not None}


def _some(duration: str | None) -> str | None:
    """A period that is set at all: kubeadm writes ``0s``, which stands for the default."""
    return None if not duration or _NO_TIME.fullmatch(duration) else duration


def _bound(address: str | None) -> str | None:
    """``bindAddress`` binds nothing; it is the node's primary address unless unspecified."""
    return None if address in {None, "", "0.0.0.0", "::"} else address  # noqa: S104 (compared)
