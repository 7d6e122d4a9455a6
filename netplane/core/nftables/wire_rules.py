"""Chains and their rules to messages: the few forms that follow the Services.

A commit that only needs a new ``pick-N`` chain should not start nft. The rules understood here are
those of the pick chains in templates/nftables/chains.nft.j2, and gotos, recognised in the form
that ``nft list`` prints; the bytes are those that nft 1.0.6 sends for them.
"""

from __future__ import annotations

import re
from typing import Final

from netplane.core.model.address import Family
from netplane.core.nftables.wire import (
    TABLE_ATTRIBUTE,
    Message,
    MessageFlag,
    MessageType,
    attribute,
    nested,
    number,
    text,
)
from netplane.core.nftables.wire_elements import (
    NFT_GOTO,
    NFTA_DATA_VALUE,
    NFTA_DATA_VERDICT,
    NFTA_LIST_ELEM,
    NFTA_VERDICT_CHAIN,
    NFTA_VERDICT_CODE,
)
from netplane.core.nftables.wire_keys import ADDRESS_SIZE, SLOT

NFTA_CHAIN_NAME: Final = 3
NFTA_RULE_CHAIN: Final = 2
NFTA_RULE_EXPRESSIONS: Final = 4
NFTA_RULE_USERDATA: Final = 7
NFTA_EXPR_NAME: Final = 1
NFTA_EXPR_DATA: Final = 2
_WORD: Final = 4  # bytes of a 32-bit register
_REG_VERDICT: Final = 0
_REG_1: Final = 1  # NFT_REG_1, 16 bytes, the same place as NFT_REG32_00
_REG32_00: Final = 8
_META_MARK: Final = 3  # NFT_META_MARK
_META_L4PROTO: Final = 16  # NFT_META_L4PROTO
_NETWORK_HEADER: Final = 1  # NFT_PAYLOAD_NETWORK_HEADER
_TRANSPORT_HEADER: Final = 2  # NFT_PAYLOAD_TRANSPORT_HEADER
_DESTINATION_OFFSET: Final = {Family.IPV4: 16, Family.IPV6: 24}
_NFPROTO: Final = {Family.IPV4: 2, Family.IPV6: 10}
_ALL: Final = 0xFFFFFFFF
_NFT_RETURN: Final = -5

_MARK = re.compile(r"meta mark set meta mark \| (0x[0-9a-f]{1,8})")
_PICK = re.compile(
    r"dnat (?P<ip>ip6?) to (?:(?P<address>ip6?) daddr \. )?meta l4proto \. th dport"
    r" \. numgen random mod (?P<count>[0-9]{1,5}) map @(?P<map>[a-z0-9-]{1,63})"
)
_GOTO = re.compile(r"goto ([a-z0-9-]{1,127})")


def new_chain(family: Family, name: str) -> Message:
    """The message that makes a regular chain."""
    return Message(
        MessageType.NFT_MSG_NEWCHAIN,
        MessageFlag.NLM_F_CREATE,
        family,
        TABLE_ATTRIBUTE + text(NFTA_CHAIN_NAME, name),
        chain=name,
    )


def delete_chain(family: Family, name: str) -> tuple[Message, Message]:
    """The messages that delete a chain's rules and then the chain, which nothing may point to."""
    flushed = TABLE_ATTRIBUTE + text(NFTA_RULE_CHAIN, name)
    deleted = TABLE_ATTRIBUTE + text(NFTA_CHAIN_NAME, name)
    return (
        Message(MessageType.NFT_MSG_DELRULE, 0, family, flushed, chain=name),
        Message(MessageType.NFT_MSG_DELCHAIN, 0, family, deleted, chain=name),
    )


def new_rule(family: Family, chain: str, rule: str) -> Message | None:
    """The message that appends a rule, given as nft lists it; None for a form not known here."""
    expressions = _expressions(family, rule)
    if expressions is None:
        return None
    return Message(
        MessageType.NFT_MSG_NEWRULE,
        MessageFlag.NLM_F_CREATE | MessageFlag.NLM_F_APPEND,
        family,
        TABLE_ATTRIBUTE
        + text(NFTA_RULE_CHAIN, chain)
        + nested(NFTA_RULE_EXPRESSIONS, *expressions),
        chain=chain,
    )


def new_chains(family: Family, chains: dict[str, tuple[str, ...]]) -> list[Message] | None:
    """The messages that make chains with their rules, all chains first (rules may go to them).

    None where a rule has a form that only nft can translate: then all of them are nft's job.
    """
    messages = [new_chain(family, name) for name in chains]
    for name, rules in chains.items():
        for rule in rules:
            message = new_rule(family, name, rule)
            if message is None:
                return None
            messages.append(message)
    return messages


