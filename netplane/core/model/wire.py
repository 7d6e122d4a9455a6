"""The Kubernetes objects as they travel: typed, unvalidated, only the fields that count here.

Field for field the API's own shapes (kubernetes-api v1, discovery.k8s.io/v1 and v1beta1). Every
field may be absent or null, as in Go's encoding; unknown fields are passed over. A field's name
here becomes the API's camelCase (``cluster_ips`` is ``clusterIPs``).
"""

from __future__ import annotations

import msgspec

_ACRONYMS = {"ip": "IP", "ips": "IPs", "cidr": "CIDR", "cidrs": "CIDRs"}


def _api_name(field: str) -> str:
    first, *others = field.split("_")
    return first + "".join(_ACRONYMS.get(part, part.capitalize()) for part in others)


class _Wire(msgspec.Struct, gc=False, rename=_api_name):
    """What all wire shapes have in common."""


class Named(_Wire):
    """Anything of which only the name counts: ``{name: zone-a}``."""

    name: str | None = None


class ServiceLabels(_Wire):
    """The labels of a Service that count."""

    proxy_name: str | None = msgspec.field(
        name="service.kubernetes.io/service-proxy-name", default=None
    )
    headless: str | None = msgspec.field(name="service.kubernetes.io/headless", default=None)


class ServiceMeta(_Wire):
    """The metadata of a Service."""

    name: str | None = None
    namespace: str | None = None
    creation_timestamp: str | None = None
    labels: ServiceLabels | None = None


class ServicePort(_Wire):
    """``spec.ports[]``."""

    name: str | None = None
    protocol: str | None = None
    port: int | None = None
    target_port: int | str | None = None
    node_port: int | None = None


class ClientIP(_Wire):
    """``spec.sessionAffinityConfig.clientIP``."""

    timeout_seconds: int | None = None


class AffinityConfig(_Wire):
    """``spec.sessionAffinityConfig``."""

    client_ip: ClientIP | None = None


class ServiceSpec(_Wire):
    """``spec`` of a Service."""

    type: str | None = None
    selector: dict[str, str | None] | None = None
    cluster_ip: str | None = None
    cluster_ips: list[str] | None = None
    ip_families: list[str] | None = None
    ports: list[ServicePort] | None = None
    external_ips: list[str] | None = None
    session_affinity: str | None = None
    session_affinity_config: AffinityConfig | None = None
    load_balancer_source_ranges: list[str] | None = None
    internal_traffic_policy: str | None = None
    external_traffic_policy: str | None = None
    health_check_node_port: int | None = None
    publish_not_ready_addresses: bool | None = None
    traffic_distribution: str | None = None


class Ingress(_Wire):
    """``status.loadBalancer.ingress[]``."""

    ip: str | None = None
    ip_mode: str | None = None


class LoadBalancer(_Wire):
    """``status.loadBalancer``."""

    ingress: list[Ingress] | None = None


class ServiceStatus(_Wire):
    """``status`` of a Service."""

    load_balancer: LoadBalancer | None = None


class Service(_Wire):
    """A v1 Service."""

    metadata: ServiceMeta | None = None
    spec: ServiceSpec | None = None
    status: ServiceStatus | None = None


class SliceLabels(_Wire):
    """The labels of an EndpointSlice that count."""

    service: str | None = msgspec.field(name="kubernetes.io/service-name", default=None)
    proxy_name: str | None = msgspec.field(
        name="service.kubernetes.io/service-proxy-name", default=None
    )
    headless: str | None = msgspec.field(name="service.kubernetes.io/headless", default=None)


class SliceMeta(_Wire):
    """The metadata of an EndpointSlice."""

    name: str | None = None
    namespace: str | None = None
    labels: SliceLabels | None = None


class Conditions(_Wire):
    """``endpoints[].conditions``."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Hints(_Wire):
    """``endpoints[].hints``."""

    for_zones: list[Named] | None = None
    for_nodes: list[Named] | None = None


class Topology(_Wire):
    """``endpoints[].topology`` of v1beta1, where the node's name was a label."""

    hostname: str | None = msgspec.field(name="kubernetes.io/hostname", default=None)


