"""The record: what netplane notes in a table about what it installed there.

A fresh process finds it and need not ask nft, or read what nobody has touched:

    kernel       digest of the table's structure as the kernel tells it, read back after the write
    text         digest of the text which that structure was made from
    elements     digest of the elements that were wanted; NOTHING where some were refused
    generation   of the ruleset once the record was written

Where ``generation`` is still the kernel's, nobody has written to nftables since. Where ``kernel``
still holds, nobody has edited the table's rules or declarations. Anything else is looked at anew,
so a record can be lost or be wrong in no worse way than to cost time.

It is the comment of a rule in a chain that no packet reaches.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from netplane.core.model.address import Family
from netplane.core.nftables.layout import Elements, Ruleset
from netplane.core.nftables.program import RECORD_CHAIN, Pick
from netplane.core.nftables.wire import TABLE_ATTRIBUTE, Message, MessageFlag, MessageType, text
from netplane.core.nftables.wire_rules import NFTA_RULE_CHAIN, commented_return, new_chain

_DIGITS: Final = 16
#: In the place of a digest: there is nothing to go by.
NOTHING: Final = "0" * _DIGITS

_RECORD = re.compile(
    rb"kernel ([0-9a-f]{16}) text ([0-9a-f]{16}) elements ([0-9a-f]{16}) generation ([0-9]{1,10})"
)
_ENCODER = msgspec.msgpack.Encoder()
_THIS_CHAIN: Final = TABLE_ATTRIBUTE + text(NFTA_RULE_CHAIN, RECORD_CHAIN)


class Record(NamedTuple):
    """See the module."""

    kernel: str
    text: str
    elements: str
    generation: int

    def __str__(self) -> str:
        return (
            f"kernel {self.kernel} text {self.text}"
            f" elements {self.elements} generation {self.generation}"
        )


class Wanted(NamedTuple):
    """What a record says of a ruleset that is installed."""

    text: str
    elements: str

    @classmethod
    def of(cls, ruleset: Ruleset) -> Wanted:
        """The digests of a ruleset."""
        return cls(text_digest(ruleset), elements_digest(ruleset.elements))


def text_digest(ruleset: Ruleset) -> str:
    """The digest of the text that a table's structure is made from, pick chains left out."""
    lines = [ruleset.program]
    lines += sorted(ruleset.affinity_sets)
    for name, rules in sorted(ruleset.chains.items()):
        if Pick.parse(name) is None:
            lines += (name, *rules)
    return digest(line.encode() for line in lines)


def elements_digest(elements: Elements) -> str:
    """The digest of elements as ``compile_family`` orders them."""
    return digest([_ENCODER.encode(elements)])


def read_request(family: Family) -> Message:
    """The message that asks for the record's rule."""
    flags = MessageFlag.NLM_F_DUMP
    return Message(MessageType.NFT_MSG_GETRULE, flags, family, _THIS_CHAIN, chain=RECORD_CHAIN)


def read_record(comment: bytes) -> Record | None:
    """The record in the user data of a rule."""
    match = _RECORD.search(comment)
    if match is None:
        return None
    kernel, made, elements = (group.decode() for group in match.group(1, 2, 3))
    return Record(kernel, made, elements, int(match[4]))


def write_record(family: Family, record: Record, *, exists: bool) -> list[Message]:
    """The messages that note a record, in the place of one that is there (``exists``)."""
    flush = Message(MessageType.NFT_MSG_DELRULE, 0, family, _THIS_CHAIN, chain=RECORD_CHAIN)
    rule = Message(
        MessageType.NFT_MSG_NEWRULE,
        MessageFlag.NLM_F_CREATE | MessageFlag.NLM_F_APPEND,
        family,
        _THIS_CHAIN + commented_return(str(record)),
        chain=RECORD_CHAIN,
    )
    return [flush if exists else new_chain(family, RECORD_CHAIN), rule]


def digest(pieces: Iterable[bytes]) -> str:
    """Hexadecimal digits for byte strings in this order."""
    found = hashlib.sha256()
    for piece in pieces:
        found.update(len(piece).to_bytes(4, "big"))
        found.update(piece)
    return found.hexdigest()[:_DIGITS]
