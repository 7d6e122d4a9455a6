"""Lists read in pieces: the same objects as from the whole text, or left to the careful reader."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from netplane.core.model import json_list, wire
from netplane.core.model.cluster import build_snapshot
from netplane.core.model.documents import parse, parse_pieces

SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "a", "namespace": "shop"},
    "spec": {"clusterIP": "172.30.0.10", "ports": [{"name": "http", "port": 80}]},
}
SLICE = {
    "addressType": "IPv4",
    "apiVersion": "discovery.k8s.io/v1",
    "endpoints": [{"addresses": ["10.244.1.11"]}, {"addresses": ["10.244.1.12"]}],
    "kind": "EndpointSlice",
    "metadata": {
        "annotations": {"note": '},{"apiVersion": "}]}", \u00e4\u20ac'},
        "labels": {"kubernetes.io/service-name": "a"},
        "name": "a-1",
        "namespace": "shop",
        "ownerReferences": [{"apiVersion": "v1", "name": "a"}, {"apiVersion": "v1", "name": "b"}],
    },
    "ports": [{"name": "http", "port": 8080}],
}
NODE = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}
POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "shop"}}
BAD = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "bad"}, "spec": {"ports": 3}}
NO_KIND = {"metadata": {"name": "x", "namespace": "shop"}}
LIST = {"apiVersion": "v1", "items": [SERVICE, SLICE, NODE], "kind": "List", "metadata": {}}


def in_pieces(text: bytes, size: int) -> list[bytes]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def listed(*items: Any, **fields: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "items": [*items], "kind": "List", "metadata": {}, **fields}


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(listed(), id="no-items"),
        pytest.param(listed(SERVICE, SLICE, NODE), id="each-kind"),
        pytest.param(listed(*[SERVICE, SLICE, NODE, POD, BAD, NO_KIND] * 5), id="mixed"),
        pytest.param(listed(SLICE, listed(SERVICE, POD), NODE), id="a-list-in-a-list"),
        pytest.param(listed(5, None, [], "]}", SERVICE), id="items-of-any-shape"),
        pytest.param({"kind": "ServiceList", "apiVersion": "v1", "items": [NO_KIND, SERVICE]},
                     id="typed"),
        pytest.param(listed(NO_KIND, SERVICE, kind="ServiceList"), id="typed-said-at-the-end"),
        pytest.param(listed({**SLICE, "apiVersion": None}, kind="EndpointSliceList",
                            apiVersion="discovery.k8s.io/v1"), id="version-of-the-list"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("indent", [None, 1, 4])
@pytest.mark.parametrize("separators", [None, (",", ":")])
def test_pieces_of_any_size_give_the_same_objects(
    document: dict[str, Any], indent: int | None, separators: tuple[str, str] | None
) -> None:
    text = json.dumps(document, indent=indent, separators=separators, ensure_ascii=False).encode()
    whole = parse(text, origin="x")
    for size in (100, 333, 700, len(text)):
        found = parse_pieces(in_pieces(text, size), origin="x")
        if found is None:
            assert size < len(text), "a list that is read at once needs no cuts"
            continue
        assert list(map(identity, found)) == list(map(identity, whole))
        assert build_snapshot(found) == build_snapshot(whole)


def identity(manifest: Any) -> tuple[str, ...]:
    return (
        manifest.origin,
        manifest.kind,
        manifest.api_version,
        manifest.namespace,
        manifest.name,
    )


def as_it_is(item: wire.Listed) -> wire.Listed:
    return item


def test_a_large_list_is_cut_between_its_items_and_decoded_on_the_way() -> None:
    text = json.dumps(listed(*[SERVICE] * 70, *[SLICE] * 70), indent=4).encode()
    taken = []

    def pieces() -> Any:
        for piece in in_pieces(text, 4096):
            taken.append(len(piece))
            yield piece

    found = json_list.read_list(pieces(), as_it_is)
    assert found is not None
    assert len(taken) > 5
    kinds = [type(item) for item in found.items]
    assert set(kinds[:40]) == {wire.ListedService}
    assert set(kinds[-40:]) == {wire.ListedEndpointSlice}
    assert len(kinds) == 140
    assert msgspec.json.decode(found.around) == listed()


def test_a_list_that_offers_nowhere_to_cut_is_read_all_the_same() -> None:
    odd = [{"spec": SERVICE["spec"], **SERVICE} for _ in range(200)]
    text = json.dumps(listed(*odd), indent=4).encode()
    found = json_list.read_list(in_pieces(text, 4096), as_it_is)
    assert found is not None
    assert len(found.items) == 200


def test_one_odd_object_leaves_its_chunk_undecoded_and_no_other() -> None:
    items = [SERVICE] * 40
    text = json.dumps(listed(*items, POD, *items), indent=4).encode()
    found = json_list.read_list(in_pieces(text, 2048), as_it_is)
    assert found is not None
    raw = [index for index, item in enumerate(found.items) if isinstance(item, msgspec.Raw)]
    assert 40 in raw
    assert len(raw) < 40


GOOD = json.dumps(LIST)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("kind: List\nitems: []\n", id="yaml"),
        pytest.param(json.dumps(SERVICE), id="one-object"),
        pytest.param("[" + GOOD + "]", id="an-array"),
        pytest.param(GOOD + GOOD, id="two-lists"),
        pytest.param("\ufeff" + GOOD, id="byte-order-mark"),
        pytest.param(GOOD[:-1], id="not-closed"),
        pytest.param(GOOD.replace("[", "[,", 1), id="a-comma-too-many"),
        pytest.param(GOOD.replace("[", "[]", 1), id="closed-too-early"),
        pytest.param('{"a": ' + GOOD + "}", id="a-list-inside-of-something"),
        pytest.param(GOOD[:-1] + ', "items": []}', id="items-twice"),
        pytest.param(GOOD[:-1] + ', "\\u0069tems": []}', id="items-twice-escaped"),
        pytest.param(json.dumps({**LIST, "kind": "Deployment"}), id="items-of-no-list"),
        pytest.param(json.dumps({"items": [SERVICE]}), id="no-kind"),
        pytest.param('{"kind": "List", "items": [' + "[" * 9999 + "]" * 9999 + "]}", id="deep"),
        pytest.param(json.dumps({"kind": "List", "items": None}), id="null-items"),
    ],
)  # fmt: skip
def test_anything_else_is_left_to_the_careful_reader(text: str) -> None:
    assert parse_pieces([text.encode()], origin="x") is None


@pytest.mark.parametrize("where", ['"shop"', '"List"', '"v1"'])
def test_bytes_that_are_no_text_are_left_to_the_careful_reader(where: str) -> None:
    text = GOOD.replace(where, '"\u00f6"').encode("latin-1")
    assert parse_pieces([text], origin="x") is None
