"""Small snapshots, and changes of them, for tests that run an engine."""

from __future__ import annotations

from netplane.agent.changes import ClusterChange
from netplane.agent.cluster_state import ClusterState
from netplane.core.model.cluster import build_snapshot
from netplane.core.model.documents import parse
from netplane.core.model.service import EndpointSlice, Service, ServiceName
from netplane.core.model.snapshot import Snapshot
from tests.support.manifests import Object, endpoint_slice, kube_list, service


def snapshot_of(*objects: Object) -> Snapshot:
    return build_snapshot(parse(kube_list(*objects), origin="test"))


def cluster_change(state: ClusterState, *objects: Object) -> ClusterChange:
    """What has changed in the cluster once these objects are there."""
    for manifest in parse(kube_list(*objects), origin="test"):
        state.upsert(manifest)
    change = state.take()
    assert change is not None
    return change


def web(count: int, endpoints: int = 3) -> list[Object]:
    """Services web-0, web-1, ... of so many endpoints each."""
    found: list[Object] = []
    for n in range(count):
        high, low = divmod(n, 200)
        found.append(service(f"web-{n}", cluster_ips=[f"172.30.{high}.{low + 1}"]))
        pods = [f"10.244.{high + 1}.{low + 1}", f"10.245.{high}.{low + 1}"]
        pods += [f"10.246.{high}.{low + 1}", f"10.247.{high}.{low + 1}"]
        found.append(endpoint_slice(f"web-{n}", pods[:endpoints]))
    return found


def name(number: int) -> ServiceName:
    return ServiceName("default", f"web-{number}")


def slices(service_name: str, *addresses: str) -> dict[ServiceName, tuple[EndpointSlice, ...]]:
    """A change of one Service's endpoints."""
    return dict(snapshot_of(endpoint_slice(service_name, addresses)).slices)


def difference(
    old: Snapshot, new: Snapshot
) -> tuple[dict[ServiceName, Service | None], dict[ServiceName, tuple[EndpointSlice, ...]]]:
    """What an engine is told where one snapshot becomes another."""
    gone: dict[ServiceName, Service | None] = dict.fromkeys(old.services.keys() - new.services)
    services = gone | {n: s for n, s in new.services.items() if old.services.get(n) != s}
    changed = {
        n: new.slices.get(n, ())
        for n in old.slices.keys() | new.slices.keys()
        if old.slices.get(n) != new.slices.get(n)
    }
    return services, changed
