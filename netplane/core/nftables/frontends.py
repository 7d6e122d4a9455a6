"""A table's elements told per frontend: which addresses, leading to which endpoints, how."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeAlias

from netplane.core.model.service import Protocol
from netplane.core.nftables.layout import Elements, Key, Verdict
from netplane.core.nftables.observed import HOLE
from netplane.core.plan.port import Backend

Chains: TypeAlias = Mapping[str, tuple[str, ...]]

#: The maps whose verdicts carry a service port's label, and the maps their endpoints are in.
_BALANCED = {
    "services": ("endpoints", "local-endpoints"),
    "nodeports": ("nodeport-endpoints", "nodeport-local-endpoints"),
}
_REFUSED = ("no-endpoints", "no-endpoint-nodeports")
_CHOICES = {
    "services": ("cluster-choice", "local-choice"),
    "nodeports": ("nodeport-cluster-choice", "nodeport-local-choice"),
}
#: The names of protocols by number.
PROTOCOLS = {int(p): p.text for p in Protocol}
_GOTO = re.compile(r"(?:^| )goto ([^ ]+)$")


class Side(NamedTuple):
    """A table as wanted or as observed."""

    elements: Elements
    chains: Chains


class Frontend(NamedTuple):
    """Where clients connect; ``verdict`` is ``balance``, ``reject`` or ``drop``."""

    label: str
    kind: str
    key: Key
    verdict: str

    @property
    def address(self) -> str:
        """The address, "" of a NodePort."""
        return "" if self.kind == "NodePort" else str(self.key[0])

    @property
    def protocol(self) -> str:
        """``tcp``, ``udp``, ``sctp``."""
        return PROTOCOLS[int(self.key[-2])]

    @property
    def port(self) -> int:
        """The service port, or the NodePort."""
        return int(self.key[-1])

    def __str__(self) -> str:
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.kind} {address}:{self.port}/{self.protocol}"


def label_of(side: Side, key: Key) -> str | None:
    """The label of the service port that has this frontend, None where it is no frontend."""
    for name in (*_BALANCED, *_REFUSED):
        verdict = side.elements[name].get(key)
        if isinstance(verdict, Verdict):
            return verdict.comment or _unlabelled(key)
    return None


def frontends(side: Side) -> Iterator[Frontend]:
    """Every frontend of a table once; one that outside clients find dropped says ``drop``."""
    for balanced, refused in zip(_BALANCED, _REFUSED, strict=True):
        for key, verdict in side.elements[refused].items():
            assert isinstance(verdict, Verdict)
            label = verdict.comment or _unlabelled(key)
            how = "drop" if verdict.chain == "drop" else "reject"
            yield Frontend(label, _kind(side, key), key, how)
        for key, verdict in side.elements[balanced].items():
            assert isinstance(verdict, Verdict)
            if key not in side.elements[refused]:
                label = verdict.comment or _unlabelled(key)
                yield Frontend(label, _kind(side, key), key, "balance")


def backends_of(side: Side, frontend: Frontend) -> dict[str, tuple[Backend, ...]]:
    """The endpoints a frontend leads to, by the map they are in; HOLE where a slot has none."""
    name = "nodeports" if frontend.kind == "NodePort" else "services"
    found = {}
    for slots in _BALANCED[name]:
        value = side.elements[slots].get(frontend.key)
        if value is not None and not isinstance(value, Verdict):
            found[slots] = value
    return found


def sticky_endpoints(side: Side, frontend: Frontend) -> tuple[str, ...]:
    """The endpoints of a frontend with session affinity, as text; () of one without."""
    name = "nodeports" if frontend.kind == "NodePort" else "services"
    found: dict[str, None] = {}
    for verdicts in (name, *_CHOICES[name]):
        verdict = side.elements[verdicts].get(frontend.key)
        if isinstance(verdict, Verdict) and "sticky-" in verdict.chain:
            found |= dict.fromkeys(_translations(side.chains, verdict.chain))
    return tuple(sorted(found))


def endpoints_of(side: Side, frontend: Frontend) -> set[str]:
    """Every endpoint a frontend leads to, as ``address:port``."""
    slots = backends_of(side, frontend).values()
    texts = {str(backend) for backends in slots for backend in backends if backend is not HOLE}
    return texts | set(sticky_endpoints(side, frontend))


def _translations(chains: Chains, name: str) -> Iterator[str]:
    """Where the endpoint chains that a sticky chain goes to translate to."""
    for rule in chains.get(name, ()):
        match = _GOTO.search(rule)
        if match is None:
            continue
        if match[1].startswith("endpoint-"):
            endpoint = chains.get(match[1]) or ("",)
            yield endpoint[-1].rpartition(" dnat to ")[2]
        else:
            yield from _translations(chains, match[1])


def _kind(side: Side, key: Key) -> str:
    if len(key) == 2:  # noqa: PLR2004 (Keys.PORT)
        return "NodePort"
    return "ClusterIP" if (key[0],) in side.elements["cluster-ips"] else "External"


def _unlabelled(key: Key) -> str:
    return f"{key[0]}:{key[-1]}" if len(key) > 2 else f":{key[-1]}"  # noqa: PLR2004 (Keys.PORT)
