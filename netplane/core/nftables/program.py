"""The rule text of one family: the fixed program, and the chains that follow the Services."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable
from typing import NamedTuple

import jinja2

from netplane.core.model.address import Family
from netplane.core.nftables.layout import LAYOUT_VERSION
from netplane.core.nftables.listing import Listing, read_listing
from netplane.core.nftables.names import affinity_name, endpoint_name, sticky_name
from netplane.core.plan.node import DetectorKind, FamilyView
from netplane.core.plan.port import Backend, PortPlan

#: The chain that no packet reaches; its only rule's comment has the program's digest.
DIGEST_CHAIN = "program"
#: Another one: its rule's comment says what the kernel has made of the program.
RECORD_CHAIN = "record"

#: A kind of pick chain that is in use is there for up to so many endpoints.
ROOM = 16

_PICK = re.compile(r"(nodeport-)?(masquerade-|local-)?pick-([1-9][0-9]*)")
_AFFINITY = re.compile(r"((masquerade-|local-)?sticky|endpoint)-[a-z2-7]{16}-.+")
_DIGEST_LENGTH = 12
_TOP_BIT = 1 << 31
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_WIDTHS = {Family.IPV4: "/32", Family.IPV6: "/128"}


class Pick(NamedTuple):
    """A chain that picks one of so many endpoints: ``[nodeport-][masquerade-|local-]pick-N``."""

    nodeport: str
    kind: str
    endpoints: int

    @classmethod
    def parse(cls, name: str) -> Pick | None:
        """The pick chain of this name, None where it is another chain's."""
        match = _PICK.fullmatch(name)
        return match and cls(match[1] or "", match[2] or "", int(match[3]))

    @property
    def name(self) -> str:
        """Of the chain."""
        return f"{self.nodeport}{self.kind}pick-{self.endpoints}"

    @property
    def map(self) -> str:
        """The map of slots it picks from."""
        local = self.kind if self.kind == "local-" else ""
        return f"{self.nodeport}{local}endpoints"


def with_room(targets: set[str]) -> set[str]:
    """Chains that verdicts lead to, and the pick chains that stand ready beside those among them.

    A new pick chain binds to a map of endpoints, and the kernel goes through all of the map for
    that: 20 ms with 10,000 Services of 5 endpoints, where a verdict that leads to a chain which
    is there costs 2 ms. Services grow and shrink all the time; most have few endpoints.
    """
    kinds = {(pick.nodeport, pick.kind) for pick in map(Pick.parse, targets) if pick is not None}
    return targets | {
        Pick(nodeport, kind, count).name
        for nodeport, kind in kinds
        for count in range(1, ROOM + 1)
    }


def is_follower(chain: str) -> bool:
    """Whether a chain follows the Services, by its name, or belongs to the program."""
    return _PICK.fullmatch(chain) is not None or _AFFINITY.fullmatch(chain) is not None


def render_program(view: FamilyView, environment: jinja2.Environment) -> str:
    """The table of one family without elements, in the form ``nft list table`` prints."""
    text = _program(view, environment, "0" * _DIGEST_LENGTH)
    return _program(view, environment, digest_of(read_listing(text), ()))


def digest_of(listing: Listing, followers: Iterable[str]) -> str:
    """Twelve hexadecimal digits for a program's declarations and rules, in any order of blocks.

    Args:
        listing: A table.
        followers: The names of its chains and sets that are not the program's.
    """
    left_out = {DIGEST_CHAIN, *followers}
    blocks = {**listing.sets, **{f"chain {n}": c for n, c in listing.chains.items()}}
    lines = [*listing.lines]
    for name in sorted(blocks):
        if name.removeprefix("chain ") not in left_out:
            lines += (name, *blocks[name])
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:_DIGEST_LENGTH]


