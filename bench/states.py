"""Cluster states to measure with: so many Services, each with so many endpoints.

A state is a function of its shape alone, so that peers and netplane get the same cluster in every
run. The JSON is what ``kubectl get svc,endpointslices,nodes -A -o json`` prints of such a cluster:
a List, four spaces deep, with the metadata a controller leaves behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

CLUSTER_CIDR = "10.128.0.0/9"
SERVICE_CIDR = "10.96.0.0/12"
NODE = "node-000"
NODES = 100
PORT = 80
TARGET_PORT = 8080

_FIRST_CLUSTER_IP = 0x0A600001  # 10.96.0.1
_FIRST_POD = 0x0A800001  # 10.128.0.1
_FIRST_SPARE = 0x0AB00001  # 10.176.0.1: addresses of pods that replace others
_NAMESPACES = 50
_CREATED = "2026-01-01T00:00:00Z"


class Shape(NamedTuple):
    """How many Services, and how many endpoints each; prints as ``10,000 x 5``."""

    services: int
    endpoints: int

    def __str__(self) -> str:
        return f"{self.services:,} x {self.endpoints}"


class Pod(NamedTuple):
    """An endpoint: its address, and the node it runs on."""

    address: str
    node: str


class BenchService(NamedTuple):
    """One Service with one TCP port, and the pods behind it."""

    namespace: str
    name: str
    cluster_ip: str
    pods: tuple[Pod, ...]


def services(shape: Shape) -> Iterator[BenchService]:
    """The Services of a state, in order."""
    for index in range(shape.services):
        yield service_at(shape, index)


def service_at(shape: Shape, index: int) -> BenchService:
    """The Service of this index, 0-based."""
    first = index * shape.endpoints
    return BenchService(
        namespace=f"team-{index % _NAMESPACES:02d}",
        name=f"web-{index:06d}",
        cluster_ip=_dotted(_FIRST_CLUSTER_IP + index),
        pods=tuple(
            Pod(_dotted(_FIRST_POD + k), f"node-{k % NODES:03d}")
            for k in range(first, first + shape.endpoints)
        ),
    )


def with_replaced_pod(service: BenchService, turn: int) -> BenchService:
    """The Service after its last pod died and another, different each turn, took its place."""
    spare = Pod(_dotted(_FIRST_SPARE + turn), "node-001")
    return service._replace(pods=(*service.pods[:-1], spare))


def replaced(service: BenchService, turn: int) -> BenchService:
    """The Service after all its pods were replaced, by others each turn."""
    first = _FIRST_SPARE + turn * len(service.pods)
    pods = (Pod(_dotted(first + k), "node-001") for k in range(len(service.pods)))
    return service._replace(pods=tuple(pods))


def write_state(shape: Shape, path: Path) -> None:
    """Write a state as one JSON List."""
    with path.open("wb") as file:
        file.write(b'{\n    "apiVersion": "v1",\n    "items": [')
        separator = b"\n"
        for item in _items(shape):
            text = msgspec.json.format(msgspec.json.encode(item, order="sorted"), indent=4)
            file.write(separator + b"        " + text.replace(b"\n", b"\n        "))
            separator = b",\n"
        file.write(b'\n    ],\n    "kind": "List",\n    "metadata": {\n')
        file.write(b'        "resourceVersion": ""\n    }\n}\n')


def endpoint_slice(service: BenchService) -> dict[str, Any]:
    """The one EndpointSlice of a Service, as the API server prints it."""
    return {
        "addressType": "IPv4",
        "apiVersion": "discovery.k8s.io/v1",
        "endpoints": [
            {
                "addresses": [pod.address],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": pod.node,
                "targetRef": {
                    "kind": "Pod",
                    "name": f"{service.name}-7d4b9c6f5-{number:05d}",
                    "namespace": service.namespace,
                    "uid": _uid(3, pod.address),
                },
                "zone": "zone-a",
            }
            for number, pod in enumerate(service.pods)
        ],
        "kind": "EndpointSlice",
        "metadata": {
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": _CREATED},
            "creationTimestamp": _CREATED,
            "generateName": f"{service.name}-",
            "generation": 4,
            "labels": {
                "app": service.name,
                "endpointslice.kubernetes.io/managed-by": ("endpointslice-controller.k8s.io"),
                "kubernetes.io/service-name": service.name,
            },
            "name": f"{service.name}-x7k2p",
            "namespace": service.namespace,
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "blockOwnerDeletion": True,
                    "controller": True,
                    "kind": "Service",
                    "name": service.name,
                    "uid": _uid(1, service.cluster_ip),
                }
            ],
            "resourceVersion": "1482",
            "uid": _uid(2, service.cluster_ip),
        },
        "ports": [{"name": "http", "port": TARGET_PORT, "protocol": "TCP"}],
    }


def _items(shape: Shape) -> Iterator[dict[str, Any]]:
    """In kubectl's order: kind by kind."""
    yield from map(service_object, services(shape))
    yield from map(endpoint_slice, services(shape))
    yield from map(_node, range(NODES))


def service_object(service: BenchService) -> dict[str, Any]:
    """A Service as the API server prints it."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "creationTimestamp": _CREATED,
            "labels": {"app": service.name},
            "name": service.name,
            "namespace": service.namespace,
            "resourceVersion": "1201",
            "uid": _uid(1, service.cluster_ip),
        },
        "spec": {
            "clusterIP": service.cluster_ip,
            "clusterIPs": [service.cluster_ip],
            "internalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "ports": [
                {"name": "http", "port": PORT, "protocol": "TCP", "targetPort": TARGET_PORT}
            ],
            "selector": {"app": service.name},
            "sessionAffinity": "None",
            "type": "ClusterIP",
        },
        "status": {"loadBalancer": {}},
    }


def _node(index: int) -> dict[str, Any]:
    name = f"node-{index:03d}"
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "creationTimestamp": _CREATED,
            "labels": {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": "zone-a"},
            "name": name,
            "resourceVersion": "977",
            "uid": _uid(4, str(index)),
        },
        "spec": {"podCIDR": f"10.{128 + index}.0.0/16", "podCIDRs": [f"10.{128 + index}.0.0/16"]},
        "status": {
            "addresses": [
                {"address": f"192.0.2.{index + 1}", "type": "InternalIP"},
                {"address": name, "type": "Hostname"},
            ]
        },
    }


def _dotted(address: int) -> str:
    return f"{address >> 24}.{address >> 16 & 255}.{address >> 8 & 255}.{address & 255}"


def _uid(kind: int, text: str) -> str:
    """A unique id that is the same in every run; only its form and length matter."""
    return f"{kind:08x}-0000-4000-8000-{text.replace('.', ''):0>12.12}"
