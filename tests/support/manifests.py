"""Kubernetes objects as the dicts a manifest holds, with defaults, and random clusters of them.

A builder gives an object the API server would accept; keyword arguments replace or add fields of
``spec`` (``service``) or of the object, so a test states only what it is about. ``clusters`` draws
whole valid cluster states for property tests. Addresses are those of the documents: Services in
172.30.0.0/16 and fd00:30::/112, Pods in 10.244.0.0/16 and fd00:244::/56, the outside in
198.51.100.0/24 and 2001:db8::/32.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

Object = dict[str, Any]

NODES = ("node-1", "node-2", "node-3")
ZONES = ("zone-a", "zone-b")
CREATED = "2026-01-02T03:04:05Z"


def service(
    name: str,
    *,
    namespace: str = "default",
    cluster_ips: Sequence[str] = ("172.30.0.10",),
    ports: Iterable[Mapping[str, object]] = ({"name": "http", "port": 80},),
    ingress: Iterable[Mapping[str, object]] = (),
    labels: Mapping[str, str] | None = None,
    created: str = CREATED,
    **spec: object,
) -> Object:
    """A Service; ``spec`` holds further fields by their API name (``externalIPs=[...]``)."""
    whole: Object = {"type": "ClusterIP", "ports": [dict(p) for p in ports]}
    if cluster_ips:
        whole["clusterIP"] = cluster_ips[0]
        whole["clusterIPs"] = list(cluster_ips)
        whole["ipFamilies"] = ["IPv6" if ":" in ip else "IPv4" for ip in cluster_ips]
    whole.update(spec)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(name, namespace, labels, created),
        "spec": whole,
        "status": {"loadBalancer": {"ingress": [dict(i) for i in ingress]} if ingress else {}},
    }


def endpoint(
    *addresses: str,
    node: str = "",
    zone: str = "",
    zones: Sequence[str] = (),
    nodes: Sequence[str] = (),
    conditions: Mapping[str, bool | None] | None = None,
) -> Object:
    """One endpoint of a slice; ``zones`` and ``nodes`` are its hints."""
    made: Object = {"addresses": list(addresses)}
    if conditions is not None:
        made["conditions"] = dict(conditions)
    if node:
        made["nodeName"] = node
    if zone:
        made["zone"] = zone
    hints: Object = {}
    if zones:
        hints["forZones"] = [{"name": z} for z in zones]
    if nodes:
        hints["forNodes"] = [{"name": n} for n in nodes]
    if hints:
        made["hints"] = hints
    return made


def endpoint_slice(
    service: str,
    endpoints: Iterable[str | Mapping[str, object]] = ("10.244.1.7",),
    *,
    ports: Iterable[Mapping[str, object]] = ({"name": "http", "port": 8080},),
    namespace: str = "default",
    family: str = "IPv4",
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> Object:
    """An EndpointSlice of a Service; an endpoint is its address or what ``endpoint`` makes."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": _metadata(
            name or f"{service}-{family.lower()}",
            namespace,
            {"kubernetes.io/service-name": service, **(labels or {})},
            CREATED,
        ),
        "addressType": family,
        "endpoints": [endpoint(e) if isinstance(e, str) else dict(e) for e in endpoints],
        "ports": [{"protocol": "TCP", **p} for p in ports],
    }


def endpoints(
    name: str,
    addresses: Sequence[str] = ("10.244.1.7",),
    *,
    not_ready: Sequence[str] = (),
    ports: Iterable[Mapping[str, object]] = ({"name": "http", "port": 8080},),
    namespace: str = "default",
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Object:
    """An Endpoints object with one subset."""
    subset: Object = {"ports": [dict(p) for p in ports]}
    if addresses:
        subset["addresses"] = [{"ip": a} for a in addresses]
    if not_ready:
        subset["notReadyAddresses"] = [{"ip": a} for a in not_ready]
    metadata = _metadata(name, namespace, labels, CREATED)
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": [subset]}


def node(name: str, *, ip: str, zone: str = "", pod_cidr: str = "") -> Object:
    """A Node with one InternalIP."""
    labels = {"kubernetes.io/hostname": name}
    if zone:
        labels["topology.kubernetes.io/zone"] = zone
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"podCIDR": pod_cidr, "podCIDRs": [pod_cidr]} if pod_cidr else {},
        "status": {"addresses": [{"type": "InternalIP", "address": ip}]},
    }


