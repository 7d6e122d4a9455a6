"""What an API server answers to a list and to a watch: bytes into pages, events and refusals.

Pure. A watch is one JSON object per line (k8s.io/apimachinery pkg/runtime/serializer/json writes
the newline); no newline is ever inside one, nor inside a UTF-8 character, so lines can be cut out
of a stream that is broken anywhere.
"""

from __future__ import annotations

import http

import msgspec

from netplane.core.model.documents import Manifest
from netplane.core.model.problem import shown
from netplane.errors import DeniedError, ExpiredError, WatchError

MOST_EVENT_BYTES = 32 << 20
"""One event; etcd holds no object above 1.5 MB unless told to."""

MOST_PAGE_BYTES = 1 << 30
"""One page of a list, which may be a whole list: 100,000 Services are about 200 MB."""

_GONE = 410
#: A server whose history was rewound does not know a version that it told before (k8s.io/
#: apimachinery pkg/apis/meta/v1/types.go); what it does next under that number is something else.
_FUTURE = "ResourceVersionTooLarge"
_UNAUTHORIZED = 401
_FORBIDDEN = 403
_LONGEST_VERSION = 40
_LONGEST_RETRY = 300.0
_LONGEST_MESSAGE = 400


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """A collection to keep: ``/api/v1/services`` of kind Service, and which of its objects."""

    kind: str
    api_version: str
    path: str
    label_selector: str = ""
    field_selector: str = ""


class Item(msgspec.Struct, frozen=True):
    """An object and its resourceVersion: None where that is no integer, so not comparable."""

    manifest: Manifest
    version: int | None


class Page(msgspec.Struct, frozen=True):
    """One answer to a list: ``token`` continues it, "" where it is the last."""

    version: str
    token: str
    items: tuple[Item, ...]


class Event(msgspec.Struct, frozen=True):
    """One line of a watch: ``type`` is ADDED, MODIFIED, DELETED or BOOKMARK."""

    type: str
    item: Item
    version: str


class _Meta(msgspec.Struct, rename="camel", gc=False):
    name: str | None = None
    namespace: str | None = None
    resource_version: str | None = None


class _Object(msgspec.Struct, gc=False):
    kind: str | None = None
    metadata: _Meta | None = None


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str | None = None
    token: str | None = msgspec.field(name="continue", default=None)


