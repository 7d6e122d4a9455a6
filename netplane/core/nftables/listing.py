"""The text of a table, as ``nft list table`` prints it and our templates write it, in blocks.

Both go through this one reader, so "what I wrote" and "what is there" compare block by block and
line by line: indentation, blank lines, nft's ``#`` comments and the order of blocks drop out.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

_OPEN = " {"
_ELEMENTS = "elements = { "


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """One table, cut into blocks.

    Attributes:
        lines: What stands in the table itself: its comment, its flags.
        sets: Sets and maps by name: ``set`` or ``map``, then the lines of the declaration.
        chains: Chains by name, each its lines; a base chain's first line is its hook.
        bodies: The elements of a set by its name, as printed between the braces.
        others: Objects of kinds we never make ("flowtable f").
    """

    lines: tuple[str, ...]
    sets: dict[str, tuple[str, ...]]
    chains: dict[str, tuple[str, ...]]
    bodies: dict[str, str]
    others: tuple[str, ...]


def read_listing(text: str) -> Listing:
    """Cut the text of one table into blocks."""
    listing = Listing(lines=(), sets={}, chains={}, bodies={}, others=())
    lines = iter(text.splitlines())
    own: list[str] = []
    others: list[str] = []
    for line in lines:
        kind, _, name = line.strip().removesuffix(_OPEN).partition(" ")
        if not line.endswith(_OPEN):
            own.extend(_kept(line))
        elif kind == "table":
            continue
        else:
            block, body = _block(lines)
            name = _printable(name)
            if kind == "chain":
                listing.chains[name] = block
            elif kind in {"set", "map"}:
                listing.sets[name] = (kind, *block)
                listing.bodies[name] = body
            else:
                others.append(f"{kind} {name}")
    return msgspec.structs.replace(listing, lines=tuple(own), others=tuple(others))


def _block(lines: Iterator[str]) -> tuple[tuple[str, ...], str]:
    """Read to the end of a block: its lines, and the elements apart."""
    block: list[str] = []
    body = ""
    for line in lines:
        stripped = line.strip()
        if stripped == "}":
            break
        if stripped.startswith(_ELEMENTS):
            body = _body(stripped.removeprefix(_ELEMENTS), lines)
        else:
            block.extend(_kept(stripped))
    return tuple(block), body


def _body(first: str, lines: Iterator[str]) -> str:
    """Read to the end of ``elements = { ... }``, which closes on the last element's line."""
    body = [first]
    while not body[-1].endswith(" }"):
        body.append(next(lines).lstrip())
    return "\n".join(body).removesuffix(" }")


def _kept(line: str) -> list[str]:
    stripped = line.strip()
    if not stripped or stripped == "}" or stripped.startswith("#"):
        return []
    return [_printable(stripped)]


def _printable(text: str) -> str:
    """Text as it is, or escaped: a rule added by hand may have anything in its comment."""
    return text if text.isprintable() else ascii(text)[1:-1]
