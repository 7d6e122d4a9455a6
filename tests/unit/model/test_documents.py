"""What files are read into objects, and which are refused as a whole, and in which words."""

from __future__ import annotations

import json

import pytest
import yaml

from netplane.core.model.documents import parse
from netplane.errors import MalformedError

A = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "shop"}}
B = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "b"}}


def identities(data: bytes | str) -> list[tuple[str, str, str, str]]:
    text = data.encode() if isinstance(data, str) else data
    return [(m.kind, m.api_version, m.namespace, m.name) for m in parse(text, origin="x.yaml")]


BOTH = [("Service", "v1", "shop", "a"), ("Node", "v1", "", "b")]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param("", [], id="empty"),
        pytest.param("---\n---\n# nothing\n", [], id="empty-documents"),
        pytest.param(json.dumps(A), BOTH[:1], id="json"),
        pytest.param(json.dumps(A, indent=4), BOTH[:1], id="json-indented"),
        pytest.param("\ufeff" + json.dumps(A), BOTH[:1], id="byte-order-mark"),
        pytest.param(json.dumps(A) + json.dumps(B), BOTH, id="json-one-after-the-other"),
        pytest.param(json.dumps(A, indent=1) + "\n\n" + json.dumps(B) + "\n", BOTH, id="jq"),
        pytest.param(json.dumps(A) + "\n---\n" + json.dumps(B), BOTH, id="json-between-dashes"),
        pytest.param(json.dumps(A) + "\n---\nkind: Node\n", [BOTH[0], ("Node", "", "", "")],
                     id="json-then-yaml"),
        pytest.param("kind: Node\n---\n" + json.dumps(A), [("Node", "", "", ""), BOTH[0]],
                     id="yaml-then-json"),
        pytest.param("{kind: Node}", [("Node", "", "", "")], id="yaml-flow"),
        pytest.param("kind: Node\r\nmetadata:\r\n  name: b\r\n", [("Node", "", "", "b")],
                     id="carriage-returns"),
        pytest.param(json.dumps({"kind": "List", "items": [A, B]}), BOTH, id="list"),
        pytest.param(f"kind: List\nitems:\n- {json.dumps(A)}\n- {json.dumps(B)}\n", BOTH,
                     id="yaml-list"),
        pytest.param(json.dumps({"kind": "List", "items": [{"kind": "List", "items": [A]}, B]}),
                     BOTH, id="list-in-a-list"),
        pytest.param(json.dumps({"kind": "List", "items": None}), [], id="null-items"),
        pytest.param("kind: List\nitems:\n", [], id="null-items-yaml"),
        pytest.param(
            json.dumps({"kind": "ServiceList", "apiVersion": "v1",
                        "items": [{"metadata": {"name": "a", "namespace": "shop"}}]}),
            BOTH[:1], id="typed-list-gives-its-items-their-kind"),
        pytest.param("kind: ServiceList\napiVersion: v1\nitems:\n- metadata: {name: a}\n",
                     [("Service", "v1", "", "a")], id="typed-list-yaml"),
        pytest.param(json.dumps({"kind": "AllowList", "apiVersion": "x/v1"}),
                     [("AllowList", "x/v1", "", "")], id="a-kind-that-only-ends-in-list"),
        pytest.param(json.dumps({"kind": "List", "items": [5, None, {"kind": 3, "metadata": []}]}),
                     [("", "", "", "")] * 3, id="items-of-any-shape"),
        pytest.param("kind: List\nitems: [5, null, {kind: 3, metadata: []}]",
                     [("", "", "", "")] * 3, id="items-of-any-shape-yaml"),
    ],
)  # fmt: skip
def test_the_objects_in_a_file(data: str, expected: list[tuple[str, str, str, str]]) -> None:
    assert identities(data) == expected


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        aliases = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} [{aliases}]")
    return "\n".join(lines)


