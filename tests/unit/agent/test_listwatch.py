"""The list/watch protocol, answer by answer: what is asked next, and what has changed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable

import pytest

from netplane.agent.api.listwatch import ListWatch, Step, Upsert
from netplane.agent.api.pacing import Pacing
from netplane.agent.api.wire import Lines, Resource, refusal
from netplane.errors import DeniedError, ExpiredError, WatchError

PACING = Pacing()
SERVICES = Resource(kind="Service", api_version="v1", path="/api/v1/services", label_selector="!a")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def machine(clock: Clock | None = None, seed: int = 0) -> ListWatch:
    return ListWatch(SERVICES, clock=clock or Clock(), rng=random.Random(seed))


def thing(name: str, version: int | str) -> dict[str, object]:
    return {"metadata": {"name": name, "namespace": "shop", "resourceVersion": str(version)}}


def page(*things: dict[str, object], version: int | str = 10, token: str = "") -> bytes:
    meta = {"resourceVersion": str(version), **({"continue": token} if token else {})}
    whole = {"kind": "ServiceList", "apiVersion": "v1", "metadata": meta, "items": list(things)}
    return json.dumps(whole).encode()


def event(kind: str, name: str, version: int | str) -> bytes:
    whole = {"type": kind, "object": {"kind": "Service", **thing(name, version)}}
    return json.dumps(whole).encode() + b"\n"


def bookmark(version: int | str) -> bytes:
    meta = {"resourceVersion": str(version)}
    return json.dumps({"type": "BOOKMARK", "object": {"metadata": meta}}).encode() + b"\n"


def error(code: int) -> bytes:
    return (
        json.dumps({"type": "ERROR", "object": {"kind": "Status", "code": code}}).encode() + b"\n"
    )


def words(steps: Iterable[Step]) -> list[str]:
    """``+name`` and ``-name``."""
    return [
        f"+{step.manifest.name}" if isinstance(step, Upsert) else f"-{step.key.name}"
        for step in steps
    ]


def answer(listwatch: ListWatch, body: bytes) -> list[str]:
    """One answer that ends as it should."""
    listwatch.request()
    listwatch.opened()
    said = words(listwatch.received(body))
    return said + words(listwatch.closed())


def watch(listwatch: ListWatch, *lines: bytes) -> list[str]:
    """A watch that has begun, and goes on."""
    assert listwatch.watching
    listwatch.request()
    listwatch.opened()
    return [word for line in lines for word in words(listwatch.received(line))]


def spoil(listwatch: ListWatch, line: bytes) -> WatchError:
    """Bytes that cannot be used."""
    with pytest.raises(WatchError) as caught:
        list(listwatch.received(line))
    listwatch.spoiled(caught.value)
    return caught.value


def synced(*names: str, version: int = 10) -> ListWatch:
    return sync(machine(), *names, version=version)


def sync(listwatch: ListWatch, *names: str, version: int = 10) -> ListWatch:
    for _ in range(1 if names else 2):  # the first list is doubted where it is empty
        answer(listwatch, page(*(thing(name, 5) for name in names), version=version))
    assert listwatch.in_sync
    return listwatch


def test_a_list_in_pages_is_complete_with_the_last_one() -> None:
    listwatch = machine()
    first = listwatch.request()
    assert first.query == {"labelSelector": "!a", "limit": "500"}
    assert (first.delay, first.lasts) == (0, 0)
    assert answer(listwatch, page(thing("a", 1), token="more")) == ["+a"]
    assert not listwatch.in_sync
    assert listwatch.request().query["continue"] == "more"
    assert answer(listwatch, page(thing("b", 2))) == ["+b"]
    assert listwatch.in_sync
    query = listwatch.request().query
    assert query["resourceVersion"] == "10"
    assert query["watch"] == query["allowWatchBookmarks"] == "true"
    assert "limit" not in query
    assert 300 <= int(query["timeoutSeconds"]) <= 600


def test_an_expired_token_costs_a_list_without_pages() -> None:
    listwatch = machine()
    answer(listwatch, page(thing("a", 1), token="more"))
    listwatch.request()
    listwatch.refused(410, "", b"")
    assert listwatch.request().query == {"labelSelector": "!a"}
    assert answer(listwatch, page(thing("b", 2))) == ["+b", "-a"]


def test_a_token_that_leads_back_to_its_own_page_ends_the_pages() -> None:
    listwatch = machine()
    answer(listwatch, page(thing("a", 1), token="more"))
    listwatch.request()
    listwatch.opened()
    list(listwatch.received(page(thing("b", 2), token="more")))
    with pytest.raises(WatchError, match="continues with the page"):
        list(listwatch.closed())
    assert "limit" not in listwatch.request().query


def test_what_a_later_list_does_not_have_is_deleted() -> None:
    listwatch = synced("a", "b", "c")
    watch(listwatch)
    assert isinstance(spoil(listwatch, error(410)), ExpiredError)
    assert not listwatch.watching
    assert answer(listwatch, page(thing("a", 5), thing("d", 12), version=20)) == [
        "+a",
        "+d",
        "-b",
        "-c",
    ]


def test_a_watch_goes_on_from_the_last_version_it_was_told() -> None:
    listwatch = synced("a")
    assert watch(listwatch, event("ADDED", "b", 11), event("DELETED", "a", 12)) == ["+b", "-a"]
    listwatch.failed(WatchError("reset"))
    assert listwatch.request().query["resourceVersion"] == "12"
    assert watch(listwatch, bookmark(40)) == []
    assert words(listwatch.closed()) == []
    request = listwatch.request()
    assert (request.query["resourceVersion"], request.delay) == ("40", 0)


@pytest.mark.parametrize("cut", range(1, 90, 7))
def test_events_may_be_broken_anywhere(cut: int) -> None:
    listwatch = synced()
    line = event("ADDED", "b", 11) + event("MODIFIED", "b", 12)
    assert watch(listwatch, line[:cut], line[cut:]) == ["+b", "+b"]


def test_the_rest_of_a_broken_event_does_not_spoil_the_next_connection() -> None:
    listwatch = synced()
    line = json.dumps({"type": "ADDED", "object": thing("b", 11)}, ensure_ascii=False).encode()
    watch(listwatch, line[:30] + "ü".encode()[:1])
    listwatch.failed(WatchError("reset"))
    assert watch(listwatch, event("ADDED", "b", 11)) == ["+b"]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        pytest.param([("MODIFIED", "a", 11), ("MODIFIED", "a", 11)], ["+a"], id="twice"),
        pytest.param([("MODIFIED", "a", 12), ("MODIFIED", "a", 11)], ["+a"], id="late"),
        pytest.param([("ADDED", "b", 12), ("MODIFIED", "a", 11)], ["+b", "+a"], id="two-objects"),
        pytest.param([("DELETED", "a", 12), ("MODIFIED", "a", 11)], ["-a"], id="late-after-end"),
        pytest.param([("DELETED", "a", 12), ("ADDED", "a", 13)], ["-a", "+a"], id="made-again"),
        pytest.param([("MODIFIED", "a", 13), ("DELETED", "a", 12)], ["+a"], id="late-end"),
        pytest.param([("DELETED", "b", 12)], [], id="end-of-an-unknown-one"),
        pytest.param(
            [("DELETED", "a", 13), ("DELETED", "a", 11), ("ADDED", "a", 12)],
            ["-a"],
            id="an-older-end-after-the-last",
        ),
        pytest.param(
            [("MODIFIED", "a", "x"), ("MODIFIED", "a", "w")], ["+a", "+a"], id="no-order"
        ),
    ],
)
def test_what_is_not_newer_is_passed_over(
    lines: list[tuple[str, str, int]], told: list[str]
) -> None:
    assert watch(synced("a"), *(event(*line) for line in lines)) == told


def test_late_events_do_not_turn_the_watch_back() -> None:
    listwatch = synced("a")
    watch(listwatch, event("ADDED", "b", 15), event("MODIFIED", "a", 12))
    assert listwatch.request().query["resourceVersion"] == "15"


@pytest.mark.parametrize(
    "line", [event("MODIFIED", "a", 3), bookmark(9)], ids=["event", "bookmark"]
)
def test_versions_that_go_back_cost_a_list_which_is_believed(line: bytes) -> None:
    listwatch = synced("a", "b")
    watch(listwatch)
    assert "went back" in str(spoil(listwatch, line))
    assert answer(listwatch, page(thing("a", 2), version=4)) == ["+a", "-b"]
    assert listwatch.request().query["resourceVersion"] == "4"
    assert watch(listwatch, event("MODIFIED", "a", 5)) == ["+a"]


def test_an_error_event_is_retried_in_its_place_and_then_by_a_list() -> None:
    listwatch = synced("a")
    for attempt in range(3):
        assert listwatch.watching, attempt
        watch(listwatch)
        spoil(listwatch, error(500))
    assert not listwatch.watching


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b'{"type": "ADDED", "object"\n', id="cut"),
        pytest.param(b'{"type": "ADDED", "object": {"kind": "Pod"}}\n', id="another-kind"),
        pytest.param(b'{"type": "SEEN", "object": {}}\n', id="unknown-type"),
        pytest.param(b'{"type": "BOOKMARK", "object": {}}\n', id="bookmark-of-nothing"),
        pytest.param(b"<html>\n", id="a-page"),
        pytest.param(b"[" * 100_000 + b"\n", id="too-deep"),
    ],
)
def test_events_that_make_no_sense_do_no_harm(line: bytes) -> None:
    listwatch = synced("a")
    watch(listwatch, event("ADDED", "b", 11))
    spoil(listwatch, line)
    assert listwatch.request().query["resourceVersion"] == "11"
    assert len(listwatch) == 2


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"{}", id="nothing"),
        pytest.param(b'{"kind": "Status", "metadata": {}}', id="a-status"),
        pytest.param(b'{"kind": "PodList", "metadata": {"resourceVersion": "1"}}', id="others"),
        pytest.param(b'{"kind": "ServiceList", "metadata": {}}', id="no-version"),
        pytest.param(page(thing("a", 1))[:-2], id="cut"),
        pytest.param(b"", id="empty"),
    ],
)
def test_a_list_that_is_none_removes_nothing(body: bytes) -> None:
    listwatch = synced("a", "b")
    watch(listwatch)
    spoil(listwatch, error(410))
    listwatch.request()
    listwatch.opened()
    list(listwatch.received(body))
    with pytest.raises(WatchError):
        list(listwatch.closed())
    assert len(listwatch) == 2


def test_an_empty_list_is_confirmed_before_many_are_deleted() -> None:
    listwatch = synced(*(f"web-{n}" for n in range(100)))
    watch(listwatch)
    spoil(listwatch, error(410))
    assert answer(listwatch, page(version=30)) == []
    request = listwatch.request()
    assert ("watch" in request.query, request.delay) == (False, PACING.confirm)
    assert len(answer(listwatch, page(version=31))) == 100
    assert listwatch.watching


def test_a_first_list_that_is_empty_is_confirmed_too() -> None:
    """Nothing is held yet, but the kernel may hold all that an earlier agent wrote."""
    listwatch = machine()
    assert answer(listwatch, page(version=30)) == []
    assert not listwatch.in_sync
    request = listwatch.request()
    assert ("watch" in request.query, request.delay) == (False, PACING.confirm)
    assert answer(listwatch, page(thing("a", 5), version=31)) == ["+a"]
    assert listwatch.in_sync


def test_a_few_may_go_at_once() -> None:
    listwatch = synced("a", "b")
    watch(listwatch)
    spoil(listwatch, error(410))
    assert answer(listwatch, page(version=30)) == ["-a", "-b"]


def test_a_watch_that_ends_at_once_is_a_fault_and_a_long_one_is_not() -> None:
    clock = Clock()
    listwatch = sync(machine(clock))
    watch(listwatch)
    with pytest.raises(WatchError, match="told nothing"):
        list(listwatch.closed())
    watch(listwatch)
    clock.now += 300
    assert list(listwatch.closed()) == []
    assert listwatch.request().delay == 0


def test_waits_grow_with_faults_and_end_with_them() -> None:
    delays = []
    listwatch = synced("a")
    for _ in range(12):
        listwatch.failed(WatchError("refused"))
        delays.append(listwatch.request().delay)
    assert max(delays) > 5
    assert max(delays) <= PACING.longest
    watch(listwatch, event("ADDED", "b", 11))
    listwatch.failed(WatchError("reset"))
    assert listwatch.request().delay <= PACING.first
    assert listwatch.watching, "an outage alone never costs a list"


@pytest.mark.parametrize(
    ("status", "retry_after", "least", "most"),
    [
        pytest.param(429, "7", 7, 7.5, id="asked-to-wait"),
        pytest.param(503, "2", 2, 2.5, id="unavailable"),
        pytest.param(429, "Wed, 21 Oct 2026 07:28:00 GMT", 0, 0.5, id="a-date"),
        pytest.param(429, "99999999999999", 300, 301, id="for-ever"),
        pytest.param(403, "", 24, 37, id="denied"),
        pytest.param(401, "", 0, 0.5, id="unknown-once"),
        pytest.param(307, "", 0, 0.5, id="redirected"),
    ],
)
def test_what_a_status_asks_for(status: int, retry_after: str, least: float, most: float) -> None:
    listwatch = synced("a")
    listwatch.request()
    listwatch.refused(status, retry_after, b"not json")
    assert least <= listwatch.request().delay <= most
    assert listwatch.watching


def test_a_version_that_the_server_does_not_know_yet_costs_a_list() -> None:
    """Its history was rewound: what comes under that number is not what came before."""
    listwatch = synced("a")
    listwatch.request()
    status = {
        "kind": "Status",
        "reason": "Timeout",
        "message": "Too large resource version: 10, current: 7",
        "details": {"retryAfterSeconds": 1, "causes": [{"reason": "ResourceVersionTooLarge"}]},
    }
    listwatch.refused(504, "1", json.dumps(status).encode())
    request = listwatch.request()
    assert "watch" not in request.query
    assert request.delay >= 1


def test_the_second_401_in_a_row_is_waited_for() -> None:
    listwatch = synced("a")
    listwatch.refused(401, "", b"")
    listwatch.request()
    listwatch.refused(401, "", b"")
    assert listwatch.request().delay >= 0.8 * PACING.denied


def test_a_request_that_the_server_does_not_like_ends_in_a_list() -> None:
    listwatch = synced("a")
    for _ in range(3):
        assert listwatch.watching
        listwatch.request()
        listwatch.refused(400, "", b"")
    assert not listwatch.watching


def test_silence_costs_a_list() -> None:
    listwatch = synced("a")
    watch(listwatch)
    listwatch.silent(WatchError("nothing"))
    assert not listwatch.watching


def test_a_list_now_and_then_finds_what_nobody_noticed() -> None:
    clock = Clock()
    listwatch = machine(clock)
    answer(listwatch, page(thing("a", 1)))
    listwatch.request()
    assert listwatch.watching
    clock.now += 1.2 * PACING.relist
    assert "watch" not in listwatch.request().query
    assert answer(listwatch, page(thing("b", 2))) == ["+b", "-a"]


def test_refusals_say_who_is_denied_what_and_are_safe_to_print() -> None:
    message = 'services is forbidden: User "x" cannot list resource\x1b[31m' + "!" * 900
    denied = refusal(403, "", json.dumps({"message": message}).encode())
    assert isinstance(denied, DeniedError)
    assert str(denied).startswith("403: services is forbidden")
    assert str(denied).isprintable()
    assert len(str(denied)) < 500
    assert "not followed" in str(refusal(302, "", b"<html>"))
    assert str(refusal(599, "", b"")) == "599: error"


def test_a_line_without_end_is_given_up() -> None:
    lines = Lines(most=1000)
    assert lines.feed(b"a\n\nb") == [b"a"]
    assert lines.feed(b"c" * 900 + b"\n") == [b"b" + b"c" * 900]
    with pytest.raises(WatchError, match="more than 1000 bytes"):
        lines.feed(b"d" * 1001)


def test_an_object_without_a_readable_name_is_passed_on_to_be_refused() -> None:
    odd: dict[str, object] = {"metadata": {"name": 7, "resourceVersion": "3"}}
    listwatch = machine()
    assert answer(listwatch, page(odd, thing("a", 1))) == ["+", "+a"]
