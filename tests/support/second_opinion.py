"""What must become of a packet, worked out from manifests alone.

A second reading of the rules for Services (reference sections 1.5 and 3), for states that nobody
wrote down. It shares nothing with the code it judges: no plan, no rules, no model; plain and slow.
Where the rules leave a choice it has no opinion.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from tests.support.scenario import Mode, NodeUnderTest, Object, Packet

Via = Literal["pod", "node", "external"]
Kind = Literal["cluster", "external", "balancer", "node"]


class Caller(NamedTuple):
    """Who sends, and where it enters."""

    source: str
    via: Via


class Frontend(NamedTuple):
    """An address and port by which a Service is reached; the Service itself where one has it."""

    service: Object
    port: Object
    address: str
    number: int
    kind: Kind

    @property
    def protocol(self) -> Any:
        """As the manifest has it: TCP, UDP or SCTP."""
        return self.port.get("protocol", "TCP")


class _Choice(NamedTuple):
    """Whom a port's packets may reach: all over the cluster, and on this node."""

    everywhere: list[str]
    here: list[str]

    @property
    def exist(self) -> bool:
        """Whether there is a usable endpoint on any node."""
        return bool(self.everywhere or self.here)


def frontends(objects: Iterable[Object], node: NodeUnderTest) -> Iterator[Frontend]:
    """Every frontend of every Service; NodePorts under the node's primary addresses."""
    for service in objects:
        if service["kind"] != "Service":
            continue
        families = {":" in address for address in service["spec"]["clusterIPs"]}
        for port in service["spec"]["ports"]:
            for kind, address in _addresses(service, node):
                number = port.get("nodePort", 0) if kind == "node" else port["port"]
                if number and (":" in address) in families:
                    yield Frontend(service, port, address, number, kind)


def _addresses(service: Object, node: NodeUnderTest) -> Iterator[tuple[Kind, str]]:
    spec = service["spec"]
    for address in spec["clusterIPs"]:
        yield "cluster", address
    for address in spec.get("externalIPs", []):
        yield "external", address
    for point in service.get("status", {}).get("loadBalancer", {}).get("ingress", []):
        if point.get("ipMode", "VIP") == "VIP":
            yield "balancer", point["ip"]
    for address in node.primary_addresses:
        yield "node", address


def opinion(
    objects: Sequence[Object], node: NodeUnderTest, caller: Caller, front: Frontend, mode: Mode
) -> Packet | None:
    """What a caller's packet to a frontend must meet; None where there is no opinion."""
    choice = _choose(objects, node, front)
    outside = front.kind in {"external", "balancer"}
    if choice is None or (outside and caller.via == "node" and not choice.exist):
        return None  # iptables mode, like kube-proxy, has no rule for the latter on the way out
    if front.kind == "balancer" and not _is_let_in(caller, node, front):
        refused = mode == "iptables" and not choice.exist
        return _packet(caller, front, "reject" if refused else "drop")
    backends, masquerade = _way(choice, node, caller, front)
    if not backends:
        return _packet(caller, front, "drop" if choice.exist else "reject")
    if any(
        backend.startswith((f"{caller.source}:", f"[{caller.source}]")) for backend in backends
    ):
        if len(backends) > 1:
            return None  # a hairpin or not, by chance
        masquerade = True
    return _packet(caller, front, "accept", backends, masquerade=masquerade)


def _way(
    choice: _Choice, node: NodeUnderTest, caller: Caller, front: Frontend
) -> tuple[list[str], bool]:
    """Whom a packet may reach by the Service's policies, and whether it is masqueraded."""
    spec = front.service["spec"]
    pod = _is_in(caller.source, (node.extra.clusterCIDR or "").split(","))
    if front.kind == "cluster":
        local = spec.get("internalTrafficPolicy") == "Local"
        return choice.here if local else choice.everywhere, node.extra.masqueradeAll or not pod
    local = spec.get("externalTrafficPolicy") == "Local"
    if local and caller.via != "node" and not pod:
        return choice.here, False
    return choice.everywhere, not local or caller.via == "node"