def ladder(levels: int) -> str:
    """Each anchor holds the one before it, so that the last unfolds ever deeper."""
    lines = ["a0: &a0 {" + "k: {" * 30 + "}" * 30 + "}"]
    lines += [
        f"a{n}: &a{n} {{" + "k: {" * 30 + f"k: *a{n - 1}" + "}" * 31 for n in range(1, levels)
    ]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param('{"kind": "Service",', "line 1: not JSON: Expecting property", id="cut-json"),
        pytest.param('{"kind": "List", "items": [{"kind": "Node"}\n', "line 2: not JSON",
                     id="cut-list"),
        pytest.param('{"kind": "Node"}\n{"kind"', "line 2: not JSON: Expecting ':'",
                     id="cut-second"),
        pytest.param('{"kind": "Node"} trailing', "line 1: not JSON", id="trailing"),
        pytest.param('{"a": NaN}', "NaN is not a JSON number", id="nan"),
        pytest.param('{"a": -Infinity}', "-Infinity is not a JSON number", id="infinity"),
        pytest.param('{"a": "\\ud800"}', "in the object at line 1", id="half-a-surrogate-pair"),
        pytest.param('{"a":' + "[" * 50_000 + "]" * 50_000 + "}", "nested too deeply",
                     id="deep-json"),
        pytest.param('{"a":' * 50_000, "nested too deeply", id="deep-and-cut-json"),
        pytest.param("kind: Service\nspec: {", "line 3: not YAML", id="cut-yaml"),
        pytest.param("kind: 'Service", "line 1: not YAML", id="cut-quote"),
        pytest.param("a: 1\nb: 2\na: 3\n", "line 3: the key a is here twice", id="key-twice"),
        pytest.param("a:\n  b: {c: 1, 'c': 2}", "line 2: the key c is here twice",
                     id="key-twice-quoted"),
        pytest.param('"\\x1b[2J": 1\n"\\x1b[2J": 2', "the key \\x1b[2J is here twice",
                     id="hostile-key-is-escaped"),
        pytest.param('{"a": 1, "b": {"c": 1, "\\u0063": 2}}', "line 1: the key c is here twice",
                     id="key-twice-json"),
        pytest.param('{"kind": "Node"}\n{"\\u001b": 1, "\\u001b": 2}',
                     "line 2: the key \\x1b is here twice", id="key-twice-in-the-second"),
        pytest.param('{"kind": "List", "items": [{"kind": "Node", "kind": "Pod"}]}',
                     "the key kind is here twice", id="key-twice-in-an-item"),
        pytest.param(bomb(12), "line 5: aliases stand for more than 100000 values", id="bomb"),
        pytest.param(ladder(5), "line 4: nested more than 100 levels deep", id="deep-by-aliases"),
        pytest.param("a: &a [*a]", "the alias *a is not defined before it, or holds itself",
                     id="alias-to-itself"),
        pytest.param("a: *b", "the alias *b is not defined", id="alias-to-nothing"),
        pytest.param("&a [x]: 1", "line 1: a key must be a scalar", id="list-as-key"),
        pytest.param("a: &a [x]\n*a : 1", "line 2: a key must be a string", id="alias-as-key"),
        pytest.param("<<: [1]", "<< takes a mapping", id="merge-of-numbers"),
        pytest.param("a: " + "[" * 150, "nested more than 100 levels deep", id="deep-yaml"),
        # A newer libyaml has a limit of its own, which it may meet first: "nesting depth".
        pytest.param("a: " + "[" * 5_000, "nest", id="very-deep-yaml"),
        pytest.param("a: .nan", "line 1: .nan is not a number that JSON has", id="yaml-nan"),
        pytest.param("a: -.INF", "line 1: -.INF is not a number that JSON has", id="yaml-inf"),
        pytest.param("a: !!float .nan", ".nan is not a number", id="yaml-nan-tagged"),
        pytest.param("a: !!python/name:os.system x", "tag:yaml.org,2002:python/name:os.system",
                     id="python-tag"),
        pytest.param("a: !custom {}", "the tag !custom is not supported", id="custom-tag"),
        pytest.param("a: \x01", "line 1: not YAML: control characters are not allowed",
                     id="control-character"),
        pytest.param("[1]", "line 1: the document is not an object", id="a-list"),
        pytest.param("a: 1\n---\n- 1\n", "line 2: the document is not an object",
                     id="a-list-second"),
        pytest.param("hello", "the document is not an object", id="text"),
        pytest.param(b"a: 1\nb: \xff\n", "line 2: not UTF-8 text", id="not-utf-8"),
        pytest.param("{}".encode("utf-16"), "line 1: not UTF-8 text", id="utf-16"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_readable(data: str | bytes, words: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse(data.encode() if isinstance(data, str) else data, origin="dir/x.yaml")
    message = str(caught.value)
    assert message.startswith("dir/x.yaml: ")
    assert words in message
    assert message.isprintable()


@pytest.mark.parametrize("json_text", [True, False])
def test_lists_nested_too_deeply(json_text: bool) -> None:
    nested: object = {"kind": "Node"}
    for _ in range(10):
        nested = {"kind": "List", "items": [nested]}
    text = json.dumps(nested) if json_text else "---\n" + json.dumps(nested)
    with pytest.raises(MalformedError, match="lists nested more than 8 deep"):
        parse(text.encode(), origin="x")


def test_a_hostile_file_name_is_escaped() -> None:
    with pytest.raises(MalformedError) as caught:
        parse(b"[]", origin="\x1b[31m.yaml")
    assert str(caught.value).startswith("\\x1b[31m.yaml: line 1")


def test_without_libyaml_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(yaml, "CSafeLoader")
    with pytest.raises(MalformedError, match="needs PyYAML built with libyaml"):
        parse(b"a: 1", origin="x")


YAML = """\
apiVersion: v1
kind: Service
metadata: &meta
  creationTimestamp: 2026-01-02T03:04:05Z
  name: a
  labels: {1: one, on: "yes", 0x10: hex}
spec:
  ports: &ports
  - {port: 080, nodePort: 30_000, targetPort: 0x1F90}
  merged: {<<: [{a: 1, b: 2}, {b: 3, c: 4}], c: 5}
  again: *ports
  text: !!str 12
  block: |
    two
    lines
"""


def test_yaml_means_what_kubectl_reads() -> None:
    (manifest,) = parse(YAML.encode(), origin="x")
    ports = [{"port": 80, "nodePort": 30000, "targetPort": 8080}]
    assert manifest.payload == {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "name": "a",
            "labels": {"1": "one", "on": "yes", "0x10": "hex"},
        },
        "spec": {
            "ports": ports,
            "merged": {"a": 1, "b": 2, "c": 5},
            "again": ports,
            "text": "12",
            "block": "two\nlines\n",
        },
    }


def test_the_alias_budget_allows_ordinary_sharing() -> None:
    text = "a: &a [1, 2, 3]\nb: [" + ", ".join(["*a"] * 1000) + "]\n"
    (manifest,) = parse(text.encode(), origin="x")
    assert isinstance(manifest.payload, dict)
    assert manifest.payload["b"] == [[1, 2, 3]] * 1000
