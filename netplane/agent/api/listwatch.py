"""The list/watch protocol of a Kubernetes API server as a state machine: bytes in, changes out.

No socket, no clock but the one given. Whoever drives it (``api.source``, or a test) repeats:

    request = machine.request()            what to ask, and how long to wait before
    machine.opened()                       an answer with status 200 has begun
    for step in machine.received(chunk)    changes, as bytes of a watch arrive
    for step in machine.closed()           the answer ended as it should; a list's changes
    machine.refused(...)                   the answer has another status
    machine.failed(error)                  the connection was not made, or broke
    machine.silent(error)                  it says nothing any more
    machine.spoiled(error)                 what ``received`` or ``closed`` raised

What it holds to, against servers and networks that misbehave:

- A list is paged. A continue token that expired costs a new list, without pages (a list that takes
  longer than the server keeps its history would never end). What a complete list does not have is
  deleted, so deletions that were missed are found.
- A watch goes on from the last resourceVersion told. When that is too old (410, as status or as an
  event), or the server tells less than it did (its resourceVersions went backwards), it lists.
- An event that is not newer than what is held of its object is a duplicate or late: passed over.
- A list that is suddenly empty is asked for twice before many objects are deleted. So is an empty
  first one: we hold nothing then, but the kernel may hold what an earlier agent wrote.
- A fault that repeats in the same place, which a new attempt alone would not mend, costs a list.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import TypeAlias

import msgspec

from netplane.agent.api.pacing import Backoff, Pacing
from netplane.agent.api.wire import (
    MOST_PAGE_BYTES,
    Event,
    Item,
    Lines,
    Page,
    Resource,
    read_event,
    read_page,
    refusal,
    version_number,
)
from netplane.agent.changes import ObjectKey
from netplane.agent.cluster_state import key_of
from netplane.core.model.documents import Manifest
from netplane.errors import DeniedError, ExpiredError, WatchError

PAGE_LIMIT = 500
#: A list of none where there were so many objects is doubted once.
DOUBTFUL_COUNT = 100
#: Watches in a row that broke in the same place before a list is tried instead.
_STUCK = 3
_CLIENT_ERROR = 4
#: Timeout, expired, too many requests, denied: nothing that a list would mend.
_NOT_ABOUT_THE_REQUEST = frozenset({401, 403, 408, 410, 429})
_MOST_TOMBSTONES = 4096


class Request(msgspec.Struct, frozen=True):
    """A GET on the resource's path.

    Attributes:
        query: Its parameters, not yet escaped.
        delay: Seconds to wait before it is sent.
        lasts: Seconds after which the server ends the answer by itself; 0: when all is said.
    """

    query: dict[str, str]
    delay: float
    lasts: float


class Upsert(msgspec.Struct, frozen=True):
    """An object is new or changed."""

    manifest: Manifest


class Delete(msgspec.Struct, frozen=True):
    """An object is gone."""

    key: ObjectKey


Step: TypeAlias = Upsert | Delete


class ListWatch:
    """One resource kept up to date.

    Attributes:
        in_sync: A list was read to its end at least once.
        fault: Why the last attempt failed; None while attempts work.
        lists: How many lists were read to their end.
        told: How often something whole was said: a page, an event, the end of a watch.
    """

    def __init__(
        self,
        resource: Resource,
        *,
        clock: Callable[[], float],
        rng: random.Random,
        pacing: Pacing | None = None,
    ) -> None:
        self.resource = resource
        self.in_sync = False
        self.fault: WatchError | None = None
        self.lists = 0
        self.told = 0
        self._clock = clock
        self._rng = rng
        self._pacing = pacing or Pacing()
        self._backoff = Backoff(self._pacing, rng)
        self._delay = 0.0
        self._held: dict[ObjectKey, int | None] = {}
        self._tombstones: dict[ObjectKey, int] = {}
        self._version = ""  # to watch from; "" asks for a list
        self._list = _Listing()
        self._lines = Lines()
        self._floor: int | None = None
        self._began = 0.0
        self._progress = False
        self._broken = 0
        self._relist_at = 0.0

    def __len__(self) -> int:
        return len(self._held)

    @property
    def watching(self) -> bool:
        """Whether the request under way, or the next one, is a watch."""
        return bool(self._version)

    # --- what to ask --------------------------------------------------------------------------

    def request(self) -> Request:
        """The next request; the one before it is over."""
        if self.watching and self._pacing.relist and self._clock() >= self._relist_at:
            self._restart_list()
        query = {
            "labelSelector": self.resource.label_selector,
            "fieldSelector": self.resource.field_selector,
        }
        lasts = 0.0
        if self.watching:
            shortest = self._pacing.shortest_watch
            lasts = self._rng.uniform(shortest, 2 * shortest)
            query["watch"] = "true"
            query["allowWatchBookmarks"] = "true"
            query["resourceVersion"] = self._version
            query["timeoutSeconds"] = str(max(round(lasts), 1))
        else:
            query["limit"] = str(PAGE_LIMIT) if self._list.paged else ""
            query["continue"] = self._list.token
        delay, self._delay = self._delay, 0.0
        return Request({key: text for key, text in query.items() if text}, delay, lasts)

    # --- what is answered ---------------------------------------------------------------------

    def opened(self) -> None:
        """An answer with status 200 has begun."""
        self._lines = Lines()
        self._list.body = []
        self._list.size = 0
        self._began = self._clock()
        self._progress = False
        self._floor = version_number(self._version)
        if self.watching:
            self.fault = None

    def received(self, chunk: bytes) -> Iterator[Step]:
        """Bytes of the answer, broken anywhere; to be iterated to the end.

        Raises:
            WatchError: The answer cannot be used from here on; close the connection, and tell
                ``spoiled``.
        """
        if self.watching:
            for line in self._lines.feed(chunk):
                yield from self._take(read_event(line, self.resource))
                self.told += 1
        else:
            self._list.add(chunk)

    def closed(self) -> Iterator[Step]:
        """The answer ended as HTTP says it should; to be iterated to the end.

        Raises:
            WatchError: As ``received``.
        """
        if self.watching:
            if self._progress or self._clock() - self._began >= self._pacing.calm:
                self.told += 1
                return
            raise WatchError("the watch ended at once and told nothing")
        yield from self._take_page(read_page(b"".join(self._list.body), self.resource))

    def refused(self, status: int, retry_after: str, body: bytes) -> None:
        """The answer has another status than 200; of its body the beginning is enough."""
        error = refusal(status, retry_after, body)
        if status // 100 == _CLIENT_ERROR and status not in _NOT_ABOUT_THE_REQUEST:
            self.spoiled(error)
        else:
            self.failed(error)

    def failed(self, error: WatchError) -> None:
        """The server was not reached, or the connection broke: going on where it broke helps."""
        wait = error.retry_after
        if isinstance(error, ExpiredError):
            self._restart_list(paged=self.watching or not self._list.token)
        elif isinstance(error, DeniedError):
            renewed = error.unknown and not isinstance(self.fault, DeniedError)
            wait = 0.0 if renewed else self._backoff.around(self._pacing.denied)
        self.fault = error
        self._delay = self._backoff.next(wait)

    def spoiled(self, error: WatchError) -> None:
        """What the server said cannot be used: if that repeats, going on there does not help."""
        self.failed(error)
        self._broken += 1
        if self._broken >= _STUCK:
            self._broken = 0
            self._restart_list()

    def silent(self, error: WatchError) -> None:
        """Nothing came for so long that even the watch's bookmarks are missing.

        They are promised, but not for sure; so it is not known whether there was nothing to tell.
        """
        self.failed(error)
        self._restart_list()

    def _restart_list(self, *, paged: bool = True) -> None:
        self._version = ""
        self._list = _Listing(paged=paged)

    # --- lists --------------------------------------------------------------------------------

    def _take_page(self, page: Page) -> Iterator[Step]:
        listing = self._list
        if page.token and page.token == listing.token:
            self._restart_list(paged=False)
            raise WatchError("the list continues with the page that it was continued from")
        listing.version = listing.version or page.version
        listing.token = page.token
        self.fault = None
        self.told += 1
        self._broken = 0
        self._backoff.reset()
        for item in page.items:
            key = key_of(item.manifest)
            listing.seen.add(key)
            self._held[key] = item.version
            yield Upsert(item.manifest)
        if page.token:
            return
        doubtful = not self.in_sync or len(self._held) >= DOUBTFUL_COUNT
        if doubtful and not listing.seen and not listing.doubted:
            self._list = _Listing(doubted=True)
            self._delay = self._pacing.confirm
            return
        gone = [key for key in self._held if key not in listing.seen]
        for key in gone:
            del self._held[key]
            yield Delete(key)
        self._tombstones.clear()
        self._version = listing.version
        self._list = _Listing()
        self._relist_at = self._clock() + self._backoff.around(self._pacing.relist)
        self.in_sync = True
        self.lists += 1

    # --- watches ------------------------------------------------------------------------------

    def _take(self, event: Event) -> Iterator[Step]:
        now = version_number(event.version)
        if now is not None and self._floor is not None and now < self._floor:
            # A watch tells what came after the version it was asked to start at, and nothing else.
            self._restart_list()
            raise WatchError(f"the resourceVersion went back, from {self._floor} to {now}")
        if event.type != "BOOKMARK":
            yield from self._take_object(event.type, event.item)
        self._advance(event.version, now)

    def _advance(self, text: str, now: int | None) -> None:
        """Watch from this version next time, unless it is a late event's."""
        held = version_number(self._version)
        if text and (now is None or held is None or now > held):
            self._version = text
            self._progress = True
            self._broken = 0
            self._backoff.reset()

    def _take_object(self, kind: str, item: Item) -> Iterator[Step]:
        key = key_of(item.manifest)
        held, buried = self._held.get(key), self._tombstones.get(key)
        if kind == "DELETED":
            if item.version is not None and held is not None and item.version < held:
                return  # it was made again since
            if item.version is not None:
                self._bury(key, item.version)
            if key in self._held:
                del self._held[key]
                yield Delete(key)
            return
        if item.version is not None:
            if held is not None and item.version <= held:
                return
            if buried is not None and item.version <= buried:
                return
        self._held[key] = item.version
        self._tombstones.pop(key, None)
        yield Upsert(item.manifest)

    def _bury(self, key: ObjectKey, version: int) -> None:
        """Remember the newest deletion, so that no late event brings the object back."""
        self._tombstones[key] = max(version, self._tombstones.pop(key, version))
        if len(self._tombstones) > _MOST_TOMBSTONES:
            del self._tombstones[next(iter(self._tombstones))]


class _Listing:
    """A list under way: its pages' objects so far, and the bytes of the page under way."""

    __slots__ = ("body", "doubted", "paged", "seen", "size", "token", "version")

    def __init__(self, *, paged: bool = True, doubted: bool = False) -> None:
        self.paged = paged
        self.doubted = doubted
        self.token = ""
        self.version = ""
        self.seen: set[ObjectKey] = set()
        self.body: list[bytes] = []
        self.size = 0

    def add(self, chunk: bytes) -> None:
        self.body.append(chunk)
        self.size += len(chunk)
        if self.size > MOST_PAGE_BYTES:
            raise WatchError(f"a page of more than {MOST_PAGE_BYTES} bytes")
