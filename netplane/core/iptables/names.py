"""Names of the per-service chains: a prefix and 16 characters of hash (reference section 1.1).

The hash is the start of the base32 (RFC 4648) form of the SHA-256 of the service port's label, its
protocol and, for an endpoint chain, the endpoint, joined without separators. It is kube-proxy's,
so that both programs mean the same chain by the same name.
"""

from __future__ import annotations

from hashlib import sha256

SVC = "KUBE-SVC-"
SVL = "KUBE-SVL-"
EXT = "KUBE-EXT-"
FW = "KUBE-FW-"
SEP = "KUBE-SEP-"

#: What the names of per-service chains start with: cluster policy, local policy, external
#: destinations, load balancer firewall, endpoint.
PREFIXES = (SVC, SVL, EXT, FW, SEP)

_HASHED_BYTES = 10  # 80 bits, 16 characters of base32
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_PAIRS = tuple(a + b for a in _ALPHABET for b in _ALPHABET)  # ten bits each


def service_hash(label: str, protocol: str) -> str:
    """The hash all chains of a service port share.

    Args:
        label: ``namespace/name`` and, if the port has a name, ``:port-name``.
        protocol: In lower case, ``tcp``.
    """
    return _hash(label + protocol)


def endpoint_chain(label: str, protocol: str, endpoint: str) -> str:
    """The chain of one endpoint of a service port; ``endpoint`` as ``10.0.0.1:80``."""
    return SEP + _hash(label + protocol + endpoint)


def _hash(text: str) -> str:
    # There is one per endpoint; base64.b32encode takes three times as long.
    bits = int.from_bytes(sha256(text.encode("ascii")).digest()[:_HASHED_BYTES], "big")
    return (
        _PAIRS[bits >> 70]
        + _PAIRS[bits >> 60 & 1023]
        + _PAIRS[bits >> 50 & 1023]
        + _PAIRS[bits >> 40 & 1023]
        + _PAIRS[bits >> 30 & 1023]
        + _PAIRS[bits >> 20 & 1023]
        + _PAIRS[bits >> 10 & 1023]
        + _PAIRS[bits & 1023]
    )