def pod(
    name: str,
    *ips: str,
    namespace: str = "default",
    labels: Mapping[str, str] | None = None,
    node: str = "node-1",
    ready: bool = True,
    phase: str = "Running",
    terminating: bool = False,
    ports: Iterable[Mapping[str, object]] = (),
    **spec: object,
) -> Object:
    """A Pod with one container; ``ports`` are its containerPorts."""
    metadata = _metadata(name, namespace, labels, CREATED)
    if terminating:
        metadata["deletionTimestamp"] = CREATED
    container = {"name": "main", "image": "none", "ports": [dict(p) for p in ports]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"nodeName": node, "containers": [container], **spec},
        "status": {
            "phase": phase,
            "podIP": ips[0] if ips else "",
            "podIPs": [{"ip": ip} for ip in ips],
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


def kube_list(*objects: Mapping[str, object], kind: str = "List") -> bytes:
    """The objects as ``kubectl get -o json`` prints them: one JSON list."""
    return json.dumps({"apiVersion": "v1", "kind": kind, "items": objects}).encode()


def _metadata(name: str, namespace: str, labels: Mapping[str, str] | None, created: str) -> Object:
    metadata: Object = {"name": name, "namespace": namespace, "creationTimestamp": created}
    if labels:
        metadata["labels"] = dict(labels)
    return metadata


_PORTS = {
    "http": {"name": "http", "port": 80, "protocol": "TCP"},
    "dns": {"name": "dns", "port": 53, "protocol": "UDP"},
    "dns-tcp": {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    "diameter": {"name": "diameter", "port": 3868, "protocol": "SCTP"},
}
_RANGES = ("198.51.100.0/24", " 203.0.113.0/25 ", "2001:db8:1::/48")


@st.composite
def _service_spec(draw: st.DrawFn, number: int, ports: list[Object]) -> Object:
    kind = draw(st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer"]))
    spec: Object = {"type": kind}
    spec["internalTrafficPolicy"] = draw(st.sampled_from(["Cluster", "Cluster", "Local"]))
    if draw(st.booleans()):
        spec["externalIPs"] = [f"198.51.100.{10 + number}"]
    if kind != "ClusterIP" or "externalIPs" in spec:
        spec["externalTrafficPolicy"] = draw(st.sampled_from(["Cluster", "Local"]))
    if kind != "ClusterIP":
        for offset, port in enumerate(ports):
            port["nodePort"] = 30000 + 10 * number + offset
    if kind == "LoadBalancer":
        spec.update(draw(_load_balancer_spec(number, spec["externalTrafficPolicy"])))
    spec.update(
        draw(
            st.sampled_from(
                [
                    {},
                    {"sessionAffinity": "ClientIP"},
                    {
                        "sessionAffinity": "ClientIP",
                        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 30 + number}},
                    },
                ]
            )
        )
    )
    return spec


@st.composite
def _load_balancer_spec(draw: st.DrawFn, number: int, policy: str) -> Object:
    ip = {"ip": f"198.51.100.{100 + number}"}
    spec: Object = {
        "ingress": [ip | draw(st.sampled_from([{}, {"ipMode": "VIP"}, {"ipMode": "Proxy"}]))],
        "loadBalancerSourceRanges": draw(st.lists(st.sampled_from(_RANGES), unique=True)),
    }
    if policy == "Local":
        spec["healthCheckNodePort"] = 32000 + number
    return spec


@st.composite
def _endpoint(draw: st.DrawFn, number: int, family: str) -> Object:
    host = draw(st.integers(min_value=1, max_value=6))
    on = draw(st.integers(min_value=1, max_value=3))
    address = f"10.244.{on}.{10 * number + host}"
    if family == "IPv6":
        address = f"fd00:244:0:{on}::{10 * number + host:x}"
    conditions = draw(
        st.sampled_from(
            [
                {},
                {"ready": True},
                {"ready": False, "serving": False, "terminating": False},
                {"ready": False, "serving": True, "terminating": True},
                {"ready": False, "serving": False, "terminating": True},
            ]
        )
    )
    zones = draw(st.sampled_from([(), (), ("zone-a",), ("zone-b",)]))
    return endpoint(address, node=f"node-{on}", zones=zones, conditions=conditions)


@st.composite
def clusters(
    draw: st.DrawFn, *, max_services: int = 4, families: Sequence[str] = ("IPv4", "IPv6")
) -> list[Object]:
    """A small valid cluster: three Nodes, some Services, zero to two slices each per family."""
    objects: list[Object] = [
        node("node-1", ip="192.0.2.1", zone="zone-a", pod_cidr="10.244.1.0/24"),
        node("node-2", ip="192.0.2.2", zone="zone-b", pod_cidr="10.244.2.0/24"),
        node("node-3", ip="192.0.2.3", pod_cidr="10.244.3.0/24"),
    ]
    for number in range(draw(st.integers(min_value=0, max_value=max_services))):
        name, namespace = f"svc-{number}", draw(st.sampled_from(["default", "shop"]))
        keys = draw(st.lists(st.sampled_from(sorted(_PORTS)), min_size=1, max_size=3, unique=True))
        ports = [dict(_PORTS[key]) for key in keys]
        own = draw(st.lists(st.sampled_from(families), min_size=1, unique=True))
        ips = [
            f"172.30.0.{10 + number}" if f == "IPv4" else f"fd00:30::{10 + number}" for f in own
        ]
        spec = draw(_service_spec(number, ports))
        objects.append(service(name, namespace=namespace, cluster_ips=ips, ports=ports, **spec))
        for family in own:
            for index in range(draw(st.integers(min_value=0, max_value=2))):
                members = draw(
                    st.lists(
                        _endpoint(number, family),
                        max_size=4,
                        unique_by=lambda e: str(e["addresses"]),
                    )
                )
                targets = [{**_PORTS[key], "port": 8000 + len(key)} for key in keys]
                objects.append(
                    endpoint_slice(
                        name,
                        members,
                        ports=targets,
                        namespace=namespace,
                        family=family,
                        name=f"{name}-{family.lower()}-{index}",
                    )
                )
    return objects
