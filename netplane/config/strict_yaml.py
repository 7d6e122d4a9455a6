"""YAML as kube-proxy's strict decoding reads it: no key twice; no aliases, bounded depth."""

from __future__ import annotations

import yaml

_MAX_DEPTH = 32  # of nesting; a KubeProxyConfiguration has 3


def read(content: bytes) -> object:
    """The tree of builtins that a text stands for, null for an empty one.

    Raises:
        ValueError: It is not YAML, or more than is allowed here.
    """
    try:
        return _tree(content)
    except yaml.YAMLError as exc:
        raise ValueError(str(exc)) from exc


def _tree(content: bytes) -> object:
    depth = 0
    for event in yaml.parse(content, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed in a configuration")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_DEPTH:
            raise yaml.YAMLError(f"nested deeper than {_MAX_DEPTH} levels")
    root = yaml.compose(content, Loader=yaml.CSafeLoader)
    if root is None:
        return None
    _refuse_duplicates(root)
    return yaml.constructor.SafeConstructor().construct_document(root)


def _refuse_duplicates(node: yaml.Node) -> None:
    """Raise YAMLError where a mapping holds a key twice."""
    if isinstance(node, yaml.MappingNode):
        seen: set[object] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                line = key.start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: the key {key.value!r:.80} stands there twice")
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
            _refuse_duplicates(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_duplicates(item)
