"""The API source against a server that misbehaves: in the end it has what the server has."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import Callable

import pytest
from _pytest.mark.structures import ParameterSet

from netplane.agent.api.kubeconfig import Access
from netplane.agent.api.pacing import Pacing
from netplane.agent.api.source import ApiSource
from tests.support.api_server import EVENT_FAULTS, LIST_FAULTS, WATCH_FAULTS, ApiServer, Fault
from tests.support.api_server_model import Object
from tests.support.churn import Churn
from tests.support.following import CLOCKS, HASTY, Follower, following, polled, rng, snapshot_of
from tests.support.manifests import endpoint_slice, node, service


def by_name(faults: frozenset[Fault]) -> list[ParameterSet]:
    return [pytest.param(f, id=f.name) for f in sorted(faults, key=lambda f: f.name)]


def source_of(
    server: ApiServer,
    pacing: Pacing = HASTY,
    on_answer: Callable[[str, str], object] | None = None,
) -> ApiSource:
    return ApiSource(
        Access(server=server.url),
        node_name="node-1",
        clocks=CLOCKS,
        rng=rng(),
        pacing=pacing,
        on_answer=on_answer,
    )


def everything(server: ApiServer) -> list[Object]:
    with server.store.lock:
        return [
            thing
            for collection in server.store.collections.values()
            for thing in collection.objects.values()
        ]


def is_true(follower: Follower, server: ApiServer) -> bool:
    return follower.source.in_sync and follower.equals(snapshot_of(everything(server)))


def fill(server: ApiServer, count: int) -> None:
    server.store.put(node("node-1", ip="192.0.2.1", zone="zone-a"))
    server.store.put(node("node-2", ip="192.0.2.2"))
    for number in range(count):
        server.store.put(service(f"web-{number}", cluster_ips=[f"172.30.9.{number % 250 + 1}"]))
        server.store.put(endpoint_slice(f"web-{number}"))


def test_every_answer_is_told_and_every_request_without_one() -> None:
    told: Counter[str] = Counter()
    hosts = set()

    def on_answer(host: str, code: str) -> None:
        hosts.add(host)
        told[code] += 1

    with ApiServer() as server:
        fill(server, 2)
        server.script("Service", Fault.UNAVAILABLE, Fault.FORBIDDEN)

        async def story(follower: Follower) -> None:
            await follower.until(lambda: is_true(follower, server))

        asyncio.run(following(source_of(server, on_answer=on_answer), story))
        assert hosts == {f"127.0.0.1:{server.port}"}
        assert told["503"] == told["403"] == 1
        assert told["200"] >= 3
        nobody = source_of(server, on_answer=on_answer)

    async def alone(follower: Follower) -> None:
        await follower.until(lambda: told["<error>"] > 0)

    asyncio.run(following(nobody, alone))


def test_a_quiet_server_is_read_in_pages_and_then_watched() -> None:
    with ApiServer() as server:
        server.page_limit = 7
        fill(server, 20)

        async def story(follower: Follower) -> None:
            assert follower.source.take() is None
            await follower.until(lambda: is_true(follower, server))
            assert follower.takes == 1
            assert follower.node is not None
            assert (follower.node.name, follower.node.zone) == ("node-1", "zone-a")
            assert follower.eligible is True
            assert follower.source.fault == ""
            server.store.put(endpoint_slice("web-3", ["10.244.9.9"]))
            await follower.until(lambda: is_true(follower, server))
            server.store.delete("Service", ("default", "web-4"))
            await follower.until(lambda: is_true(follower, server))

        asyncio.run(following(source_of(server), story))
        lists = server.asked("Service", watches=False)
        assert [request.query.get("limit") for request in lists] == ["500"] * 3
        assert all("!service.kubernetes.io/headless" in r.query["labelSelector"] for r in lists)
        watch = server.asked("Node", watches=True)[0]
        assert watch.query["fieldSelector"] == "metadata.name=node-1"
        assert watch.query["allowWatchBookmarks"] == "true"


def test_a_node_that_the_cluster_does_not_know_is_told_until_it_comes() -> None:
    """Mostly the name is wrong; the node must not be thought good for new connections."""
    with ApiServer() as server:
        server.store.put(node("node-2", ip="192.0.2.2"))
        server.store.put(service("web"))

        async def story(follower: Follower) -> None:
            await follower.until(lambda: len(follower.services) == 1)
            assert follower.eligible is False
            [[problem]] = follower.problems.values()
            assert str(problem).startswith("Node node-1: metadata.name: there is no such Node")
            server.store.put(node("node-1", ip="192.0.2.1"))
            await follower.until(lambda: follower.eligible is True)
            assert not follower.problems

        asyncio.run(following(source_of(server), story))


def test_the_end_of_a_fault_is_told_as_its_beginning_was() -> None:
    with ApiServer() as server:
        fill(server, 3)
        told: list[tuple[str, str]] = []
        access = Access(server=server.url)
        source = ApiSource(
            access,
            node_name="node-1",
            clocks=CLOCKS,
            rng=rng(),
            pacing=HASTY,
            on_fault=lambda kind, fault: told.append((kind, fault)),
        )
        server.script("Service", Fault.BROKEN)
        server.script("EndpointSlice", Fault.RESET_IN_OBJECT)

        async def story(follower: Follower) -> None:
            await follower.until(lambda: ("Service", "") in told and follower.source.in_sync)
            server.store.put(endpoint_slice("web-1", ["10.244.9.9"]))
            await follower.until(lambda: ("EndpointSlice", "") in told)

        asyncio.run(following(source, story))
        assert told == [
            ("Service", "500: Internal Server Error"),
            ("Service", ""),
            ("EndpointSlice", "the API server broke the connection off"),
            ("EndpointSlice", ""),
        ]


@pytest.mark.parametrize("sent", [2, 1])
def test_why_we_are_refused_is_told_in_whole_and_a_refusal_without_its_end_is_one(
    sent: int,
) -> None:
    """Who must not list what is in the second half; a peer may never send it."""
    words = "services is forbidden: User 'x' cannot list"
    body = json.dumps({"kind": "Status", "code": 403, "message": words}).encode()
    halves = [body[:60], body[60:]]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 403 No\r\nContent-Length: %d\r\n\r\n" % len(body))
            for half in halves[:sent]:
                await writer.drain()
                await asyncio.sleep(0.02)  # so that it is a read of its own
                writer.write(half)

    async def run() -> str:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        source = ApiSource(
            Access(server=f"http://127.0.0.1:{port}"),
            node_name="node-1",
            clocks=CLOCKS,
            rng=rng(),
            pacing=HASTY,
        )

        async def story(follower: Follower) -> None:
            await follower.until(lambda: bool(follower.source.fault))

        async with server:
            await following(source, story)
        return source.fault

    assert f"403: {words if sent == len(halves) else 'Forbidden'}" in asyncio.run(run())


@pytest.mark.parametrize("fault", by_name(LIST_FAULTS))
def test_each_fault_of_a_list_is_got_over(fault: Fault) -> None:
    with ApiServer() as server:
        server.page_limit = 50
        fill(server, 120)
        server.script("Service", fault)

        async def story(follower: Follower) -> None:
            await follower.until(lambda: is_true(follower, server) and not server.pending)

        asyncio.run(following(source_of(server), story))
        assert server.happened == [fault]


@pytest.mark.parametrize("fault", by_name(WATCH_FAULTS))
def test_each_fault_of_a_watch_as_it_begins_is_got_over(fault: Fault) -> None:
    with ApiServer() as server:
        fill(server, 3)
        server.script("Service", fault)

        async def story(follower: Follower) -> None:
            await follower.until(lambda: not server.pending or follower.source.in_sync)
            await asyncio.sleep(0)
            server.store.put(service("late", cluster_ips=["172.30.8.1"]))
            await follower.until(lambda: is_true(follower, server))
            assert not server.pending

        asyncio.run(following(source_of(server), story))
        assert server.happened == [fault]


def test_bytes_that_come_to_nothing_are_no_sign_of_life() -> None:
    with ApiServer() as server:
        fill(server, 3)
        server.script("Service", Fault.DRIBBLE)

        async def story(follower: Follower) -> None:
            await follower.until(lambda: follower.source.in_sync)
            await polled(lambda: server.dribbled)
            heard = follower.source.last_heard
            await polled(lambda: server.dribbled >= 20)
            assert follower.source.last_heard == heard

        asyncio.run(following(source_of(server, Pacing()), story))


def test_a_server_that_hangs_is_told_before_its_silence_tells() -> None:
    """Its watches stand and are quiet, as they are in a cluster where nothing happens."""
    told: list[tuple[str, str]] = []
    with ApiServer(bookmarks=60.0) as server:
        fill(server, 3)
        source = ApiSource(
            Access(server=server.url),
            node_name="node-1",
            clocks=CLOCKS,
            rng=rng(),
            period=0.3,
            on_fault=lambda what, fault: told.append((what, fault)),
        )

        async def story(follower: Follower) -> None:
            await follower.until(lambda: source.in_sync)
            await polled(lambda: server.watches == 3)
            watched = len(server.requests)
            await polled(lambda: len(server.requests) >= watched + 2)
            assert {r.path for r in server.requests[watched:]} == {"/api/v1/nodes"}
            assert told == [], "it answers"
            with server.hanging():
                await follower.until(lambda: bool(source.fault))
                assert source.fault == "API server: the API server does not answer"
            await follower.until(lambda: not source.fault)
            assert told == [("API server", "the API server does not answer"), ("API server", "")]
            assert server.watches == 3, "no watch was given up for it"

        asyncio.run(following(source, story))


@pytest.mark.parametrize("fault", by_name(EVENT_FAULTS))
def test_each_fault_within_a_watch_is_got_over(fault: Fault) -> None:
    with ApiServer() as server:
        fill(server, 3)
        server.script("Service", fault)

        async def story(follower: Follower) -> None:
            await follower.until(lambda: is_true(follower, server))
            for number in range(4):
                made = service("web-1", cluster_ips=[f"172.30.7.{number + 1}"])
                made["metadata"]["annotations"] = {"note": "Grüße, 世界"}
                server.store.put(made)
            server.store.delete("Service", ("default", "web-2"))
            await follower.until(lambda: is_true(follower, server))
            assert not server.pending

        asyncio.run(following(source_of(server), story))
        assert server.happened == [fault]


def test_an_empty_list_is_asked_for_again_before_all_is_lost() -> None:
    with ApiServer() as server:
        fill(server, 120)
        counts: list[int] = []

        async def story(follower: Follower) -> None:
            await follower.until(lambda: is_true(follower, server))
            server.script("Service", Fault.GONE_EVENT, Fault.EMPTY)
            server.store.put(service("web-1", cluster_ips=["172.30.7.1"]))

            def seen() -> bool:
                counts.append(len(follower.services))
                return is_true(follower, server) and not server.pending

            await follower.until(seen)
            for number in range(120):
                server.store.delete("Service", ("default", f"web-{number}"))
            server.store.compact()
            await follower.until(lambda: is_true(follower, server))
            assert not follower.services

        asyncio.run(following(source_of(server), story))
        assert set(counts) == {120}


@pytest.mark.parametrize("seed", [1, 2])
def test_two_thousand_changes_with_faults_everywhere_end_as_the_server_says(seed: int) -> None:
    with ApiServer(seed=seed, probability=0.05) as server:
        server.page_limit = 40
        churn = Churn(server.store, random.Random(seed))
        fill(server, 60)

        async def story(follower: Follower) -> None:
            for _ in range(100):
                for _ in range(20):
                    churn.change()
                follower.take()
                await asyncio.sleep(0.01)  # pacing of the story: nothing is waited for
            await follower.until(lambda: is_true(follower, server), within=30)

        asyncio.run(following(source_of(server), story))
        assert len(server.happened) > 25  # by chance, and a broken watch misses its events
        assert len(set(server.happened)) > 8
