"""A Kubernetes API server as the source of changes: three list/watches into one state."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import aclosing

from netplane.agent.api.client import OK, Client, OnAnswer, SilenceError
from netplane.agent.api.kubeconfig import Access
from netplane.agent.api.listwatch import ListWatch, Request, Step, Upsert
from netplane.agent.api.pacing import Pacing
from netplane.agent.api.pulse import Pulse
from netplane.agent.api.wire import Resource
from netplane.agent.changes import ClusterChange, ObjectKey
from netplane.agent.clocks import Clocks
from netplane.agent.cluster_state import ClusterState
from netplane.core.model.decoding import NODE
from netplane.errors import WatchError

#: Of both kinds: those for other proxies, and headless ones, are none of ours (reference 3.1).
SELECTOR = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless"
SERVICES = Resource(
    kind="Service", api_version="v1", path="/api/v1/services", label_selector=SELECTOR
)
SLICES = Resource(
    kind="EndpointSlice",
    api_version="discovery.k8s.io/v1",
    path="/apis/discovery.k8s.io/v1/endpointslices",
    label_selector=SELECTOR,
)
#: Seconds above the longest silence in which a connection is given up and the next one tried.
_GRACE = 20.0
#: What a fault is told of that is none of one resource.
_SERVER = "API server"
#: Objects taken in before others on the event loop get their turn.
_BATCH = 256


def own_node(name: str) -> Resource:
    """The collection of Nodes, of which only this one is asked for."""
    return Resource(
        kind="Node",
        api_version="v1",
        path="/api/v1/nodes",
        field_selector=f"metadata.name={name}",
    )


class ApiSource:
    """Services, EndpointSlices and the own Node, as an API server tells them; a ``Source``.

    Args:
        node_name: Of the own Node.
        clocks: ``monotonic`` to pace by, ``wall`` for what expires.
        period: Seconds (``syncPeriod``); a server that hangs is told within two.
        on_fault: Told each fault of each resource, or of all, as it happens, safe to print, and
            "" when it is heard again.
        on_answer: See ``Client``.
    """

    def __init__(  # noqa: PLR0913 (all but four have a default)
        self,
        access: Access,
        *,
        node_name: str,
        clocks: Clocks,
        rng: random.Random,
        period: float = 30.0,
        pacing: Pacing | None = None,
        on_fault: Callable[[str, str], object] | None = None,
        on_answer: OnAnswer | None = None,
    ) -> None:
        self._access = access
        self._clocks = clocks
        self._pacing = pacing or Pacing()
        self._on_fault = on_fault
        self._on_answer = on_answer
        self._told: dict[str, WatchError | None] = {}
        self._node = ObjectKey(NODE.kind, "", node_name)
        self._state = ClusterState(node_name)
        self._machines = [
            ListWatch(resource, clock=clocks.monotonic, rng=rng, pacing=self._pacing)
            for resource in (SERVICES, SLICES, own_node(node_name))
        ]
        self._heard = {machine.resource.kind: clocks.monotonic() for machine in self._machines}
        self._pulse = Pulse(
            own_node(node_name), clocks.monotonic, period=period, quiet_since=self._quiet_since
        )
        self._news = asyncio.Event()

    @property
    def in_sync(self) -> bool:
        """All three lists have been read to their end."""
        return all(machine.in_sync for machine in self._machines)

    @property
    def last_heard(self) -> float:
        """The last sign of life of the resource that has been silent for longest."""
        return min(self._heard.values())

    @property
    def patience(self) -> float:
        """An API server writes a bookmark about once a minute into a watch that is quiet."""
        return self._pacing.silence + _GRACE

    @property
    def fault(self) -> str:
        """Why resources are not heard now."""
        faults = [(m.resource.kind, m.fault) for m in self._machines]
        faults.append((_SERVER, self._pulse.fault))
        return "; ".join(f"{kind}: {fault}" for kind, fault in faults if fault is not None)

    async def run(self) -> None:
        """Keep all three until cancelled."""
        async with (
            Client(
                self._access,
                self._clocks,
                silence=self._pacing.silence,
                on_answer=self._on_answer,
            ) as client,
            asyncio.TaskGroup() as group,
        ):
            for machine in self._machines:
                group.create_task(self._keep(machine, client))
            group.create_task(self._pulse.keep(client, self._tell_pulse))

    def take(self) -> ClusterChange | None:
        """What changed since the last take; None before everything has been read once."""
        self._news.clear()
        return self._state.take() if self.in_sync else None

    async def wait(self) -> None:
        """Until there is something to take, or the source is in sync, faulty or well again."""
        await self._news.wait()

    async def _keep(self, machine: ListWatch, client: Client) -> None:
        """One request after the other, whatever becomes of each."""
        while True:
            request = machine.request()
            await asyncio.sleep(request.delay)
            try:
                await self._ask(machine, client, request)
            except SilenceError as exc:
                machine.silent(exc)
            except WatchError as exc:
                machine.failed(exc)
            self._tell(machine)

    async def _ask(self, machine: ListWatch, client: Client, request: Request) -> None:
        """Send one request and take in its answer."""
        path = machine.resource.path
        async with client.get(path, request.query, lasts=request.lasts) as answer:
            if answer.status != OK:
                machine.refused(answer.status, answer.retry_after, await answer.complaint())
                return
            machine.opened()
            self._tell(machine)
            began = self._clocks.monotonic()
            async with aclosing(answer.chunks()) as chunks:
                async for chunk in chunks:
                    try:
                        await self._apply(machine, machine.received(chunk))
                    except WatchError as exc:
                        machine.spoiled(exc)
                        return
                    if machine.watching:
                        self._doubt(machine, since=began)
        try:
            await self._apply(machine, machine.closed())
        except WatchError as exc:
            machine.spoiled(exc)

    def _quiet_since(self) -> float:
        """When the resource was heard that has been silent for longest, and is thought well."""
        well = (m.resource.kind for m in self._machines if m.fault is None)
        return min((self._heard[kind] for kind in well), default=self._clocks.monotonic())

    def _tell(self, machine: ListWatch) -> None:
        """Tell a fault that is new, and that there is none any more."""
        kind, fault = machine.resource.kind, machine.fault
        if fault is not self._told.get(kind):
            self._told[kind] = fault
            self._say(kind, fault)

    def _tell_pulse(self) -> None:
        self._say(_SERVER, self._pulse.fault)

    def _say(self, what: str, fault: WatchError | None) -> None:
        self._news.set()
        if self._on_fault is not None:
            self._on_fault(what, str(fault or ""))

    def _doubt(self, machine: ListWatch, *, since: float) -> None:
        """Give up a watch that brings bytes, and no event or bookmark in all of them."""
        heard = max(since, self._heard[machine.resource.kind])
        if self._clocks.monotonic() - heard > self._pacing.silence:
            raise SilenceError("the API server says nothing whole any more")

    async def _apply(self, machine: ListWatch, steps: Iterator[Step]) -> None:
        was_in_sync, told = machine.in_sync, machine.told
        for count, step in enumerate(steps, start=1):
            if isinstance(step, Upsert):
                self._state.upsert(step.manifest)
            else:
                self._state.delete(step.key)
            if count % _BATCH == 0:
                await asyncio.sleep(0)
        if machine.told != told:
            self._heard[machine.resource.kind] = self._clocks.monotonic()
        if machine.resource.kind == NODE.kind and machine.in_sync and len(machine) == 0:
            self._state.delete(self._node)  # it may never have been there, so no step says it
        self._tell(machine)
        if machine.in_sync != was_in_sync or (self._state.changed and self.in_sync):
            self._news.set()
