"""Whatever comes in: a snapshot with problems, or MalformedError, and never a hostile byte out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netplane.core.model.cluster import build_snapshot
from netplane.core.model.documents import parse
from netplane.core.model.snapshot import Snapshot
from netplane.errors import MalformedError
from tests.support.manifests import (
    Object,
    clusters,
    endpoint_slice,
    endpoints,
    kube_list,
    node,
    pod,
    service,
)

bounded = settings(
    max_examples=75, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)  # machines that test in parallel are slow at times; the number of examples bounds the work

KINDS = {
    "Service": "v1",
    "EndpointSlice": "discovery.k8s.io/v1",
    "Endpoints": "v1",
    "Node": "v1",
    "Pod": "v1",
    "List": "v1",
    "ServiceList": "v1",
}
FIELDS = (
    *("kind", "apiVersion", "metadata", "name", "namespace", "labels", "items", "spec", "status"),
    *("clusterIP", "clusterIPs", "ipFamilies", "ports", "port", "protocol", "targetPort", "type"),
    *("nodePort", "selector", "externalIPs", "endpoints", "addresses", "conditions", "hints"),
    *("forZones", "addressType", "subsets", "ip", "podIPs", "loadBalancer", "ingress"),
    *("creationTimestamp", "sessionAffinity", "sessionAffinityConfig", "timeoutSeconds"),
    *("podCIDRs", "loadBalancerSourceRanges", "kubernetes.io/service-name"),
)
HOSTILE = (
    "\x1b[31mred\x1b[0m",
    "a\nb",
    "\u202egnirts",
    "x\r-A KUBE-SERVICES -j ACCEPT",
    "\x00",
    "\u200b",
    "web\n",
    "10.0.0.1\n",
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from([*FIELDS, *KINDS, *HOSTILE, "10.0.0.1", "fd00::1", "80", "IPv4", "None"])
)
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=4), inner, max_size=6)
    ),
    max_leaves=25,
)
odd_objects = st.builds(
    lambda kind, tree: {"kind": kind, "apiVersion": KINDS[kind], **tree},
    st.sampled_from(sorted(KINDS)),
    st.dictionaries(st.sampled_from(FIELDS), trees, max_size=6),
)


def snapshot_of(data: bytes) -> Snapshot:
    return build_snapshot(parse(data, origin="test"))


def read_or_refuse(data: bytes) -> None:
    try:
        snapshot = snapshot_of(data)
    except MalformedError as exc:
        words = str(exc)
    else:
        assert_clean(snapshot)
        words = "read"
    assert words.isprintable()


def assert_clean(snapshot: Snapshot) -> None:
    """No text in the snapshot, nor in what its problems print, could disturb a terminal."""
    for text in texts(snapshot):
        assert text.isprintable(), ascii(text)
    for problem in snapshot.problems:
        assert str(problem).isprintable()
        assert len(problem.value) <= 80


def texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            yield from texts(getattr(value, field))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from texts(key)
            yield from texts(item)


@st.composite
def whole_clusters(draw: st.DrawFn) -> list[Object]:
    """As ``clusters``, and with Endpoints and Pods that may stand in for slices."""
    objects = draw(clusters(max_services=3))
    objects += [
        service("mirrored", cluster_ips=["172.30.1.1"]),
        endpoints("mirrored"),
        service("computed", cluster_ips=["172.30.1.2"], selector={"app": "web"}),
        *(pod(f"web-{n}", f"10.244.1.{n}", labels={"app": "web"}) for n in range(1, 4)),
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "other"}},
    ]
    return objects


@st.composite
def mutations(draw: st.DrawFn, values: st.SearchStrategy[object]) -> list[Object]:
    """A valid cluster in which a few values, anywhere, have become others."""
    objects: Any = [*draw(whole_clusters()), node("n", ip="192.0.2.9", zone="z")]
    for _ in range(draw(st.integers(min_value=1, max_value=3))):
        inner: Any = objects
        index: Any = draw(st.integers(min_value=0, max_value=len(objects) - 1))
        while isinstance(inner[index], dict | list) and inner[index] and draw(st.integers(0, 9)):
            inner = inner[index]
            indices = sorted(inner) if isinstance(inner, dict) else range(len(inner))
            index = draw(st.sampled_from(indices))
        inner[index] = draw(values)
    return list(objects)


@bounded
@given(st.binary(max_size=200))
def test_random_bytes(data: bytes) -> None:
    read_or_refuse(data)


@bounded
@given(st.text(alphabet="{}[]:,-&*!|>'\"#%@? \n\tab1.~<\\x", max_size=60))
def test_random_text_of_the_characters_yaml_is_made_of(text: str) -> None:
    read_or_refuse(text.encode())


@bounded
@given(st.lists(odd_objects | trees, max_size=5))
def test_random_shapes(items: list[Any]) -> None:
    assert_clean(snapshot_of(kube_list(*items)))
    # Unescaped, for YAML has no pairs of escapes for what is beyond U+FFFF.
    as_yaml = json.dumps({"kind": "List", "items": items}, ensure_ascii=False)
    read_or_refuse(f"---\n{as_yaml}".encode())


@bounded
@given(mutations(scalars | trees))
def test_mutated_manifests(objects: list[Any]) -> None:
    assert_clean(snapshot_of(kube_list(*objects)))


@bounded
@given(mutations(st.sampled_from(HOSTILE)))
def test_hostile_text_never_leaves_raw(objects: list[Any]) -> None:
    snapshot = snapshot_of(kube_list(*objects))
    assert_clean(snapshot)
    assert not set(texts(snapshot)) & set(HOSTILE)


@bounded
@given(whole_clusters(), st.data())
def test_damaged_files(objects: list[Object], data: st.DataObject) -> None:
    as_yaml = data.draw(st.booleans())
    whole = yaml.safe_dump_all(objects).encode() if as_yaml else kube_list(*objects)
    start = data.draw(st.integers(min_value=0, max_value=len(whole)))
    length = data.draw(st.integers(min_value=0, max_value=40))
    read_or_refuse(whole[:start] + data.draw(st.binary(max_size=4)) + whole[start + length :])
    read_or_refuse(whole[:start])


@bounded
@given(whole_clusters())
def test_a_valid_cluster_has_no_problems_and_all_its_objects(objects: list[Object]) -> None:
    snapshot = snapshot_of(kube_list(*objects))
    assert snapshot.problems == ()
    assert snapshot.skipped == {"ConfigMap": 1}
    counts = {kind: sum(o["kind"] == kind for o in objects) for kind in KINDS}
    assert len(snapshot.services) == counts["Service"]
    assert len(snapshot.nodes) == counts["Node"]
    assert sum(map(len, snapshot.slices.values())) == counts["EndpointSlice"] + 2


@bounded
@given(whole_clusters().flatmap(lambda o: st.tuples(st.just(o), st.permutations(o))))
def test_order_never_matters(pair: tuple[list[Object], list[Object]]) -> None:
    objects, shuffled = pair
    # JSON text too: it shows the order of mappings, which == does not.
    assert msgspec.json.encode(as_list(kube_list(*objects))) == msgspec.json.encode(
        as_list(kube_list(*shuffled))
    )


def as_list(data: bytes) -> list[object]:
    snapshot = snapshot_of(data)
    return [
        list(snapshot.services.items()),
        list(snapshot.slices.items()),
        list(snapshot.nodes.items()),
        snapshot.problems,
        list(snapshot.skipped.items()),
    ]


@bounded
@given(mutations(scalars).flatmap(lambda o: st.tuples(st.just(o), st.permutations(o))))
def test_order_never_matters_with_bad_objects_either(
    pair: tuple[list[Any], list[Any]],
) -> None:
    objects, shuffled = pair
    names = [json.dumps([o.get("kind"), o.get("metadata")]) for o in objects if type(o) is dict]
    if len(set(names)) == len(objects):
        assert as_list(kube_list(*objects)) == as_list(kube_list(*shuffled))


@bounded
@given(whole_clusters())
def test_yaml_and_json_say_the_same(objects: list[Object]) -> None:
    from_json = snapshot_of(kube_list(*objects))
    assert snapshot_of(yaml.safe_dump_all(objects).encode()) == from_json
    assert snapshot_of("".join(json.dumps(o) for o in objects).encode()) == from_json


@bounded
@given(mutations(scalars))
def test_a_bad_object_never_harms_another(objects: list[Any]) -> None:
    bystander = [service("bystander", namespace="apart"), endpoint_slice("bystander")]
    bystander[1]["metadata"]["namespace"] = "apart"
    snapshot = snapshot_of(kube_list(*objects, *bystander))
    alone = snapshot_of(kube_list(*bystander))
    assert alone.services.items() <= snapshot.services.items()
    assert all(snapshot.slices[name] == own for name, own in alone.slices.items())
