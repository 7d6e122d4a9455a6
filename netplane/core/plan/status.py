"""What is in the kernel now, in the words of the plan: the common report of both modes."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

_Identity: TypeAlias = tuple[str | int, ...]


class EndpointStatus(msgspec.Struct, frozen=True):
    """One backend of a frontend; ``connections`` is None where the kernel does not count them."""

    address: str
    port: int
    connections: int | None = None


class FrontendStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One frontend as the kernel has it.

    Attributes:
        label: ``default/web:http``, "" where the kernel does not say.
        family: ``IPv4`` or ``IPv6``.
        kind: ``ClusterIP``, ``NodePort``, ``External`` (external or load balancer address).
        address: "" for NodePorts.
        verdict: ``balance``, ``reject`` or ``drop``.
        connections: New connections since the rule or element was written, None if not counted.
    """

    label: str
    family: str
    kind: str
    address: str
    protocol: str
    port: int
    verdict: str
    endpoints: tuple[EndpointStatus, ...] = ()
    connections: int | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What one mode has in the kernel.

    Attributes:
        mode: ``iptables`` or ``nftables``.
        installed: False where the kernel holds nothing of ours in this mode.
        frontends: Sorted by (label, family, kind, address, port).
        drift: What is inconsistent, in words: a missing jump, an edited program rule.
    """

    mode: str
    installed: bool
    frontends: tuple[FrontendStatus, ...] = ()
    drift: tuple[str, ...] = ()


def since(before: Status, after: Status) -> Status:
    """The later status, but with the connections that came after the earlier one.

    A count that went down belongs to an element that was written anew: all of it counts.
    """
    known = {_identity(frontend): frontend for frontend in before.frontends}
    return msgspec.structs.replace(
        after,
        frontends=tuple(_frontend_since(known.get(_identity(f)), f) for f in after.frontends),
    )


def _frontend_since(before: FrontendStatus | None, after: FrontendStatus) -> FrontendStatus:
    if before is None:
        return after
    known = {(e.address, e.port): e.connections for e in before.endpoints}
    return msgspec.structs.replace(
        after,
        connections=_new(before.connections, after.connections),
        endpoints=tuple(
            EndpointStatus(e.address, e.port, _new(known.get((e.address, e.port)), e.connections))
            for e in after.endpoints
        ),
    )


def _new(before: int | None, after: int | None) -> int | None:
    """How many came in between, None where they are not counted."""
    if before is None or after is None or after < before:
        return after
    return after - before


def _identity(frontend: FrontendStatus) -> _Identity:
    f = frontend
    return (f.family, f.kind, f.address, f.protocol, f.port)