@functools.lru_cache(maxsize=16)
def _program(view: FamilyView, environment: jinja2.Environment, digest: str) -> str:
    v4 = view.family is Family.IPV4
    width = _WIDTHS[view.family]
    return environment.get_template("nftables/program.nft.j2").render(
        layout=LAYOUT_VERSION,
        ip="ip" if v4 else "ip6",
        address="ipv4_addr" if v4 else "ipv6_addr",
        mark=_mark(view),
        marked=_marked(view),
        pods=_pods(view),
        by_network=view.detector.kind is DetectorKind.CLUSTER_CIDR,
        loopback="127.0.0.0/8" if v4 else "::1",
        every_local=view.node_port_addresses is None,
        masquerade_all=view.masquerade_all,
        service_cidrs=[n.removesuffix(width) for n in view.service_cidrs],
        digest=digest,
    )


def render_chains(
    view: FamilyView, targets: set[str], sticky: list[PortPlan], environment: jinja2.Environment
) -> dict[str, tuple[str, ...]]:
    """The pick and sticky chains, by name, each its rules in nft's listed form.

    Args:
        view: The node in this family.
        targets: The chains that verdicts lead to.
        sticky: The service ports with session affinity.
        environment: Of rule templates.
    """
    ip = "ip" if view.family is Family.IPV4 else "ip6"
    picks = sorted(p for p in map(Pick.parse, targets) if p is not None)
    addressed = f"{ip} daddr . meta l4proto . th dport"
    text = environment.get_template("nftables/chains.nft.j2").render(
        ip=ip,
        mark=_mark(view),
        picks=[
            {
                "name": pick.name,
                "masquerade": pick.kind == "masquerade-",
                "key": "meta l4proto . th dport" if pick.nodeport else addressed,
                "count": pick.endpoints,
                "map": pick.map,
            }
            for pick in picks
        ],
        stickies=[c for port in sticky for c in _stickies(port, targets)],
        gotos=[
            (sticky_name(port, "masquerade-"), sticky_name(port))
            for port in sticky
            if sticky_name(port, "masquerade-") in targets
        ],
        endpoints=[_endpoint(port, b) for port in sticky for b in port.reachable],
    )
    return read_listing(text).chains


def _stickies(port: PortPlan, targets: set[str]) -> list[dict[str, object]]:
    """The choices of a port with affinity: among all its endpoints, and among this node's."""
    chains: list[dict[str, object]] = []
    for kind, leads, backends in (
        ("", {sticky_name(port), sticky_name(port, "masquerade-")}, port.cluster),
        ("local-", {sticky_name(port, "local-")}, port.local),
    ):
        if not leads.isdisjoint(targets):
            endpoints = [_endpoint(port, b) for b in backends]
            chains.append({"name": sticky_name(port, kind), "endpoints": endpoints})
    return chains


def _endpoint(port: PortPlan, backend: Backend) -> dict[str, str]:
    return {
        "chain": endpoint_name(port, backend),
        "set": affinity_name(port, backend),
        "protocol": port.protocol.text,
        "address": str(backend),
        "timeout": _duration(port.affinity_seconds),
    }


def _duration(seconds: int) -> str:
    """A time as nft lists it: ``1d2h3m4s``, without the parts that are 0."""
    parts = {}
    for unit, size in _UNITS.items():
        parts[unit], seconds = divmod(seconds, size)
    return "".join(f"{count}{unit}" for unit, count in parts.items() if count)


def _pods(view: FamilyView) -> str:
    """What nft matches traffic of this node's pods by: a network or an interface name."""
    detector = view.detector
    if detector.kind is DetectorKind.INTERFACE_PREFIX:
        return f"{detector.value}*"
    return detector.value.removesuffix(_WIDTHS[view.family])


def _marked(view: FamilyView) -> str:
    """A match of the mark as nft lists it: the topmost bit alone looks like a prefix to it."""
    mark = _mark(view)
    return f"{mark}/1" if view.masquerade_mark == _TOP_BIT else f"& {mark} == {mark}"


def _mark(view: FamilyView) -> str:
    """The mark as nft lists it."""
    return f"0x{view.masquerade_mark:08x}"
