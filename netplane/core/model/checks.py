"""The checks that several kinds of object share: names and ports."""

from __future__ import annotations

from collections.abc import Iterable

from netplane.core.model import wire
from netplane.core.model.names import common_label, is_label, is_subdomain
from netplane.core.model.reasons import Reason, Refusals
from netplane.core.model.service import EndpointPort, Protocol

MAX_PORT = 65535

PROTOCOLS: dict[str | None, Protocol] = {
    None: Protocol.TCP,
    "": Protocol.TCP,
    "TCP": Protocol.TCP,
    "UDP": Protocol.UDP,
    "SCTP": Protocol.SCTP,
}
"""By the API's names; TCP where none is named."""

PROTOCOL_NAMES = "TCP, UDP or SCTP"


def check_namespace(text: str, refusals: Refusals) -> None:
    """Refuses a namespace that is not a DNS label."""
    if common_label(text) is None:
        refusals.add("metadata.namespace", text, Reason.NOT_A_LABEL)


def check_label(field: str, text: str, refusals: Refusals) -> None:
    """Refuses a name that is missing or not a DNS label."""
    if not text:
        refusals.add(field, None, Reason.MISSING)
    elif not is_label(text):
        refusals.add(field, text, Reason.NOT_A_LABEL)


def check_subdomain(field: str, text: str, refusals: Refusals) -> None:
    """Refuses a name that is missing or not a DNS subdomain."""
    if not text:
        refusals.add(field, None, Reason.MISSING)
    elif not is_subdomain(text):
        refusals.add(field, text, Reason.NOT_A_SUBDOMAIN)


def is_port(number: int | None) -> bool:
    """Whether this may be a port number; None and 0 both say that there is none."""
    return not number or 0 < number <= MAX_PORT


def endpoint_ports(
    field: str, ports: Iterable[wire.EndpointPort], refusals: Refusals
) -> tuple[EndpointPort, ...]:
    """The ports of a slice or a subset: those without a number left out, the bad ones refused."""
    good: dict[str, EndpointPort] = {}
    for index, port in enumerate(ports):
        protocol, number = PROTOCOLS.get(port.protocol), port.port
        name = common_label(port.name) if port.name else ""
        if not number:
            continue
        if not 0 < number <= MAX_PORT:
            refusals.add(f"{field}[{index}].port", number, Reason.PORT_RANGE)
        elif protocol is None:
            where = f"{field}[{index}].protocol"
            refusals.add(where, port.protocol, Reason.UNKNOWN_VALUE, PROTOCOL_NAMES)
        elif name is None:
            refusals.add(f"{field}[{index}].name", port.name, Reason.NOT_A_LABEL)
        elif name in good:
            refusals.add(f"{field}[{index}].name", name, Reason.DUPLICATE_NAME)
        else:
            good[name] = EndpointPort(name, protocol, number)
    return tuple(good.values())