def commented_return(comment: str) -> bytes:
    """The attributes of a rule ``return comment "..."``, after those that name its chain."""
    verdict = nested(NFTA_DATA_VERDICT, number(NFTA_VERDICT_CODE, _NFT_RETURN & _ALL))
    returns = _expression("immediate", number(1, _REG_VERDICT), nested(2, verdict))
    raw = comment.encode() + b"\0"
    # NFTNL_UDATA_RULE_COMMENT, a type-length-value of one byte each.
    userdata = attribute(NFTA_RULE_USERDATA, bytes((0, len(raw))) + raw)
    return nested(NFTA_RULE_EXPRESSIONS, returns) + userdata


def _expressions(family: Family, rule: str) -> tuple[bytes, ...] | None:
    if match := _MARK.fullmatch(rule):
        return _mark(int(match[1], 16))
    if match := _GOTO.fullmatch(rule):
        return (_goto(match[1]),)
    match = _PICK.fullmatch(rule)
    word = "ip" if family is Family.IPV4 else "ip6"
    if match is None or match["ip"] != word or match["address"] not in {None, word}:
        return None
    return _pick(
        family, match["map"], int(match["count"]), with_address=match["address"] is not None
    )


def _mark(bits: int) -> tuple[bytes, ...]:
    """``meta mark set meta mark | bits``: (mark & ~bits) ^ bits."""
    return (
        _expression("meta", number(2, _META_MARK), number(1, _REG_1)),
        _expression(
            "bitwise",
            number(1, _REG_1),
            number(2, _REG_1),
            number(6, 0),  # NFT_BITWISE_BOOL
            number(3, _WORD),
            nested(4, _host_number(~bits & _ALL)),
            nested(5, _host_number(bits)),
        ),
        _expression("meta", number(2, _META_MARK), number(3, _REG_1)),
    )


def _pick(family: Family, name: str, count: int, *, with_address: bool) -> tuple[bytes, ...]:
    """``dnat to [ip daddr .] meta l4proto . th dport . numgen random mod N map @name``.

    The key's fields are loaded side by side. A first field that is 4 bytes of a 16-byte register
    is named as that register, so the fields after it have the numbers nft gives them.
    """
    size = ADDRESS_SIZE[family]
    key = []
    # 16-byte registers are numbered 1..4, their 32-bit parts 8..23 (enum nft_registers).
    word = 0
    if with_address:
        key.append(_payload(_REG_1, _NETWORK_HEADER, _DESTINATION_OFFSET[family], size))
        word = size // _WORD
    key.append(_expression("meta", number(2, _META_L4PROTO), number(1, _register(word))))
    key.append(_payload(_register(word + 1), _TRANSPORT_HEADER, 2, 2))
    key.append(
        _expression(
            "numgen",
            number(1, _register(word + 2)),
            number(2, count),
            number(3, 1),  # NFT_NG_RANDOM
            number(4, 0),
        )
    )
    lookup = _expression("lookup", number(2, _REG_1), number(3, _REG_1), text(1, name))
    nat = _expression(
        "nat",
        number(1, 1),  # NFT_NAT_DNAT
        number(2, _NFPROTO[family]),
        number(3, _REG_1),
        number(5, _register(size // _WORD)),
    )
    return (*key, lookup, nat)


def _register(word: int) -> int:
    """The number of the register that starts at this 32-bit word, as nft chooses it."""
    return _REG_1 + word // 4 if word % 4 == 0 else _REG32_00 + word


def _payload(register: int, base: int, offset: int, length: int) -> bytes:
    return _expression(
        "payload", number(1, register), number(2, base), number(3, offset), number(4, length)
    )


def _goto(chain: str) -> bytes:
    verdict = nested(
        NFTA_DATA_VERDICT,
        number(NFTA_VERDICT_CODE, NFT_GOTO & _ALL),
        text(NFTA_VERDICT_CHAIN, chain),
    )
    return _expression("immediate", number(1, _REG_VERDICT), nested(2, verdict))


def _expression(name: str, *attributes: bytes) -> bytes:
    data = nested(NFTA_EXPR_DATA, *attributes)
    return nested(NFTA_LIST_ELEM, text(NFTA_EXPR_NAME, name), data)


def _host_number(value: int) -> bytes:
    """A value for a register that holds the mark, which is in host order."""
    return attribute(NFTA_DATA_VALUE, SLOT.pack(value))
