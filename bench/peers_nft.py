"""kube-proxy's nftables rules for a state, as ready-made files for ``nft -f``.

The layouts differ by kube-proxy's version. With two or more endpoints per Service, 1.36 and 1.37
write the same rules: 1.37 changed what a Service with a single endpoint looks like.
"""

from __future__ import annotations

import base64
import enum
import hashlib
from pathlib import Path
from typing import NamedTuple

from bench.states import (
    CLUSTER_CIDR,
    NODE,
    PORT,
    SERVICE_CIDR,
    TARGET_PORT,
    BenchService,
    Shape,
    services,
)
from bench.templates import template


class Layout(enum.Enum):
    """How kube-proxy lays out its table, by the release that wrote it last."""

    V1_35 = "1.35"
    V1_36 = "1.36"
    V1_37 = "1.37"


class _Endpoint(NamedTuple):
    name: str
    address: str
    local: bool


class _Service(NamedTuple):
    name: str
    cluster_ip: str
    balance: str
    endpoints: tuple[_Endpoint, ...]


def write_rules(shape: Shape, layout: Layout, path: Path) -> None:
    """Write the whole of what kube-proxy loads at its start for a state."""
    stream = template("kube-proxy-nft.j2").stream(
        layout=layout.value,
        services=(_service(service, layout) for service in services(shape)),
        port=PORT,
        target_port=TARGET_PORT,
        cluster_cidr=CLUSTER_CIDR,
        service_cidr=SERVICE_CIDR,
    )
    stream.enable_buffering(1000)
    stream.dump(str(path))


def delta(service: BenchService) -> str:
    """What kube-proxy 1.36 or 1.37 sends when an endpoint of one Service was replaced.

    Only the Service's own chain is rewritten; neither the old endpoint nor the new one is on this
    node. The listing of chains and sets that kube-proxy makes before is not part of this.
    """
    name = _service_chain(service)
    return (
        f"add chain ip kube-proxy {name}\n"
        f"flush chain ip kube-proxy {name}\n"
        f"add rule ip kube-proxy {name} {_balance(service, Layout.V1_37)}\n"
    )


def _service(service: BenchService, layout: Layout) -> _Service:
    return _Service(
        name=_service_chain(service),
        cluster_ip=service.cluster_ip,
        balance=_balance(service, layout),
        endpoints=tuple(
            _Endpoint(
                name=f"endpoint-{_base(f'{_path(service)}__{pod.address}/{TARGET_PORT}')}",
                address=pod.address,
                local=pod.node == NODE,
            )
            for pod in service.pods
        ),
    )


def _balance(service: BenchService, layout: Layout) -> str:
    """The rule that picks an endpoint, in the layouts without endpoint chains."""
    addresses = [pod.address for pod in service.pods]
    if layout is Layout.V1_37 and len(addresses) == 1:
        return f"meta l4proto tcp dnat to {addresses[0]}:{TARGET_PORT}"
    slots = " , ".join(f"{i} : {a} . {TARGET_PORT}" for i, a in enumerate(addresses))
    count = len(addresses)
    return f"meta l4proto tcp dnat ip addr . port to numgen random mod {count} map {{ {slots} }}"


def _service_chain(service: BenchService) -> str:
    return f"service-{_base(_path(service))}"


def _path(service: BenchService) -> str:
    return f"{service.namespace}/{service.name}/tcp/http"


def _base(path: str) -> str:
    """The name kube-proxy gives an object: eight letters of a hash, and the path itself."""
    return f"{base64.b32encode(hashlib.sha256(path.encode()).digest())[:8].decode()}-{path}"
