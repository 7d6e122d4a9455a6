"""Names of the objects that session affinity costs: chains and sets of one service port.

A name is a prefix, 16 base32 characters (80 bits) of the SHA-256 of the service port's identity,
and a readable tail for people. Endpoints are told apart by their own text, with the colons of
IPv6 as dots, which nft's grammar allows in a name and canonical addresses of a family never mix.
"""

from __future__ import annotations

import base64
import functools
import hashlib

from netplane.core.plan.port import Backend, PortPlan

_READABLE = 100  # of the kernel's 255 (NFT_NAME_MAXLEN); the rest of a name is below 100, too


def sticky_name(port: PortPlan, kind: str = "") -> str:
    """The chain that chooses for a client; ``kind`` is "", "local-" or "masquerade-"."""
    readable = f"{port.service.namespace}/{port.service.name}"[:_READABLE]
    return f"{kind}sticky-{_hash(port)}-{readable}"


def endpoint_name(port: PortPlan, backend: Backend) -> str:
    """The chain of one endpoint, which remembers its client and translates to it."""
    return f"endpoint-{_hash(port)}-{_tail(backend)}"


def affinity_name(port: PortPlan, backend: Backend) -> str:
    """The set of clients that one endpoint remembers."""
    return f"affinity-{_hash(port)}-{_tail(backend)}"


def _tail(backend: Backend) -> str:
    return f"{backend.address.replace(':', '.')}-{backend.port}"


def _hash(port: PortPlan) -> str:
    return _digest(*port.service, port.protocol.text, port.port_name)


@functools.lru_cache(maxsize=1 << 12)
def _digest(namespace: str, name: str, protocol: str, port_name: str) -> str:
    identity = f"{namespace}/{name}/{protocol}/{port_name}".encode()
    return base64.b32encode(hashlib.sha256(identity).digest())[:16].decode().lower()
