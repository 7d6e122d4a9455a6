"""Rulesets and transactions as text for ``nft -f``, elements in the form ``nft list`` prints.

Every line of a script is one command or one element, so that the line nft complains of names the
object at fault.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping

from netplane.core.model.address import Family
from netplane.core.model.service import Protocol
from netplane.core.nftables.diff import Delta, ElementDelta, Entry
from netplane.core.nftables.layout import SETS, TABLE, Key, Keys, Ruleset, Value, Values, Verdict
from netplane.core.nftables.parse import affinity_declaration
from netplane.core.plan.port import Backend

_PROTOCOLS = {int(p): p.text for p in Protocol}
_KEYS = {layout.name: layout.keys for layout in SETS}
_VALUES = {layout.name: layout.values for layout in SETS}
_SLOTS = frozenset(name for name, values in _VALUES.items() if values is Values.SLOTS)
_HOST = {Family.IPV4: "/32", Family.IPV6: "/128"}
# The last guard: what an element may be made of, beside the quotes around its comment.
_ELEMENT = re.compile(r"[A-Za-z0-9 ./:-]*")
_COMMENT = re.compile(r"[A-Za-z0-9 ._/:-]*")


def table_of(family: Family) -> str:
    """Our table's family and name, as nft's commands take them."""
    return f"{'ip' if family is Family.IPV4 else 'ip6'} {TABLE}"


def render(ruleset: Ruleset) -> str:
    """The whole ruleset of one family as a script that replaces what is there.

    Deterministic: equal rulesets render to the same bytes. Loaded twice it changes nothing but
    the counters and the memory of session affinity, which start anew.
    """
    table = table_of(ruleset.family)
    lines = [f"table {table}", f"delete table {table}", "", ruleset.program.rstrip("\n"), ""]
    lines += _followers(ruleset.family, ruleset.affinity_sets, ruleset.chains)
    for layout in SETS:
        entries = ruleset.elements[layout.name].items()
        lines += _sorted_elements(ruleset.family, layout.name, entries)
    return "\n".join(lines) + "\n"


def script(delta: Delta) -> str:
    """The transaction as one script; "" where there is nothing to do."""
    table = table_of(delta.family)
    lines = [f"delete table {table}"] if delta.delete_table else []
    lines += [f"flush chain {table} {name}" for name in delta.flush_chains]
    for layout in reversed(SETS):
        if layout.name in delta.elements:
            lines += _deletions(delta.family, layout.name, delta.elements[layout.name])
    lines += [f"delete chain {table} {name}" for name in delta.delete_chains]
    lines += [f"delete set {table} {name}" for name in delta.delete_affinity_sets]
    lines += [delta.program.rstrip("\n")] if delta.program else []
    lines += _followers(delta.family, delta.add_affinity_sets, delta.chains)
    for layout in SETS:
        if layout.name in delta.elements:
            lines += _additions(delta.family, layout.name, delta.elements[layout.name])
    return "\n".join(lines) + "\n" if lines else ""


def _followers(
    family: Family, sets: Collection[str], chains: Mapping[str, tuple[str, ...]]
) -> list[str]:
    """The sets and chains that follow the Services, as one table block."""
    if not sets and not chains:
        return []
    lines = [f"table {table_of(family)} {{"]
    for name in sorted(sets):
        declaration = (f"\t\t{line}" for line in affinity_declaration(family))
        lines += (f"\tset {name} {{", *declaration, "\t}", "")
    for name in sorted(chains):
        lines += (f"\tchain {name} {{", *(f"\t\t{rule}" for rule in chains[name]), "\t}", "")
    lines[-1:] = ["}", ""]
    return lines


def _sorted_elements(family: Family, name: str, entries: Iterable[Entry]) -> list[str]:
    """The command that adds whole entries, in the order of their keys' text."""
    texts = [(key_text(name, key, family), value) for key, value in entries]
    texts.sort(key=lambda item: item[0])
    return _command("add", family, name, (t for k, v in texts for t in _entry(name, k, v)))


def _additions(family: Family, name: str, delta: ElementDelta) -> list[str]:
    keyed = ((key_text(name, key, family), value) for key, value in delta.add)
    whole = (text for key, value in keyed for text in _entry(name, key, value))
    slots = (
        _slot(key_text(name, key, family), slot, backend) for key, slot, backend in delta.add_slots
    )
    return _command("add", family, name, (*whole, *slots))


def _deletions(family: Family, name: str, delta: ElementDelta) -> list[str]:
    if delta.flush:
        kind = "set" if _VALUES[name] is Values.NONE else "map"
        return [f"flush {kind} {table_of(family)} {name}"]
    keys = []
    for key, value in delta.delete:
        text = key_text(name, key, family)
        if name in _SLOTS and isinstance(value, tuple):
            keys += [f"{text} . {slot}" for slot in range(len(value))]
        else:
            keys.append(text)
    keys += [f"{key_text(name, key, family)} . {slot}" for key, slot in delta.delete_slots]
    return _command("delete", family, name, keys)


def _command(verb: str, family: Family, name: str, elements: Iterable[str]) -> list[str]:
    """One command, an element a line."""
    listed = [f"\t{element}," for element in elements]
    return [f"{verb} element {table_of(family)} {name} {{", *listed, "}"] if listed else []


def element_texts(name: str, key: Key, value: Value, family: Family) -> list[str]:
    """The elements of one entry as ``nft list`` prints them, without counters."""
    return list(_entry(name, key_text(name, key, family), value))


def key_text(name: str, key: Key, family: Family) -> str:
    """A key as nft writes it: ``172.30.0.10 . tcp . 80``."""
    text = _key_text(_KEYS[name], key, family)
    assert _ELEMENT.fullmatch(text), f"{text!r:.100} must not reach a rule"
    return text


def _key_text(keys: Keys, key: Key, family: Family) -> str:
    match keys:
        case Keys.FRONTEND:
            return f"{key[0]} . {_PROTOCOLS[int(key[1])]} . {key[2]}"
        case Keys.PORT:
            return f"{_PROTOCOLS[int(key[0])]} . {key[1]}"
        case Keys.ADDRESS:
            return str(key[0])
        case Keys.FLOW:
            return f"{key[0]} . {key[1]} . {_PROTOCOLS[int(key[2])]} . {key[3]}"
        case Keys.SOURCE:
            network = str(key[3]).removesuffix(_HOST[family])
            return f"{key[0]} . {_PROTOCOLS[int(key[1])]} . {key[2]} . {network}"


def _entry(name: str, key: str, value: Value) -> Iterator[str]:
    """The elements of one entry: one, or one per slot."""
    if value is None:
        yield key
    elif isinstance(value, Verdict):
        yield _verdict(key, value)
    else:
        assert name in _SLOTS
        for slot, backend in enumerate(value):
            yield _slot(key, slot, backend)


def _slot(key: str, slot: int, backend: Backend) -> str:
    text = f"{key} . {slot} : {backend.address} . {backend.port}"
    assert _ELEMENT.fullmatch(backend.address), f"{text!r:.100} must not reach a rule"
    return text


def _verdict(key: str, verdict: Verdict) -> str:
    assert _COMMENT.fullmatch(verdict.comment), f"{verdict!r:.200} must not reach a rule"
    comment = f' comment "{verdict.comment}"' if verdict.comment else ""
    return f"{key}{comment} : {verdict_text(verdict.chain)}"


def verdict_text(chain: str) -> str:
    """A verdict as nft writes it."""
    return chain if chain in {"drop", "accept"} or " " in chain else f"goto {chain}"
