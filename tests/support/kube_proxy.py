"""What a kube-proxy leaves on a node that it served: rules that go on serving without it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2

from netplane.apply.netns import Namespace
from tests.support.netns import run_tool

CANARY = "KUBE-PROXY-CANARY"
_TEMPLATES = Path(__file__).parents[2] / "templates" / "bench"


class Served(NamedTuple):
    """A Service with one port, named ``http``; ``endpoints`` are addresses."""

    label: str
    cluster_ip: str
    port: int
    node_port: int
    endpoints: Sequence[str]
    target_port: int = 8080


def leave_iptables(namespace: Namespace, service: Served, *, cluster_cidr: str) -> None:
    """Load what kube-proxy's iptables mode has of a Service, with its canary."""
    label = f"{service.label}:http"
    texts = sorted(f"{address}:{service.target_port}" for address in service.endpoints)
    svc, ext = (f"KUBE-{kind}-{_hash(f'{label}tcp')}" for kind in ("SVC", "EXT"))
    rules = _render(
        "kube-proxy-iptables.j2",
        services=[
            {
                "label": label,
                "cluster_ip": service.cluster_ip,
                "svc": svc,
                "endpoints": [
                    {
                        "text": text,
                        "address": text.partition(":")[0],
                        "sep": f"KUBE-SEP-{_hash(f'{label}tcp{text}')}",
                        "dice": _dice(len(texts) - index),
                    }
                    for index, text in enumerate(texts)
                ],
            }
        ],
        terse=False,
        port=service.port,
        cluster_cidr=cluster_cidr,
    )
    comment = f'-m comment --comment "masquerade traffic for {label} external destinations"'
    rules += (
        f"*nat\n:{CANARY} - [0:0]\n:{ext} - [0:0]\n"
        f"-A {ext} {comment} -j KUBE-MARK-MASQ\n"
        f"-A {ext} -j {svc}\n"
        f"-A KUBE-NODEPORTS -m comment --comment {label} -m tcp -p tcp"
        f" --dport {service.node_port} -j {ext}\n"
        f"COMMIT\n*filter\n:{CANARY} - [0:0]\nCOMMIT\n*mangle\n:{CANARY} - [0:0]\nCOMMIT\n"
    )
    run_tool(["iptables-restore", "--noflush"], stdin=rules, inside=namespace)


def leave_nftables(
    namespace: Namespace, service: Served, *, cluster_cidr: str, service_cidr: str
) -> None:
    """Load the table that kube-proxy's nftables mode has of a Service."""
    namespaced, _, name = service.label.partition("/")
    path = f"{namespaced}/{name}/tcp/http"
    chain, external = (f"{kind}-{_hash(path)[:8]}-{path}" for kind in ("service", "external"))
    slots = " , ".join(
        f"{slot} : {address} . {service.target_port}"
        for slot, address in enumerate(service.endpoints)
    )
    picks = f"numgen random mod {len(service.endpoints)} map {{ {slots} }}"
    rules = _render(
        "kube-proxy-nft.j2",
        layout="1.36",
        services=[
            {
                "name": chain,
                "cluster_ip": service.cluster_ip,
                "balance": f"meta l4proto tcp dnat ip addr . port to {picks}",
                "endpoints": [],
            }
        ],
        port=service.port,
        target_port=service.target_port,
        cluster_cidr=cluster_cidr,
        service_cidr=service_cidr,
    )
    table = "ip kube-proxy"
    rules += (
        f"add chain {table} {external}\n"
        f"add rule {table} {external} mark set mark or 0x4000\n"
        f"add rule {table} {external} goto {chain}\n"
        f"add element {table} service-nodeports"
        f" {{ tcp . {service.node_port} : goto {external} }}\n"
    )
    run_tool(["nft", "-f", "-"], stdin=rules, inside=namespace)


def _render(name: str, **values: object) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name).render(**values)


def _dice(left: int) -> str:
    """The match that takes one of the endpoints that are left with equal chance."""
    return f" -m statistic --mode random --probability {1 / left:.10f}" if left > 1 else ""


def _hash(text: str) -> str:
    return base64.b32encode(hashlib.sha256(text.encode()).digest())[:16].decode()
