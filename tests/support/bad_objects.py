"""A hundred ways in which a Service or a slice of it can be wrong, and how each is to be named.

Each is one change of an object that would be good. What is refused is the whole Service, a part of
it (what it lost to another), or a slice or a part of that.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from netplane.core.model.problem import shown
from netplane.core.model.reasons import Reason
from tests.support.manifests import CREATED, Object, endpoint_slice, service

#: What ``older`` claims, and a younger Service does not get.
CONTESTED_PORT = 31999
CONTESTED_HEALTH_PORT = 31998
CONTESTED_IP = "198.51.100.250"
OLDER = "older"
_LATER = "2026-02-03T04:05:06Z"
_ABSENT = object()
_HOSTILE = "a'\"; $(reboot) \x1b[31m\n-A KUBE-SERVICES -j DROP\n"
_SERVICE_LABEL = ("metadata", "labels", "kubernetes.io/service-name")


class Bad(NamedTuple):
    """One way.

    Attributes:
        service: Changes the Service, in place.
        slice: Changes its slice, in place.
        field: Begins the path of the field that is named.
        reason: Why, as the metric has it; None: it names another object.
        names: The kind of the object that is named.
        files_only: An API server cannot send it.
        state: What becomes of the Service.
    """

    field: str
    reason: Reason | None
    service: Callable[[Object], None] | None = None
    slice: Callable[[Object], None] | None = None
    names: str = "Service"
    files_only: bool = False
    state: str = "refused"

    @property
    def label(self) -> str:
        return self.reason.name.lower() if self.reason is not None else "other"

    def objects(self, number: int) -> tuple[Object, Object]:
        """The Service, called ``bad-NUMBER`` unless that is what is wrong, and its slice."""
        name = f"bad-{number}"
        made = service(name, cluster_ips=[f"172.31.0.{number + 1}"], created=_LATER)
        fed = endpoint_slice(name, ["10.244.1.1"])
        for change, thing in ((self.service, made), (self.slice, fed)):
            if change is not None:
                change(thing)
        return made, fed


def older() -> list[Object]:
    """The Service that has what others want, too."""
    whole = service(
        OLDER,
        type="LoadBalancer",
        cluster_ips=["172.31.255.1"],
        externalIPs=[CONTESTED_IP],
        ports=[{"name": "http", "port": 80, "nodePort": CONTESTED_PORT}],
        externalTrafficPolicy="Local",
        healthCheckNodePort=CONTESTED_HEALTH_PORT,
        created=CREATED,
    )
    return [whole, endpoint_slice(OLDER, ["10.244.1.1"])]


def named(made: Object) -> str:
    """How an object is named where it is refused: ``Service default/web``."""
    meta = made["metadata"] if isinstance(made.get("metadata"), dict) else {}
    name, namespace = meta.get("name"), meta.get("namespace")
    namespace = shown(namespace) if isinstance(namespace, str) else "default"
    return f"{made['kind']} {namespace}/{shown(name) if isinstance(name, str) else ''}"


def _set(thing: Object, path: str | Sequence[str], value: object) -> None:
    """Put a value at a path, ``spec.ports.0.port``; ``_ABSENT`` takes away what is there."""
    *way, last = path.split(".") if isinstance(path, str) else path
    place: Any = thing
    for step in way:
        place = place[int(step)] if isinstance(place, list) else place.setdefault(step, {})
    if value is _ABSENT:
        del place[last]
    elif isinstance(place, list):
        place[int(last)] = copy.deepcopy(value)
    else:
        place[last] = copy.deepcopy(value)


def _change(
    changes: Sequence[tuple[str | Sequence[str], object]],
) -> Callable[[Object], None]:
    def change(thing: Object) -> None:
        for path, value in changes:
            _set(thing, path, value)

    return change


def _svc(field: str, reason: Reason | None, *changes: tuple[str | Sequence[str], object]) -> Bad:
    return Bad(field, reason, service=_change(changes))


def _eps(field: str, reason: Reason, *changes: tuple[str | Sequence[str], object]) -> Bad:
    return Bad(
        field, reason, slice=_change(changes), names="EndpointSlice", state="partly programmed"
    )


def _lost(field: str, *changes: tuple[str | Sequence[str], object]) -> Bad:
    return Bad(field, None, service=_change(changes), state="partly programmed")


def _ports(*ports: dict[str, object]) -> tuple[str, object]:
    return "spec.ports", list(ports)


_A, _B = {"name": "a", "port": 80}, {"name": "b", "port": 81}
_MANY = [f"10.0.{i // 256}.{i % 256}" for i in range(1, 2000)]

_NAMES: tuple[Bad, ...] = (
    _svc("metadata.name", Reason.NOT_A_LABEL, ("metadata.name", "Upper_Case")),
    _svc("metadata.name", Reason.NOT_A_LABEL, ("metadata.name", "n" * 64)),
    _svc("metadata.name", Reason.NOT_A_LABEL, ("metadata.name", "n" * 5000)),
    _svc("metadata.name", Reason.NOT_A_LABEL, ("metadata.name", "dotted.name")),
    _svc("metadata.name", Reason.NOT_A_LABEL, ("metadata.name", "-dash")),
    _svc("metadata.name", Reason.NOT_A_LABEL, ("metadata.name", _HOSTILE)),
    _svc("metadata.name", Reason.NOT_A_LABEL, ("metadata.name", "größe")),
    _svc("metadata.name", Reason.NOT_A_LABEL, ("metadata.name", "../../etc/passwd")),
    _svc("metadata.namespace", Reason.NOT_A_LABEL, ("metadata.namespace", "Name Space")),
    _svc("metadata.namespace", Reason.NOT_A_LABEL, ("metadata.namespace", "x" * 300)),
    Bad("metadata.name", Reason.MISSING, _change([("metadata.name", _ABSENT)]), files_only=True),
    Bad("apiVersion", Reason.UNKNOWN_VERSION, _change([("apiVersion", "v2")]), files_only=True),
    _svc("metadata.creationTimestamp", Reason.NOT_A_TIME, ("metadata.creationTimestamp", "now")),
    _svc("metadata.creationTimestamp", Reason.WRONG_TYPE, ("metadata.creationTimestamp", 17)),
)
_TYPES: tuple[Bad, ...] = (
    _svc("spec", Reason.WRONG_TYPE, ("spec", 5)),
    _svc("spec", Reason.WRONG_TYPE, ("spec", ["a"])),
    _svc("spec", Reason.WRONG_TYPE, ("spec", "text")),
    _svc("spec.ports", Reason.WRONG_TYPE, ("spec.ports", {"port": 80})),
    _svc("spec.ports", Reason.WRONG_TYPE, ("spec.ports", "80")),
    _svc("spec.ports[0]", Reason.WRONG_TYPE, ("spec.ports", [80])),
    _svc("spec.ports[0].port", Reason.WRONG_TYPE, ("spec.ports.0.port", "80")),
    _svc("spec.ports[0].port", Reason.WRONG_TYPE, ("spec.ports.0.port", 80.5)),
    _svc("spec.ports[0].port", Reason.WRONG_TYPE, ("spec.ports.0.port", True)),
    _svc("spec.ports[0].nodePort", Reason.WRONG_TYPE, ("spec.ports.0.nodePort", [])),
    _svc("spec.ports[0].targetPort", Reason.WRONG_TYPE, ("spec.ports.0.targetPort", {})),
    _svc("spec.clusterIP", Reason.WRONG_TYPE, ("spec.clusterIP", 17)),
    _svc("spec.clusterIPs", Reason.WRONG_TYPE, ("spec.clusterIPs", "172.31.0.1")),
    _svc("spec.externalIPs", Reason.WRONG_TYPE, ("spec.externalIPs", [None])),
    _svc("spec.type", Reason.WRONG_TYPE, ("spec.type", {})),
    _svc("metadata.labels", Reason.WRONG_TYPE, ("metadata.labels", ["a"])),
    _svc("status", Reason.WRONG_TYPE, ("status", "fine")),
    _svc("status.loadBalancer", Reason.WRONG_TYPE, ("status.loadBalancer", [])),
)
_ADDRESSES: tuple[Bad, ...] = (
    _svc("spec.clusterIP", Reason.NOT_ALLOCATED, ("spec.clusterIP", ""), ("spec.clusterIPs", [])),
    *(
        _svc(
            "spec.clusterIPs[0]",
            reason,
            ("spec.clusterIP", address),
            ("spec.clusterIPs", [address]),
        )
        for address, reason in (
            ("172.31.0.256", Reason.NOT_AN_ADDRESS),
            ("172.31.0.1/32", Reason.NOT_AN_ADDRESS),
            ("0x7f000001", Reason.NOT_AN_ADDRESS),
            (_HOSTILE, Reason.NOT_AN_ADDRESS),
            ("9" * 3000, Reason.NOT_AN_ADDRESS),
            ("127.0.0.1", Reason.LOOPBACK),
            ("224.0.0.1", Reason.MULTICAST),
            ("0.0.0.0", Reason.UNSPECIFIED),
            ("::ffff:10.0.0.1", Reason.MAPPED),
            ("fd00:30::1", Reason.WRONG_FAMILY),
        )
    ),
    _svc("spec.clusterIP", Reason.UNEQUAL_CLUSTER_IPS, ("spec.clusterIP", "172.31.1.1")),
    _svc(
        "spec.clusterIPs[1]",
        Reason.TOO_MANY_CLUSTER_IPS,
        ("spec.clusterIP", "172.31.2.1"),
        ("spec.clusterIPs", ["172.31.2.1", "172.31.2.2"]),
    ),
    _svc("spec.ipFamilies[0]", Reason.UNKNOWN_VALUE, ("spec.ipFamilies", ["IPv5"])),
    _svc("spec.ipFamilies[1]", Reason.DUPLICATE_FAMILY, ("spec.ipFamilies", ["IPv4", "IPv4"])),
    _svc("spec.externalIPs[0]", Reason.NOT_AN_ADDRESS, ("spec.externalIPs", ["example.org"])),
    _svc("spec.externalIPs[1999]", Reason.LOOPBACK, ("spec.externalIPs", [*_MANY, "::1"])),
    _svc("spec.externalIPs[0]", Reason.UNSPECIFIED, ("spec.externalIPs", ["::"])),
    _svc(
        "status.loadBalancer.ingress[0].ip",
        Reason.MULTICAST,
        ("status.loadBalancer.ingress", [{"ip": "ff02::1"}]),
    ),
    _svc(
        "status.loadBalancer.ingress[0].ipMode",
        Reason.UNKNOWN_VALUE,
        ("status.loadBalancer.ingress", [{"ip": "198.51.100.1", "ipMode": "vip"}]),
    ),
    *(
        _svc(
            "spec.loadBalancerSourceRanges[0]",
            Reason.NOT_A_NETWORK,
            ("spec.loadBalancerSourceRanges", [network]),
        )
        for network in ("10.0.0.0/33", "everybody", "10.0.0.0/8; flush ruleset")
    ),
)
_SPECS: tuple[Bad, ...] = (
    _svc("spec.ports", Reason.NO_PORTS, ("spec.ports", [])),
    _svc("spec.ports", Reason.NO_PORTS, ("spec.ports", None)),
    _svc("spec.ports[0].port", Reason.PORT_RANGE, ("spec.ports.0.port", 0)),
    _svc("spec.ports[0].port", Reason.PORT_RANGE, ("spec.ports.0.port", -80)),
    _svc("spec.ports[0].port", Reason.PORT_RANGE, ("spec.ports.0.port", 65536)),
    _svc("spec.ports[0].port", Reason.PORT_RANGE, ("spec.ports.0.port", 1 << 63)),
    _svc("spec.ports[0].port", Reason.PORT_RANGE, ("spec.ports.0.port", None)),
    _svc("spec.ports[0].nodePort", Reason.PORT_RANGE, ("spec.ports.0.nodePort", 99999)),
    _svc("spec.ports[0].targetPort", Reason.PORT_RANGE, ("spec.ports.0.targetPort", 70000)),
    _svc("spec.ports[0].targetPort", Reason.NOT_A_PORT_NAME, ("spec.ports.0.targetPort", "A_b")),
    _svc("spec.ports[0].protocol", Reason.UNKNOWN_VALUE, ("spec.ports.0.protocol", "tcp")),
    _svc("spec.ports[0].protocol", Reason.UNKNOWN_VALUE, ("spec.ports.0.protocol", "ICMP")),
    _svc("spec.ports[0].name", Reason.NOT_A_LABEL, ("spec.ports.0.name", "HTTP")),
    _svc("spec.ports[0].name", Reason.NOT_A_LABEL, ("spec.ports.0.name", _HOSTILE)),
    _svc("spec.ports[1].name", Reason.NAME_NEEDED, _ports(_A, {"port": 81})),
    _svc("spec.ports[1].name", Reason.DUPLICATE_NAME, _ports(_A, {**_B, "name": "a"})),
    _svc("spec.ports[1].port", Reason.DUPLICATE_PORT, _ports(_A, {**_B, "port": 80})),
    _svc(
        "spec.ports[1].nodePort",
        Reason.DUPLICATE_NODE_PORT,
        _ports({**_A, "nodePort": 30000}, {**_B, "nodePort": 30000}),
    ),
    _svc("spec.type", Reason.UNKNOWN_VALUE, ("spec.type", "Cluster")),
    _svc("spec.type", Reason.UNKNOWN_VALUE, ("spec.type", _HOSTILE)),
    _svc("spec.internalTrafficPolicy", Reason.UNKNOWN_VALUE, ("spec.internalTrafficPolicy", "No")),
    _svc("spec.externalTrafficPolicy", Reason.UNKNOWN_VALUE, ("spec.externalTrafficPolicy", "l")),
    _svc("spec.healthCheckNodePort", Reason.PORT_RANGE, ("spec.healthCheckNodePort", 99999)),
    _svc("spec.sessionAffinity", Reason.UNKNOWN_VALUE, ("spec.sessionAffinity", "Cookie")),
    *(
        _svc(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            Reason.TIMEOUT_RANGE,
            ("spec.sessionAffinity", "ClientIP"),
            ("spec.sessionAffinityConfig", {"clientIP": {"timeoutSeconds": seconds}}),
        )
        for seconds in (0, -1, 86401)
    ),
)
_COLLISIONS: tuple[Bad, ...] = (
    _lost(
        "spec.clusterIPs[0]",
        ("spec.clusterIP", "172.31.255.1"),
        ("spec.clusterIPs", ["172.31.255.1"]),
    ),
    _lost("spec.ports[0].nodePort", ("spec.ports.0.nodePort", CONTESTED_PORT)),
    _lost("spec.ports[0].nodePort", ("spec.ports.0.nodePort", CONTESTED_HEALTH_PORT)),
    _lost("spec.externalIPs[0]", ("spec.externalIPs", [CONTESTED_IP])),
    _lost(
        "status.loadBalancer.ingress[0].ip",
        ("status.loadBalancer.ingress", [{"ip": CONTESTED_IP}]),
    ),
    _lost(
        "spec.healthCheckNodePort",
        ("spec.type", "LoadBalancer"),
        ("spec.externalTrafficPolicy", "Local"),
        ("spec.healthCheckNodePort", CONTESTED_HEALTH_PORT),
    ),
)
_SLICES: tuple[Bad, ...] = (
    _eps(
        "metadata.labels[kubernetes.io/service-name]",
        Reason.NOT_A_LABEL,
        (_SERVICE_LABEL, "web_1"),
    )._replace(state="programmed"),  # it has no endpoints, for all that anybody can tell
    _eps("metadata.name", Reason.NOT_A_SUBDOMAIN, ("metadata.name", "A/b")),
    _eps("addressType", Reason.UNKNOWN_VALUE, ("addressType", "ipv4")),
    _eps("addressType", Reason.UNKNOWN_VALUE, ("addressType", _ABSENT)),
    _eps("endpoints[0].addresses", Reason.NO_ADDRESS, ("endpoints.0.addresses", [])),
    *(
        _eps("endpoints[0].addresses[0]", reason, ("endpoints.0.addresses", [address]))
        for address, reason in (
            ("10.244.1", Reason.NOT_AN_ADDRESS),
            (_HOSTILE, Reason.NOT_AN_ADDRESS),
            ("127.0.0.2", Reason.LOOPBACK),
            ("169.254.0.1", Reason.LINK_LOCAL),
            ("239.255.255.255", Reason.MULTICAST),
            ("0.0.0.0", Reason.UNSPECIFIED),
            ("fd00:244::7", Reason.WRONG_FAMILY),
            ("::ffff:10.0.0.1", Reason.MAPPED),
        )
    ),
    _eps("endpoints[0].nodeName", Reason.NOT_A_SUBDOMAIN, ("endpoints.0.nodeName", "Node 1")),
    _eps(
        "endpoints[0].hints.forZones[0].name",
        Reason.NOT_A_LABEL_VALUE,
        ("endpoints.0.hints", {"forZones": [{"name": "zone a"}]}),
    ),
    _eps(
        "endpoints[0].hints.forNodes[0].name",
        Reason.NOT_A_SUBDOMAIN,
        ("endpoints.0.hints", {"forNodes": [{"name": "$(id)"}]}),
    ),
    _eps("ports[0].port", Reason.PORT_RANGE, ("ports.0.port", 70000)),
    _eps("ports[0].protocol", Reason.UNKNOWN_VALUE, ("ports.0.protocol", "udp")),
    _eps("ports[0].name", Reason.NOT_A_LABEL, ("ports.0.name", "H T")),
    _eps("ports[1].name", Reason.DUPLICATE_NAME, ("ports", [{"name": "a", "port": 1}] * 2)),
    _eps("endpoints", Reason.WRONG_TYPE, ("endpoints", {})),
    _eps("endpoints[0].addresses", Reason.WRONG_TYPE, ("endpoints.0.addresses", "10.244.1.1")),
    _eps("ports[0].port", Reason.WRONG_TYPE, ("ports.0.port", "8080")),
    _eps("endpoints[0].conditions.ready", Reason.WRONG_TYPE, ("endpoints.0.conditions.ready", 1)),
)

WAYS: tuple[Bad, ...] = (*_NAMES, *_TYPES, *_ADDRESSES, *_SPECS, *_COLLISIONS, *_SLICES)