def _packet(
    caller: Caller,
    front: Frontend,
    expect: Literal["accept", "reject", "drop"],
    backends: Sequence[str] = (),
    *,
    masquerade: bool = False,
) -> Packet:
    metadata = front.service["metadata"]
    return Packet(
        source=caller.source,
        via=caller.via,
        proto=front.protocol,
        dst=front.address,
        dport=front.number,
        expect=expect,
        endpoints=tuple(backends),
        masquerade=masquerade,
        note=f"{front.kind} of {metadata['namespace']}/{metadata['name']}",
    )


def _is_let_in(caller: Caller, node: NodeUnderTest, front: Frontend) -> bool:
    """Whether a load balancer's source ranges let the caller in."""
    ranges = [
        text
        for text in front.service["spec"].get("loadBalancerSourceRanges", [])
        if (":" in text) == (":" in front.address)
    ]
    if not ranges or _is_in(caller.source, ranges):
        return True
    own = any(_is_in(address, ranges) for address in node.primary_addresses)
    return own and caller.source == front.address


def _is_in(address: str, networks: Iterable[str]) -> bool:
    one = ipaddress.ip_address(address)
    return any(
        one in ipaddress.ip_network(text.strip(), strict=False)
        for text in networks
        if text and (":" in text) == (":" in address)
    )


def _choose(objects: Sequence[Object], node: NodeUnderTest, front: Frontend) -> _Choice | None:
    """The endpoints of a port; None where slices disagree about one of them."""
    found: dict[str, Object] = {}
    for text, endpoint in _endpoints(objects, front):
        if found.setdefault(text, endpoint) != endpoint:
            return None
    ready = [text for text, endpoint in found.items() if _condition(endpoint, "ready")]
    drains = [
        text
        for text, endpoint in found.items()
        if not _condition(endpoint, "ready")
        and _condition(endpoint, "serving")
        and _condition(endpoint, "terminating")
    ]

    def here(texts: list[str]) -> list[str]:
        return [text for text in texts if found[text].get("nodeName") == node.name]

    everywhere = _hinted({text: found[text] for text in ready}, objects, node) or drains
    return _Choice(everywhere, here(ready) or here(drains))


def _endpoints(objects: Sequence[Object], front: Frontend) -> Iterator[tuple[str, Object]]:
    """``address:port`` of each endpoint that the slices give a frontend's port."""
    metadata = front.service["metadata"]
    family = "IPv6" if ":" in front.address else "IPv4"
    for item in objects:
        if (
            item["kind"] != "EndpointSlice"
            or item["addressType"] != family
            or item["metadata"]["namespace"] != metadata["namespace"]
            or item["metadata"]["labels"]["kubernetes.io/service-name"] != metadata["name"]
        ):
            continue
        for port in item["ports"]:
            same = port.get("name", "") == front.port.get("name", "")
            if not same or port.get("protocol", "TCP") != front.protocol or not port.get("port"):
                continue
            for endpoint in item["endpoints"]:
                address = endpoint["addresses"][0]
                host = f"[{address}]" if ":" in address else address
                yield f"{host}:{port['port']}", endpoint


def _condition(endpoint: Object, name: str) -> bool:
    said = (endpoint.get("conditions") or {}).get(name)
    return name != "terminating" if said is None else said


def _hinted(ready: dict[str, Object], objects: Sequence[Object], node: NodeUnderTest) -> list[str]:
    """The ready endpoints that hints leave to this node: all, unless every one has some."""
    zones = [
        item["metadata"]["labels"].get("topology.kubernetes.io/zone", "")
        for item in objects
        if item["kind"] == "Node" and item["metadata"]["name"] == node.name
    ]
    for kind, own in (("forNodes", node.name), ("forZones", zones[0] if zones else "")):
        hints = {
            text: {hint["name"] for hint in endpoint.get("hints", {}).get(kind) or ()}
            for text, endpoint in ready.items()
        }
        chosen = [text for text, names in hints.items() if own in names]
        if own and chosen and all(hints.values()):
            return chosen
    return list(ready)