class Endpoint(_Wire):
    """``endpoints[]`` of an EndpointSlice."""

    addresses: list[str] | None = None
    conditions: Conditions | None = None
    node_name: str | None = None
    hints: Hints | None = None
    topology: Topology | None = None


class EndpointPort(_Wire):
    """``ports[]`` of an EndpointSlice, and of a subset of Endpoints."""

    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class EndpointSlice(_Wire):
    """A discovery.k8s.io EndpointSlice, v1 or v1beta1."""

    api_version: str | None = None
    metadata: SliceMeta | None = None
    address_type: str | None = None
    endpoints: list[Endpoint] | None = None
    ports: list[EndpointPort] | None = None


class EndpointsMeta(_Wire):
    """The metadata of an Endpoints object."""

    name: str | None = None
    namespace: str | None = None
    labels: dict[str, str | None] | None = None
    annotations: dict[str, str | None] | None = None


class EndpointAddress(_Wire):
    """``subsets[].addresses[]``."""

    ip: str | None = None
    node_name: str | None = None


class Subset(_Wire):
    """``subsets[]`` of an Endpoints object."""

    addresses: list[EndpointAddress] | None = None
    not_ready_addresses: list[EndpointAddress] | None = None
    ports: list[EndpointPort] | None = None


class Endpoints(_Wire):
    """A v1 Endpoints object."""

    metadata: EndpointsMeta | None = None
    subsets: list[Subset] | None = None


class ObjectMeta(_Wire):
    """The metadata of a Node or a Pod."""

    name: str | None = None
    namespace: str | None = None
    labels: dict[str, str | None] | None = None
    deletion_timestamp: str | None = None


class NodeSpec(_Wire):
    """``spec`` of a Node."""

    pod_cidr: str | None = None
    pod_cidrs: list[str] | None = None


class NodeAddress(_Wire):
    """``status.addresses[]`` of a Node."""

    type: str | None = None
    address: str | None = None


class NodeStatus(_Wire):
    """``status`` of a Node."""

    addresses: list[NodeAddress] | None = None


class Node(_Wire):
    """A v1 Node."""

    metadata: ObjectMeta | None = None
    spec: NodeSpec | None = None
    status: NodeStatus | None = None


class ContainerPort(_Wire):
    """``ports[]`` of a container."""

    name: str | None = None
    protocol: str | None = None
    container_port: int | None = None


class Container(_Wire):
    """A container; ``restart_policy`` only where it is an init container."""

    ports: list[ContainerPort] | None = None
    restart_policy: str | None = None


class PodSpec(_Wire):
    """``spec`` of a Pod."""

    node_name: str | None = None
    containers: list[Container] | None = None
    init_containers: list[Container] | None = None


class PodIP(_Wire):
    """``status.podIPs[]``."""

    ip: str | None = None


class PodCondition(_Wire):
    """``status.conditions[]`` of a Pod."""

    type: str | None = None
    status: str | None = None


class PodStatus(_Wire):
    """``status`` of a Pod."""

    phase: str | None = None
    pod_ip: str | None = None
    pod_ips: list[PodIP] | None = None
    conditions: list[PodCondition] | None = None


class Pod(_Wire):
    """A v1 Pod."""

    metadata: ObjectMeta | None = None
    spec: PodSpec | None = None
    status: PodStatus | None = None


# As items of a list, where an object says its kind itself.


class ListedService(Service):
    """A Service in a list."""

    kind: str | None = None
    api_version: str | None = None


class ListedEndpointSlice(EndpointSlice):
    """An EndpointSlice in a list."""

    kind: str | None = None


class ListedNode(Node):
    """A Node in a list."""

    kind: str | None = None
    api_version: str | None = None


Listed = ListedService | ListedEndpointSlice | ListedNode
