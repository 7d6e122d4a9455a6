"""Checking a machine: what stops netplane, what will surprise, and what to do about each.

A check is a function from an ``Examination`` to findings; it reads, and where it must try
something it does so in a network namespace of its own (``trial``).
"""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Callable, Iterator
from typing import TypeAlias

import msgspec

from netplane.apply import foreign, sysctl
from netplane.apply.doctor.legacy import legacy_rules
from netplane.apply.doctor.trial import try_mode
from netplane.apply.iptables.programs import Variant, detect_variant
from netplane.apply.netns import Namespace
from netplane.apply.privilege import has_net_admin
from netplane.apply.tools import find, run
from netplane.config import Config, Mode
from netplane.errors import ApplyError

_OLDEST_NFT = (1, 0, 6)  # the oldest one tried
_OLDEST_IPTABLES = (1, 8, 0)
_FULL = 0.9  # of the conntrack table: new connections are dropped soon
_PACKAGES = {"nft": "nftables", "iptables": "iptables", "ip6tables": "iptables"}


class Level(enum.Enum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    STOP = "stop"


class Finding(msgspec.Struct, frozen=True):
    """One thing found: what it is about, what it is, and what to do ("" where nothing)."""

    level: Level
    check: str
    what: str
    todo: str = ""


class Examination(msgspec.Struct, frozen=True):
    """What is examined: a namespace, for the mode that is to run there."""

    namespace: Namespace
    mode: Mode

    def needs(self, mode: Mode) -> Level:
        """How bad it is when something is missing that only this mode needs."""
        return Level.STOP if mode == self.mode else Level.WARN


Check: TypeAlias = Callable[[Examination], Iterator[Finding]]


def examine(namespace: Namespace, mode: Mode) -> Iterator[Finding]:
    """Check everything, in the order of dependence; without privileges only what can be seen."""
    examination = Examination(namespace, mode)
    seeing: tuple[Check, ...] = (_privileges, _kernel, _tools)
    doing: tuple[Check, ...] = (_iptables_variant, _trials, _legacy, _kube_proxy)
    settings: tuple[Check, ...] = (_forwarding, _bridges, _conntrack)
    for check in (*seeing, *(doing if has_net_admin() else ()), *settings):
        try:
            yield from check(examination)
        except ApplyError as exc:  # one check that fails must not hide the others
            name = check.__name__.strip("_").replace("_", " ")
            yield Finding(Level.STOP, name, str(exc), "see to that first, then ask again")


def _privileges(examination: Examination) -> Iterator[Finding]:
    del examination  # it is about this process
    if has_net_admin():
        yield Finding(Level.OK, "privileges", "CAP_NET_ADMIN is there")
    else:
        yield Finding(
            Level.STOP,
            "privileges",
            "CAP_NET_ADMIN is missing: only render works, and doctor sees little",
            "run as root: sudo netplane doctor",
        )


def _kernel(examination: Examination) -> Iterator[Finding]:
    del examination  # there is one for all namespaces
    yield Finding(Level.OK, "kernel", f"Linux {os.uname().release} on {os.uname().machine}")


def _version(text: str) -> tuple[int, ...]:
    """The first dotted number in a tool's answer; () where there is none."""
    match = re.search(r"v?(\d+(?:\.\d+)+)", text)
    return tuple(map(int, match.group(1).split("."))) if match else ()


def _tools(examination: Examination) -> Iterator[Finding]:
    wanted: tuple[tuple[str, Mode, tuple[int, ...]], ...] = (
        ("nft", "nftables", _OLDEST_NFT),
        ("iptables", "iptables", _OLDEST_IPTABLES),
        ("ip6tables", "iptables", _OLDEST_IPTABLES),
    )
    for program, mode, oldest in wanted:
        path = find(program)
        if path is None:
            yield Finding(
                examination.needs(mode),
                "tools",
                f"{program} is not installed: {mode} mode cannot work",
                f"install the package {_PACKAGES[program]}",
            )
            continue
        answer = run(Namespace(), [program, "--version"], timeout=10).stdout.decode(
            errors="replace"
        )
        version = _version(answer)
        shown = ".".join(map(str, version)) or "of unknown version"
        if version < oldest:
            yield Finding(
                examination.needs(mode),
                "tools",
                f"{program} is {shown} ({path})",
                f"upgrade it to {'.'.join(map(str, oldest))} or newer",
            )
        else:
            yield Finding(Level.OK, "tools", f"{program} is {shown} ({path})")


def _trials(examination: Examination) -> Iterator[Finding]:
    """Whether this kernel takes our rules, found out by giving it some."""
    modes: tuple[Mode, ...] = ("iptables", "nftables")
    for mode in modes:
        if find("iptables" if mode == "iptables" else "nft") is None:
            continue
        try:
            try_mode(mode)
        except ApplyError as exc:
            yield Finding(
                examination.needs(mode),
                "kernel features",
                f"a namespace of its own does not take {mode} mode's rules: {exc}",
                "use a kernel of 5.10 or newer with nf_tables, nf_conntrack and nf_nat, and look "
                "for blocked modules: dmesg, /proc/sys/kernel/modules_disabled",
            )
        else:
            yield Finding(
                Level.OK, "kernel features", f"{mode} mode's rules load (tried in a namespace)"
            )


def _legacy(examination: Examination) -> Iterator[Finding]:
    """Legacy rules beside nft ones: both are consulted for every packet, in an unclear order."""
    if examination.mode == "iptables" and _host_variant(examination) is Variant.LEGACY:
        yield Finding(Level.OK, "legacy rules", "legacy tables are the ones iptables mode uses")
        return
    try:
        tables = legacy_rules(examination.namespace)
    except ApplyError as exc:
        yield Finding(Level.WARN, "legacy rules", str(exc), "look: iptables-legacy-save")
        return
    busy = [table for table in tables if table.rules or table.dropping]
    if not busy:
        yield Finding(Level.OK, "legacy rules", "no rules in legacy iptables tables")
        return
    for table in busy:
        program = "iptables-legacy" if table.family == "IPv4" else "ip6tables-legacy"
        dropping = f", policy DROP in {', '.join(table.dropping)}" if table.dropping else ""
        ours = f", {table.kube} of them in KUBE- chains" if table.kube else ""
        yield Finding(
            Level.WARN,
            "legacy rules",
            f"{table.family} table {table.name} has {table.rules} legacy rules{ours}{dropping}; "
            "they act on the same packets as rules written through nft, and neither tool shows "
            "the other's",
            f"read {program}-save -t {table.name}; move what is needed to one kind, then "
            f"{program} -t {table.name} -F",
        )


def _kube_proxy(examination: Examination) -> Iterator[Finding]:
    found = foreign.find_kube_proxy(examination.namespace)
    if found:
        yield Finding(
            Level.STOP,
            "kube-proxy",
            f"a kube-proxy programs {examination.namespace}: {found}",
            "stop it on this node, then netplane apply --take-over; diff works beside it",
        )
    else:
        yield Finding(Level.OK, "kube-proxy", "no kube-proxy and no trace of one")


def _forwarding(examination: Examination) -> Iterator[Finding]:
    for name, family in (
        ("net/ipv4/ip_forward", "IPv4"),
        ("net/ipv6/conf/all/forwarding", "IPv6"),
    ):
        value = sysctl.read(examination.namespace, name)
        if value == "1":
            yield Finding(Level.OK, "forwarding", f"{family} packets are forwarded")
        elif value is None:
            yield Finding(Level.OK, "forwarding", f"this kernel has no {family}")
        else:
            dotted = name.replace("/", ".")
            yield Finding(
                Level.WARN,
                "forwarding",
                f"{family} packets are not forwarded: pods and outside clients reach no endpoint",
                f"sysctl -w {dotted}=1, and keep it in /etc/sysctl.d",
            )


def _bridges(examination: Examination) -> Iterator[Finding]:
    for tool in ("iptables", "ip6tables"):
        name = f"net/bridge/bridge-nf-call-{tool}"
        value = sysctl.read(examination.namespace, name)
        if value is None:
            yield Finding(
                Level.OK,
                "bridges",
                "br_netfilter is not loaded: fine unless pods of a node share a Linux bridge",
            )
            return
        if value == "1":
            yield Finding(Level.OK, "bridges", f"bridged packets pass {tool}")
        else:
            yield Finding(
                Level.WARN,
                "bridges",
                f"bridged packets do not pass {tool}: a pod that reaches an endpoint on its own "
                "bridge through a Service gets replies from the wrong address",
                f"sysctl -w {name.replace('/', '.')}=1",
            )


def _conntrack(examination: Examination) -> Iterator[Finding]:
    used = sysctl.read(examination.namespace, "net/netfilter/nf_conntrack_count")
    limit = sysctl.read(examination.namespace, "net/netfilter/nf_conntrack_max")
    if used is None or limit is None:
        yield Finding(
            Level.OK, "conntrack", "nf_conntrack is not loaded yet; the first rule loads it"
        )
    elif int(limit) and int(used) > _FULL * int(limit):
        yield Finding(
            Level.WARN,
            "conntrack",
            f"{used} of {limit} conntrack entries are used: new connections will be dropped",
            "raise net.netfilter.nf_conntrack_max",
        )
    elif 0 < int(limit) < (usual := Config().conntrack_limit(os.cpu_count() or 1)):
        yield Finding(
            Level.WARN,
            "conntrack",
            f"{limit} connections can be tracked; kube-proxy would make that {usual} here, and "
            "netplane does not",
            f"sysctl -w net.netfilter.nf_conntrack_max={usual}, and keep it in /etc/sysctl.d",
        )
    else:
        yield Finding(Level.OK, "conntrack", f"{used} of {limit} entries are used")


def _host_variant(examination: Examination) -> Variant | None:
    """Which iptables the host uses, None without any."""
    return None if find("iptables") is None else detect_variant(examination.namespace)


def _iptables_variant(examination: Examination) -> Iterator[Finding]:
    variant = _host_variant(examination)
    if variant is None:
        return
    where = {
        Variant.NFT: "iptables-nft: rules live in nf_tables, nft list shows them",
        Variant.LEGACY: "iptables-legacy: rules live in ip_tables, nft does not show them",
    }[variant]
    yield Finding(Level.OK, "iptables", f"this host uses {where}")
