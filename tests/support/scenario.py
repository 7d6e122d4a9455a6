"""Behaviour scenarios: a node, manifests in steps, and packets with the outcome they must have.

The schema is described in ``tests/conformance/scenarios/README.md``. Fields that only document a
scenario are not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from netplane.core.model.address import canonical_address, canonical_network, contains
from tests.support.topology import Addresses

Mode = Literal["iptables", "nftables"]
Object = dict[str, Any]
MODES: tuple[Mode, ...] = ("iptables", "nftables")


class Extra(msgspec.Struct, frozen=True, kw_only=True):
    """What configures the proxy on the node; names are the file's."""

    clusterCIDR: str | None = None  # noqa: N815
    serviceCIDR: str | None = None  # noqa: N815
    masqueradeAll: bool = False  # noqa: N815
    nodePortAddresses: tuple[str, ...] | None = None  # noqa: N815
    localhostNodePorts: bool = False  # noqa: N815
    additionalIPs: tuple[str, ...] = ()  # noqa: N815
    ipv6: str = ""
    podCIDRv6: str = ""  # noqa: N815


class NodeUnderTest(msgspec.Struct, frozen=True, kw_only=True):
    """The node; its zone is read from the Node object in the manifests."""

    name: str
    ip: str
    podCIDR: str = ""  # noqa: N815
    extra: Extra = Extra()

    @property
    def primary_addresses(self) -> tuple[str, ...]:
        """One address per family that the node has."""
        return tuple(filter(None, (self.ip, self.extra.ipv6)))

    @property
    def addresses(self) -> tuple[str, ...]:
        """All of the node's own, the primary ones first."""
        return (*self.primary_addresses, *self.extra.additionalIPs)


class Packet(msgspec.Struct, frozen=True, kw_only=True):
    """The first packet of a new flow, and what must become of it."""

    source: str = msgspec.field(name="from")
    via: Literal["pod", "node", "external"]
    proto: Literal["TCP", "UDP", "SCTP"]
    dst: str
    dport: int
    sport: int = 0
    expect: Literal["accept", "reject", "drop"]
    endpoints: tuple[str, ...] = ()
    untouched: bool = False
    masquerade: bool = False
    backends: tuple[Mode, ...] = MODES
    tolerated: tuple[str, ...] = ()
    sticky: bool = False
    stickySeconds: float = 10800  # noqa: N815 (a Service's default timeout)
    note: str = ""


class HealthCheck(msgspec.Struct, frozen=True, kw_only=True):
    """A health check node port; ``httpStatus`` None means that nothing listens."""

    port: int
    namespace: str
    service: str
    httpStatus: int | None = None  # noqa: N815
    localEndpoints: int | None = None  # noqa: N815


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """Changes to the cluster's objects, and what must hold after them.

    Attributes:
        restart: The proxy was down while this changed. Where every step is one run of the command,
            it always is a new process that knows nothing but what is in the kernel.
    """

    note: str = ""
    objects: tuple[Object, ...] = ()
    delete: tuple[Object, ...] = ()
    packets: tuple[Packet, ...] = ()
    healthChecks: tuple[HealthCheck, ...] = ()  # noqa: N815
    waitSeconds: float = 0  # noqa: N815
    restart: bool = False


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A scenario; one without ``steps`` is its own only step."""

    id: str
    category: str = ""
    node: NodeUnderTest
    backends: tuple[Mode, ...] = MODES
    steps: tuple[Step, ...] = ()


def load(path: Path) -> Scenario:
    """Read a scenario file.

    Raises:
        msgspec.DecodeError: It is not JSON, or does not have the schema.
    """
    text = path.read_bytes()
    scenario = msgspec.json.decode(text, type=Scenario)
    if scenario.steps:
        return scenario
    return msgspec.structs.replace(scenario, steps=(msgspec.json.decode(text, type=Step),))


def states(scenario: Scenario) -> Iterator[tuple[Step, list[Object]]]:
    """Each step with all objects that exist then."""
    current: dict[tuple[str, ...], Object] = {}
    for step in scenario.steps:
        for item in step.delete:
            current.pop(_key(item, item), None)
        current.update({_key(item, item["metadata"]): item for item in step.objects})
        yield step, list(current.values())


def lay_out(scenario: Scenario) -> Addresses:
    """The addresses a topology needs for all the packets of a scenario."""
    node = scenario.node
    pod_networks = [
        network
        for network in map(canonical_network, (node.podCIDR, node.extra.podCIDRv6))
        if network
    ]
    packets = [packet for step in scenario.steps for packet in step.packets]
    pods = {
        p.source
        for p in packets
        if p.via == "pod" and not any(contains(n, p.source) for n in pod_networks)
    }
    own = {
        p.source for p in packets if p.via == "node" and not p.source.startswith(("127.", "::1"))
    }
    return Addresses(
        node=node.addresses,
        loopback=tuple(sorted(own - set(node.addresses))),
        pods=(*pod_networks, *sorted(pods)),
    )


def port_numbers(scenario: Scenario) -> set[int]:
    """Every port that a packet of the scenario may arrive at, by right or by mistake."""
    found = {packet.dport for step in scenario.steps for packet in step.packets}
    for step in scenario.steps:
        for packet in step.packets:
            for endpoint in (*packet.endpoints, *packet.tolerated):
                found.add(split_endpoint(endpoint)[1])
        for item in step.objects:
            found.update(_ports_of(item))
    return found


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """The address and port of ``10.0.0.1:80`` or ``[fd00::1]:80``."""
    host, _, port = endpoint.rpartition(":")
    address = canonical_address(host.strip("[]"))
    assert address is not None, f"not an endpoint: {endpoint!r}"
    return address, int(port)


def has_affinity(packet: Packet, objects: Sequence[Object]) -> bool:
    """Whether a packet leads to a Service with ClientIP affinity, so that its flows may stick."""
    return any(
        item["spec"].get("sessionAffinity") == "ClientIP" and _leads_to(packet, item)
        for item in objects
        if item["kind"] == "Service"
    )


def _leads_to(packet: Packet, service: Object) -> bool:
    spec = service["spec"]
    ingress = service.get("status", {}).get("loadBalancer", {}).get("ingress", [])
    addresses = {
        canonical_address(address)
        for address in (
            *(spec.get("clusterIPs") or [spec.get("clusterIP", "")]),
            *spec.get("externalIPs", []),
            *(point.get("ip", "") for point in ingress),
        )
    }
    ports = spec.get("ports", [])
    if canonical_address(packet.dst) in addresses:
        return any(port["port"] == packet.dport for port in ports)
    return any(port.get("nodePort") == packet.dport for port in ports)


def _key(item: Mapping[str, Any], metadata: Mapping[str, Any]) -> tuple[str, ...]:
    return item["apiVersion"], item["kind"], metadata.get("namespace", ""), metadata["name"]


def _ports_of(item: Object) -> Iterator[int]:
    for port in (*item.get("spec", {}).get("ports", []), *(item.get("ports") or [])):
        for field in ("port", "targetPort", "nodePort"):
            if isinstance(port.get(field), int):
                yield port[field]
