"""Objects joined into a snapshot: unedited kubectl output, duplicates, kinds passed over."""

from __future__ import annotations

import json

import yaml

from netplane.core.model.cluster import build_snapshot
from netplane.core.model.documents import parse
from netplane.core.model.service import Endpoint, Node, Protocol, ServiceName, ServicePort
from netplane.core.model.snapshot import Snapshot
from tests.support.manifests import endpoint_slice, kube_list, node, service

WEB = ServiceName("default", "web")

KUBECTL = """\
apiVersion: v1
items:
- apiVersion: v1
  kind: Service
  metadata:
    annotations:
      kubectl.kubernetes.io/last-applied-configuration: |
        {"apiVersion":"v1","kind":"Service","metadata":{"annotations":{},"name":"web"}}
    creationTimestamp: "2026-01-02T03:04:05Z"
    managedFields:
    - apiVersion: v1
      fieldsType: FieldsV1
      fieldsV1:
        f:spec:
          f:ports:
            .: {}
            k:{"port":80,"protocol":"TCP"}:
              .: {}
              f:port: {}
      manager: kubectl-client-side-apply
      operation: Update
      time: "2026-01-02T03:04:05Z"
    name: web
    namespace: default
    resourceVersion: "517"
    uid: 4f7f3a0e-9f4b-4c55-8b8e-3c1f9f1f9c0a
  spec:
    allocateLoadBalancerNodePorts: true
    clusterIP: 172.30.0.10
    clusterIPs:
    - 172.30.0.10
    externalTrafficPolicy: Cluster
    internalTrafficPolicy: Cluster
    ipFamilies:
    - IPv4
    ipFamilyPolicy: SingleStack
    ports:
    - name: http
      nodePort: 30080
      port: 80
      protocol: TCP
      targetPort: http
    selector:
      app: web
    sessionAffinity: None
    type: LoadBalancer
  status:
    loadBalancer:
      ingress:
      - ip: 198.51.100.1
        ipMode: VIP
- addressType: IPv4
  apiVersion: discovery.k8s.io/v1
  endpoints:
  - addresses:
    - 10.244.1.7
    conditions:
      ready: true
      serving: true
      terminating: false
    nodeName: node-1
    targetRef:
      kind: Pod
      name: web-6d8b7c5f9d-abcde
      namespace: default
      uid: 0c0f5f0e-2a35-4c7e-8f57-6a2f1f1d3b2e
    zone: zone-a
  kind: EndpointSlice
  metadata:
    creationTimestamp: 2026-01-02T03:04:05Z
    generateName: web-
    generation: 4
    labels:
      endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io
      kubernetes.io/service-name: web
    name: web-x7k2p
    namespace: default
    ownerReferences:
    - apiVersion: v1
      blockOwnerDeletion: true
      controller: true
      kind: Service
      name: web
      uid: 4f7f3a0e-9f4b-4c55-8b8e-3c1f9f1f9c0a
  ports:
  - name: http
    port: 8080
    protocol: TCP
- addressType: IPv4
  apiVersion: discovery.k8s.io/v1
  endpoints: null
  kind: EndpointSlice
  metadata:
    creationTimestamp: null
    labels:
      kubernetes.io/service-name: empty
    name: empty-2kd8s
    namespace: default
  ports: null
- apiVersion: v1
  kind: Node
  metadata:
    labels:
      topology.kubernetes.io/zone: zone-a
    name: node-1
  spec:
    podCIDR: 10.244.1.0/24
    podCIDRs:
    - 10.244.1.0/24
  status:
    addresses:
    - address: 192.0.2.1
      type: InternalIP
    - address: node-1
      type: Hostname
    - address: 198.51.100.2
      type: ExternalIP
    allocatable:
      cpu: "4"
    images:
    - names: null
      sizeBytes: 1.5e9
kind: List
metadata:
  resourceVersion: ""
"""


def read(*files: bytes) -> Snapshot:
    return build_snapshot(m for data in files for m in parse(data, origin="test"))


def test_kubectl_output_goes_in_unedited() -> None:
    snapshot = read(KUBECTL.encode())
    assert snapshot.problems == ()
    assert snapshot.skipped == {}
    web = snapshot.services[WEB]
    assert web.ports == (ServicePort("http", Protocol.TCP, 80, 30080),)
    assert (web.load_balancer_ips, web.created) == (("198.51.100.1",), "2026-01-02T03:04:05Z")
    assert snapshot.slices[WEB][0].endpoints == (Endpoint("10.244.1.7", node="node-1"),)
    assert snapshot.slices[ServiceName("default", "empty")][0].endpoints == ()
    assert snapshot.nodes["node-1"] == Node(
        name="node-1",
        zone="zone-a",
        addresses=("192.0.2.1", "198.51.100.2"),
        pod_cidrs=("10.244.1.0/24",),
    )


def test_the_same_as_json_and_one_object_at_a_time() -> None:
    # BaseLoader would turn numbers into text, and SafeLoader times into datetimes.
    tree = json.loads(json.dumps(yaml.safe_load(KUBECTL), default=lambda time: f"{time:%FT%TZ}"))
    whole = read(KUBECTL.encode())
    assert read(json.dumps(tree).encode()) == whole
    assert read(json.dumps(tree, indent=4).encode()) == whole
    assert read(*(json.dumps(item).encode() for item in tree["items"])) == whole
    assert read("\n---\n".join(yaml.safe_dump(item) for item in tree["items"]).encode()) == whole


def test_the_later_of_two_counts() -> None:
    first, second = service("web", created=""), service("web", cluster_ips=["172.30.0.99"])
    for old, new, expected in ((first, second, "172.30.0.99"), (second, first, "172.30.0.10")):
        snapshot = read(kube_list(old, new))
        assert snapshot.services[WEB].cluster_ips == (expected,)
    del second["metadata"]["namespace"]
    assert list(read(kube_list(first), kube_list(second)).services) == [WEB]


def test_a_later_object_that_is_nothing_to_program_replaces_too() -> None:
    assert read(kube_list(service("web"), service("web", cluster_ips=["None"]))).services == {}


def test_the_same_name_in_two_namespaces_is_two_services() -> None:
    snapshot = read(kube_list(service("web", namespace="shop"), service("web")))
    assert list(snapshot.services) == [WEB, ServiceName("shop", "web")]


def test_other_kinds_are_counted() -> None:
    others = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}},
        {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "web"}},
        {"apiVersion": "v1", "kind": "A\x1b[2J", "metadata": {"name": "a"}},
    ]
    snapshot = read(kube_list(*others, service("web")))
    assert list(snapshot.services) == [WEB]
    assert snapshot.problems == ()
    assert snapshot.skipped == {
        "A\\x1b[2J": 1,
        "ConfigMap": 2,
        "Deployment": 1,
        "Service.serving.knative.dev": 1,
    }


def test_slices_are_sorted_by_name_and_everything_by_key() -> None:
    snapshot = read(
        kube_list(
            node("b", ip="192.0.2.2"),
            node("a", ip="192.0.2.1"),
            service("web"),
            service("api", cluster_ips=["172.30.0.11"]),
            endpoint_slice("web", name="web-b"),
            endpoint_slice("web", name="web-a"),
            endpoint_slice("api"),
        )
    )
    assert [s.name for s in snapshot.slices[WEB]] == ["web-a", "web-b"]
    assert (
        [n.name for n in snapshot.services] == ["api", "web"] == [n.name for n in snapshot.slices]
    )
    assert list(snapshot.nodes) == ["a", "b"]


def test_nothing_is_a_snapshot_too() -> None:
    assert read(b"") == Snapshot(services={}, slices={}, nodes={})
