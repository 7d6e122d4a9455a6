"""An Endpoints object into the slices that mirror it.

In a cluster a controller does this for Services without selector, unless the Endpoints have the
label ``endpointslice.kubernetes.io/skip-mirror: "true"`` or the annotation of a leader election;
for Services with selector another controller makes slices and Endpoints alike from the Pods. An
export may well hold Endpoints and no slices (``kubectl get svc,endpoints``), so here Endpoints
speak for every Service that has no slice. The two marks say "the slices are elsewhere, or none
are wanted": they count when the input holds any EndpointSlice at all, for then the slices were
exported; when it holds none, the Endpoints are the only account there is (the ``kubernetes``
Service's own have the label) and the marks are passed over.

The controller mirrors at most 1,000 addresses of a subset; all of them are taken here.
"""

from __future__ import annotations

from collections.abc import Iterable

from netplane.core.model import wire
from netplane.core.model.address import Family, family_of
from netplane.core.model.checks import endpoint_ports
from netplane.core.model.destinations import endpoint_address
from netplane.core.model.names import common_subdomain
from netplane.core.model.problem import Problem
from netplane.core.model.reasons import Reason, Refusals
from netplane.core.model.service import Endpoint, EndpointSlice, ServiceName

_SKIP_LABEL = "endpointslice.kubernetes.io/skip-mirror"
_LEADER_ANNOTATION = "control-plane.alpha.kubernetes.io/leader"


def opts_out(endpoints: wire.Endpoints) -> bool:
    """Whether the object is marked as not to be mirrored."""
    meta = endpoints.metadata
    if meta is None:
        return False
    skips = (meta.labels or {}).get(_SKIP_LABEL) == "true"
    return skips or _LEADER_ANNOTATION in (meta.annotations or {})


def mirrored_slices(
    endpoints: wire.Endpoints,
) -> tuple[tuple[EndpointSlice, ...], tuple[Problem, ...]]:
    """One slice per subset and family that has addresses; bad addresses and ports are left out.

    The object's name is that of its Service, whose name has been found good.
    """
    meta = endpoints.metadata or wire.EndpointsMeta()
    service = ServiceName(meta.namespace or "default", meta.name or "")
    refusals = Refusals("Endpoints", service.namespace, service.name)
    slices: list[EndpointSlice] = []
    for index, subset in enumerate(endpoints.subsets or ()):
        field = f"subsets[{index}]"
        ports = endpoint_ports(f"{field}.ports", subset.ports or (), refusals)
        found = [
            *_endpoints(f"{field}.addresses", subset.addresses, refusals, ready=True),
            *_endpoints(
                f"{field}.notReadyAddresses", subset.not_ready_addresses, refusals, ready=False
            ),
        ]
        for family in Family:
            own = tuple(e for e in found if family_of(e.address) is family)
            if own:
                slices.append(
                    EndpointSlice(
                        namespace=service.namespace,
                        name=f"{service.name}-mirrored-{index}-ipv{family.value}",
                        service=service,
                        family=family,
                        ports=ports,
                        endpoints=own,
                    )
                )
    return tuple(slices), tuple(refusals.problems)


def _endpoints(
    field: str,
    addresses: Iterable[wire.EndpointAddress] | None,
    refusals: Refusals,
    *,
    ready: bool,
) -> list[Endpoint]:
    """The mirroring controller sets ``ready`` only; what it leaves out has its default."""
    good: list[Endpoint] = []
    for index, entry in enumerate(addresses or ()):
        where = f"{field}[{index}]"
        node = common_subdomain(entry.node_name) if entry.node_name else ""
        if node is None:
            refusals.add(f"{where}.nodeName", entry.node_name, Reason.NOT_A_SUBDOMAIN)
            continue
        address = endpoint_address(entry.ip or "")
        if isinstance(address, Reason):
            refusals.add(f"{where}.ip", entry.ip, address)
        else:
            good.append(Endpoint(address=address, ready=ready, node=node))
    return good
