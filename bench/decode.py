"""How long it takes from the bytes of ``kubectl get -o json`` to a validated snapshot.

    python bench/decode.py [SERVICES] [ENDPOINTS_PER_SERVICE]

prints one line per stage, the best of three runs, for as many Services and EndpointSlices as
asked for (10,000 with 5 endpoints each), shaped and indented as kubectl prints them.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from netplane.core.model.cluster import build_snapshot
from netplane.core.model.documents import parse

CREATED = "2026-01-02T03:04:05Z"


def metadata(name: str, labels: dict[str, str]) -> dict[str, Any]:
    return {
        "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": CREATED},
        "creationTimestamp": CREATED,
        "generation": 4,
        "labels": labels,
        "name": name,
        "namespace": "default",
        "resourceVersion": "1234567",
        "uid": "0b8c5f9e-5b43-4a3c-9c51-3f1f6c1d2a11",
    }


def service(number: int) -> dict[str, Any]:
    ip = f"172.{16 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(f"service-{number}", {"app": "web"}),
        "spec": {
            "clusterIP": ip,
            "clusterIPs": [ip],
            "internalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
            "selector": {"app": f"web-{number}"},
            "sessionAffinity": "None",
            "type": "ClusterIP",
        },
        "status": {"loadBalancer": {}},
    }


def endpoint_slice(number: int, size: int) -> dict[str, Any]:
    name = f"service-{number}"
    labels = {
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
        "kubernetes.io/service-name": name,
    }
    endpoints = []
    for index in range(number * size, (number + 1) * size):
        address = f"10.{index >> 16}.{index >> 8 & 255}.{index & 255}"
        endpoints.append(
            {
                "addresses": [address],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": f"node-{index % 100}",
                "targetRef": {
                    "kind": "Pod",
                    "name": f"{name}-7d4b9c5f6d-{index}",
                    "namespace": "default",
                    "uid": "5f0e9b0f-40c9-4d38-8f3e-0e5f7f1c6d0e",
                },
                "zone": "zone-a",
            }
        )
    return {
        "addressType": "IPv4",
        "apiVersion": "discovery.k8s.io/v1",
        "endpoints": endpoints,
        "kind": "EndpointSlice",
        "metadata": metadata(f"{name}-x7k2p", labels),
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }


def main() -> None:
    services = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    items = [service(n) for n in range(services)]
    items += [endpoint_slice(n, size) for n in range(services)]
    text = {"apiVersion": "v1", "items": items, "kind": "List"}
    data = json.dumps(text, indent=4).encode()
    del items, text
    print(f"{services} Services x {size} endpoints, {len(data) / 1e6:.1f} MB of JSON")
    best = {"parse": 1e9, "build_snapshot": 1e9, "total": 1e9}
    for _ in range(3):
        begin = time.perf_counter()
        manifests = parse(data, origin="bench")
        between = time.perf_counter()
        snapshot = build_snapshot(manifests)
        end = time.perf_counter()
        assert len(snapshot.services) == len(snapshot.slices) == services
        assert not snapshot.problems
        times = {"parse": between - begin, "build_snapshot": end - between, "total": end - begin}
        best = {stage: min(best[stage], times[stage]) for stage in best}
    for stage, seconds in best.items():
        print(f"{stage:>15} {seconds:6.3f} s")


if __name__ == "__main__":
    main()