class _List(msgspec.Struct):
    kind: str
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _Line(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _StatusCause(msgspec.Struct):
    reason: str | None = None


class _StatusDetails(msgspec.Struct, rename="camel"):
    retry_after_seconds: int | None = None
    causes: list[_StatusCause] | None = None


class _Status(msgspec.Struct):
    code: int | None = None
    reason: str | None = None
    message: str | None = None
    details: _StatusDetails | None = None


_object = msgspec.json.Decoder(_Object)
_list = msgspec.json.Decoder(_List)
_line = msgspec.json.Decoder(_Line)
_status = msgspec.json.Decoder(_Status)


class Lines:
    """Cuts lines out of chunks; holds what has no end yet, within a bound."""

    def __init__(self, most: int = MOST_EVENT_BYTES) -> None:
        self._most = most
        self._parts: list[bytes] = []
        self._held = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that this chunk completes, empty ones left out.

        Raises:
            WatchError: A line is longer than the bound.
        """
        *whole, rest = chunk.split(b"\n")
        if whole:
            whole[0] = b"".join([*self._parts, whole[0]])
            self._parts.clear()
            self._held = 0
        if rest:
            self._parts.append(rest)
            self._held += len(rest)
        if self._held > self._most:
            raise WatchError(f"an event of more than {self._most} bytes")
        return [line for line in whole if line.strip()]


def version_number(text: str | None) -> int | None:
    """A resourceVersion as an integer; None for what is none, which cannot be compared."""
    if text and text.isascii() and text.isdigit() and len(text) <= _LONGEST_VERSION:
        return int(text)
    return None


def read_page(body: bytes, resource: Resource) -> Page:
    """One answer to a list.

    Raises:
        WatchError: It is not a list of this kind; nothing may be concluded from it.
    """
    try:
        page = _list.decode(body)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise WatchError(f"the list is not readable: {shown(str(exc))}") from exc
    if page.kind != f"{resource.kind}List":
        raise WatchError(f"the list is a {shown(page.kind)}, not a {resource.kind}List")
    if not page.metadata.resource_version:
        raise WatchError("the list has no resourceVersion")
    items = tuple([_item(raw, resource)[0] for raw in page.items or ()])
    return Page(page.metadata.resource_version, page.metadata.token or "", items)


def read_event(line: bytes, resource: Resource) -> Event:
    """One line of a watch.

    Raises:
        ExpiredError: It is an ERROR that says so.
        WatchError: It is another ERROR, or not an event about an object of this kind.
    """
    try:
        event = _line.decode(line)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise WatchError(f"an event is not readable: {shown(str(exc))}") from exc
    if event.type == "ERROR":
        raise _refusal(_read_status(event.object), code=0)
    if event.type not in {"ADDED", "MODIFIED", "DELETED", "BOOKMARK"}:
        raise WatchError(f"an event of an unknown type, {shown(event.type)}")
    item, header = _item(event.object, resource)
    if header.kind is not None and header.kind != resource.kind:
        raise WatchError(f"an event about a {shown(header.kind)}, not a {resource.kind}")
    version = (header.metadata.resource_version or "") if header.metadata else ""
    if event.type == "BOOKMARK" and not version:
        raise WatchError("a bookmark without resourceVersion")
    return Event(event.type, item, version)


def refusal(status: int, retry_after: str, body: bytes) -> WatchError:
    """What an answer with another status than 200 means.

    Of the header Retry-After only seconds are understood. Of the body its beginning will do: a
    Status says more, anything else says nothing.
    """
    details = _read_status(body)
    if retry_after.isascii() and retry_after.isdigit():
        asked = details.details or _StatusDetails()
        asked.retry_after_seconds = int(retry_after[:9])
        details = msgspec.structs.replace(details, details=asked)
    return _refusal(details, code=status)


def _refusal(status: _Status, *, code: int) -> WatchError:
    code = code or status.code or 0
    try:
        phrase = http.HTTPStatus(code).phrase
    except ValueError:
        phrase = "error"
    said = _safe(status.message or status.reason or phrase)
    asked = status.details.retry_after_seconds if status.details else None
    retry_after = min(float(max(asked or 0, 0)), _LONGEST_RETRY)
    causes = (status.details.causes if status.details else None) or []
    if code == _GONE or any(cause.reason == _FUTURE for cause in causes):
        return ExpiredError(f"{code}: {said}", retry_after=retry_after)
    if code in {_UNAUTHORIZED, _FORBIDDEN}:
        return DeniedError(f"{code}: {said}", unknown=code == _UNAUTHORIZED)
    if 300 <= code < 400:  # noqa: PLR2004 (redirections, RFC 9110 section 15.4)
        said = "a redirect, which is not followed with our credentials"
    return WatchError(f"{code}: {said}", retry_after=retry_after)


def _safe(text: str) -> str:
    """Foreign words as safe text; long enough to say who is denied what, and why."""
    text = text[:_LONGEST_MESSAGE]
    return text if text.isprintable() else ascii(text)[1:-1]


def _read_status(body: bytes | msgspec.Raw) -> _Status:
    try:
        return _status.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return _Status()


def _item(raw: msgspec.Raw, resource: Resource) -> tuple[Item, _Object]:
    """The object undecoded; one whose metadata cannot be read gets no name, and is refused so."""
    try:
        header = _object.decode(raw)
    except (msgspec.ValidationError, RecursionError):
        header = _Object()
    meta = header.metadata or _Meta()
    manifest = Manifest(
        origin=resource.path,
        kind=resource.kind,
        api_version=resource.api_version,
        namespace=meta.namespace or "",
        name=meta.name or "",
        payload=raw,
    )
    return Item(manifest, version_number(meta.resource_version)), header
