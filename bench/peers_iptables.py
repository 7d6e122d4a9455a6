"""kube-proxy's iptables rules for a state, as a ready-made file for ``iptables-restore``."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import NamedTuple

from bench.states import CLUSTER_CIDR, PORT, TARGET_PORT, BenchService, Shape, services
from bench.templates import template

#: Above this many endpoints kube-proxy leaves out the comments of endpoint rules.
_LARGE_CLUSTER = 1000


class _Endpoint(NamedTuple):
    text: str
    address: str
    sep: str
    dice: str


class _Service(NamedTuple):
    label: str
    cluster_ip: str
    svc: str
    endpoints: tuple[_Endpoint, ...]


def write_rules(shape: Shape, path: Path) -> None:
    """Write the whole of what kube-proxy loads at its start for a state."""
    stream = template("kube-proxy-iptables.j2").stream(
        services=[_service(service) for service in services(shape)],
        terse=shape.services * shape.endpoints > _LARGE_CLUSTER,
        port=PORT,
        cluster_cidr=CLUSTER_CIDR,
    )
    stream.enable_buffering(1000)
    stream.dump(str(path))


def _service(service: BenchService) -> _Service:
    label = f"{service.namespace}/{service.name}:http"
    # kube-proxy sorts endpoints as strings.
    texts = sorted(f"{pod.address}:{TARGET_PORT}" for pod in service.pods)
    return _Service(
        label=label,
        cluster_ip=service.cluster_ip,
        svc=f"KUBE-SVC-{_hash(f'{label}tcp')}",
        endpoints=tuple(
            _Endpoint(
                text=text,
                address=text.partition(":")[0],
                sep=f"KUBE-SEP-{_hash(f'{label}tcp{text}')}",
                dice=_dice(len(texts) - index),
            )
            for index, text in enumerate(texts)
        ),
    )


def _dice(left: int) -> str:
    """The match that takes one of the endpoints that are left with equal chance."""
    return f" -m statistic --mode random --probability {1 / left:.10f}" if left > 1 else ""


def _hash(text: str) -> str:
    return base64.b32encode(hashlib.sha256(text.encode()).digest())[:16].decode()
