"""What one family's table says about itself: frontends, connections, drift."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from netplane.core.nftables.frontends import (
    Frontend,
    Side,
    backends_of,
    frontends,
    sticky_endpoints,
)
from netplane.core.nftables.layout import SETS, Values, Verdict
from netplane.core.nftables.listing import Listing
from netplane.core.nftables.observed import HOLE, Observed
from netplane.core.nftables.program import DIGEST_CHAIN, Pick, digest_of, is_follower
from netplane.core.plan.port import Backend
from netplane.core.plan.status import EndpointStatus, FrontendStatus


class FamilyStatus(msgspec.Struct, frozen=True):
    """The status of one family."""

    frontends: tuple[FrontendStatus, ...]
    drift: tuple[str, ...]


def family_status(observed: Observed) -> FamilyStatus:
    """What an observed table says; the counters tell new connections since each element came."""
    side = Side(observed.elements, observed.chains)
    told = (_frontend(observed, side, frontend) for frontend in frontends(side))
    order = sorted(told, key=lambda f: (f.label, f.family, f.kind, f.address, f.port))
    return FamilyStatus(tuple(order), tuple(_drift(observed)))


def _frontend(observed: Observed, side: Side, frontend: Frontend) -> FrontendStatus:
    verdicts = "nodeports" if frontend.kind == "NodePort" else "services"
    counted = observed.counters[verdicts].get(frontend.key)
    per_endpoint: dict[Backend, int] = {}
    for slots, backends in backends_of(side, frontend).items():
        packets = observed.counters[slots].get(frontend.key) or (0,) * len(backends)
        for backend, count in zip(backends, packets, strict=True):
            if backend is not HOLE:
                per_endpoint[backend] = per_endpoint.get(backend, 0) + count
    endpoints = [EndpointStatus(b.address, b.port, n) for b, n in per_endpoint.items()]
    for text in sticky_endpoints(side, frontend):
        address, _, port = text.rpartition(":")
        endpoints.append(EndpointStatus(address.strip("[]"), int(port)))
    return FrontendStatus(
        label=frontend.label,
        family=f"IPv{observed.family.value}",
        kind=frontend.kind,
        address=frontend.address,
        protocol=frontend.protocol,
        port=frontend.port,
        verdict=frontend.verdict,
        endpoints=tuple(sorted(endpoints, key=lambda e: (e.address, e.port))),
        connections=counted[0] if counted else None,
    )


def _drift(observed: Observed) -> Iterator[str]:
    """What netplane would not have left so."""
    if not observed.exists:
        return
    table = f"IPv{observed.family.value} table"
    listing = Listing(
        lines=observed.lines, sets=observed.sets, chains=observed.chains, bodies={}, others=()
    )
    digest = digest_of(listing, (name for name in observed.chains if is_follower(name)))
    if observed.chains.get(DIGEST_CHAIN) != (f'return comment "program {digest}"',):
        yield f"{table}: a rule or declaration of the program was edited"
    for other in observed.others:
        yield f"{table}: {other} is none of ours"
    for name in sorted(observed.unreadable):
        yield f"{table}: {name} holds elements of a foreign form"
    for name, rules in sorted(observed.chains.items()):
        pick = Pick.parse(name)
        if pick and not _picks(rules, pick):
            yield f"{table}: chain {name} was edited"
    yield from _slot_drift(observed, table)


def _picks(rules: tuple[str, ...], pick: Pick) -> bool:
    """Whether a chain ends in picking what its name says."""
    wanted = f" . numgen random mod {pick.endpoints} map @{pick.map}"
    return bool(rules) and rules[-1].startswith("dnat ") and rules[-1].endswith(wanted)


def _slot_drift(observed: Observed, table: str) -> Iterator[str]:
    """Frontends whose slots are not what their verdict picks from."""
    for layout in SETS:
        if layout.values is Values.SLOTS:
            for key, value in observed.elements[layout.name].items():
                if value is not None and not isinstance(value, Verdict) and HOLE in value:
                    slots = [slot for slot, backend in enumerate(value) if backend is HOLE]
                    yield f"{table}: {layout.name} {key} has no slot {slots[0]}"
        elif layout.values is Values.VERDICT:
            for key, value in observed.elements[layout.name].items():
                assert isinstance(value, Verdict)
                pick = Pick.parse(value.chain)
                if pick is None:
                    continue
                slots_of = observed.elements[pick.map].get(key) or ()
                if len(slots_of) != pick.endpoints:
                    yield (
                        f"{table}: {layout.name} {key} picks one of {pick.endpoints} endpoints,"
                        f" {pick.map} has {len(slots_of)}"
                    )
