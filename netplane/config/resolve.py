"""From settings to a configuration: merge by precedence, check each value, name the origin."""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from typing import get_args

import msgspec

from netplane.config.document import ConfigFile, section_settings, top_settings
from netplane.config.values import (
    DEFAULT_ORIGIN,
    PRIMARY,
    Config,
    DetectLocalMode,
    Mode,
    Setting,
    Settings,
)
from netplane.errors import UsageError

_MAX_BIT = 31  # a packet mark has 32 bits
# A subset of what the kernel takes (IFNAMSIZ is 16): what may stand unquoted in a rule.
_INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}\Z")
_DURATION = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def resolve(file: ConfigFile | None, overrides: Settings, *, host_name: str) -> Config:
    """Merge overrides (flags, environment) over a file over the defaults, and check the result.

    Args:
        file: None where no file was given.
        overrides: By field of Config; lists may hold comma-separated texts.
        host_name: The node's name where nothing else says it.

    Raises:
        UsageError: A value is not possible; the message names it and its origin.
    """
    chosen: dict[str, Setting] = {"node_name": Setting(host_name.strip().lower(), DEFAULT_ORIGIN)}
    if file is not None:
        in_file = top_settings(file)
        mode = overrides.get("mode", in_file.get("mode", Setting("iptables", DEFAULT_ORIGIN)))
        chosen |= in_file
        chosen |= section_settings(file, nftables=mode.value == "nftables")
    chosen |= overrides
    values = {}
    for field, setting in chosen.items():
        try:
            values[field] = _CHECKS[field](setting.value) if field in _CHECKS else setting.value
        except ValueError as exc:
            raise UsageError(f"{_where(field, setting.origin)}: {exc}") from exc
    origins = {field: setting.origin for field, setting in chosen.items()}
    try:
        config = msgspec.convert({**values, "origins": origins}, Config)
    except msgspec.ValidationError as exc:
        raise UsageError(f"configuration: {exc}") from exc
    _check_together(config)
    return config


def _where(field: str, origin: str) -> str:
    """``flag --cluster-cidr``, or ``file kube-proxy.yaml, clusterCIDR``."""
    named = _FILE_NAMES.get(field, field)
    return f"{origin}, {named}" if origin.startswith("file ") else origin


def _check_together(config: Config) -> None:
    """What only shows across fields."""
    for mode, field in (
        ("BridgeInterface", "bridge_interface"),
        ("InterfaceNamePrefix", "interface_prefix"),
    ):
        if config.detect_local_mode == mode and not getattr(config, field):
            raise UsageError(
                f"detectLocalMode {mode} ({config.origin('detect_local_mode')}) needs "
                f"{_FILE_NAMES[field]}"
            )
    if not config.sync_period:
        raise UsageError(f"syncPeriod ({config.origin('sync_period')}) must be more than 0")
    if config.min_sync_period > config.sync_period:
        raise UsageError(
            f"minSyncPeriod ({config.origin('min_sync_period')}) is longer than syncPeriod "
            f"({config.origin('sync_period')})"
        )
    if not config.node_name:
        raise UsageError("the node has no name: use --node")


def _listed(value: object) -> list[str]:
    """The items of a text or of a list of texts, split at commas, blanks and empty ones gone."""
    texts: Iterable[object] = [value] if isinstance(value, str) else ()
    if isinstance(value, list | tuple):
        texts = value
    return [item.strip() for text in texts for item in str(text).split(",") if item.strip()]


def _network(text: str) -> str:
    if "/" not in text:
        raise ValueError(f"{text!r:.80} is not a network (address/length)")
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError as exc:
        raise ValueError(f"{text!r:.80} is not a network: {exc!s:.120}") from exc


def _networks(value: object) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_network(item) for item in _listed(value)))


def _one_per_family(value: object, check: Callable[[object], tuple[str, ...]]) -> tuple[str, ...]:
    items = check(value)
    families = [":" in item for item in items]
    if len(set(families)) != len(families):
        raise ValueError(f"{', '.join(items)}: at most one per IP family")
    return items


def _addresses(value: object) -> tuple[str, ...]:
    found = []
    for item in _listed(value):
        try:
            found.append(str(ipaddress.ip_address(item)))
        except ValueError as exc:
            raise ValueError(f"{item!r:.80} is not an IP address") from exc
    return tuple(dict.fromkeys(found))


def _node_port_addresses(value: object) -> tuple[str, ...]:
    items = _listed(value)
    if PRIMARY in items:
        if len(items) > 1:
            raise ValueError(f"{PRIMARY!r} must stand alone")
        return (PRIMARY,)
    return _networks(items)


def _interface(value: object) -> str:
    if not isinstance(value, str) or not _INTERFACE.match(value):
        raise ValueError(f"{value!r:.80} is not a name of an interface, or the start of one")
    return value


def _bit(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value <= _MAX_BIT:
        raise ValueError(f"{value!r:.80} is not a bit of a packet mark, 0 to {_MAX_BIT}")
    return value


def seconds(value: object) -> float:
    """Seconds of a Go duration such as ``1h30m`` or ``500ms``; raises ValueError."""
    text = str(value).strip()
    if text in {"0", "+0"}:
        return 0.0
    parts = _DURATION.findall(text)
    if not parts or "".join(parts) != text:
        raise ValueError(f"{text!r:.80} is not a duration such as 30s, 1m30s or 500ms")
    total = 0.0
    for part in parts:
        unit = part.lstrip("0123456789.")
        total += float(part.removesuffix(unit)) * _UNITS[unit]
    return total


def _word(*allowed: str) -> Callable[[object], str]:
    def check(value: object) -> str:
        if value not in allowed:
            raise ValueError(f"{value!r:.80} is none of {', '.join(allowed)}")
        return str(value)

    return check


_CHECKS: Mapping[str, Callable[[object], object]] = {
    "mode": _word(*get_args(Mode)),
    "detect_local_mode": _word(*get_args(DetectLocalMode)),
    "cluster_cidrs": functools.partial(_one_per_family, check=_networks),
    "service_cidrs": _networks,
    "node_ips": functools.partial(_one_per_family, check=_addresses),
    "node_port_addresses": _node_port_addresses,
    "bridge_interface": _interface,
    "interface_prefix": _interface,
    "masquerade_bit": _bit,
    "sync_period": seconds,
    "min_sync_period": seconds,
    "config_sync_period": seconds,
    "conntrack_tcp_established": seconds,
    "conntrack_tcp_close_wait": seconds,
    "conntrack_udp": seconds,
    "conntrack_udp_stream": seconds,
}
#: How the file spells a field, for messages.
_FILE_NAMES: Mapping[str, str] = {
    "mode": "mode",
    "node_name": "hostnameOverride",
    "node_ips": "bindAddress",
    "cluster_cidrs": "clusterCIDR",
    "detect_local_mode": "detectLocalMode",
    "bridge_interface": "detectLocal.bridgeInterface",
    "interface_prefix": "detectLocal.interfaceNamePrefix",
    "node_port_addresses": "nodePortAddresses",
    "masquerade_bit": "masqueradeBit",
    "sync_period": "syncPeriod",
    "min_sync_period": "minSyncPeriod",
    "config_sync_period": "configSyncPeriod",
    "conntrack_tcp_established": "conntrack.tcpEstablishedTimeout",
    "conntrack_tcp_close_wait": "conntrack.tcpCloseWaitTimeout",
    "conntrack_udp": "conntrack.udpTimeout",
    "conntrack_udp_stream": "conntrack.udpStreamTimeout",
}
