"""What is in the kernel now, in the words of the plan: the common report of both modes."""

from __future__ import annotations

import msgspec


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
