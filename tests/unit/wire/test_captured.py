"""The bytes are those that nft 1.0.6 sends, as strace saw them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from netplane.core.model.address import Family
from netplane.core.nftables.layout import Key, Value, Verdict
from netplane.core.nftables.wire import Message, attribute, attributes, batch, replies
from netplane.core.nftables.wire_elements import add_elements, delete_elements, delete_slots
from netplane.core.nftables.wire_elements import flush_set as flush
from netplane.core.nftables.wire_rules import delete_chain, new_chains, new_rule
from netplane.core.plan.port import Backend
from tests.unit.wire.elements import FAMILIES, LAYOUTS, identify

CAPTURED = Path(__file__).parent / "captured"
NESTED = 0x8000
NEWSETELEM, NEWRULE = 0x0A0C, 0x0A06

Request = tuple[int, int, bytes]  # type, flags, everything after nlmsghdr

ADDED: dict[Family, list[tuple[str, dict[Key, Value]]]] = {
    Family.IPV4: [
        ("cluster-ips", {("172.30.0.10",): None}),
        ("hairpin", {("10.180.0.1", "10.180.0.2", 6, 8080): None}),
        (
            "allowed-sources",
            {
                ("198.51.100.1", 6, 80, "203.0.113.0/24"): None,
                ("198.51.100.1", 6, 80, "203.0.115.7/32"): None,
                ("172.30.0.12", 132, 80, "0.0.0.0/0"): None,
            },
        ),
        ("restricted", {("198.51.100.1", 17, 53): None}),
        (
            "endpoints",
            {("172.30.0.10", 6, 80): (Backend("10.180.0.1", 8080), Backend("10.180.0.2", 8080))},
        ),
        ("nodeport-endpoints", {(6, 30080): (Backend("10.180.0.1", 8080),)}),
        (
            "no-endpoints",
            {
                ("172.30.0.12", 132, 80): Verdict("refuse", "default/none"),
                ("172.30.0.12", 17, 80): Verdict("drop"),
            },
        ),
        ("services", {("172.30.0.10", 6, 80): Verdict("refuse", "default/web:http")}),
        ("nodeports", {(6, 30080): Verdict("refuse", "default/web:http")}),
    ],
    Family.IPV6: [
        ("cluster-ips", {("fd00::10",): None}),
        ("hairpin", {("fd01::1", "fd01::2", 6, 8080): None}),
        (
            "allowed-sources",
            {
                ("fd02::1", 6, 80, "2001:db8:8000::/33"): None,
                ("fd02::1", 6, 80, "2001:db9::7/128"): None,
                ("fd00::12", 132, 80, "::/0"): None,
            },
        ),
        ("restricted", {("fd02::1", 17, 53): None}),
        (
            "endpoints",
            {("fd00::10", 6, 80): (Backend("fd01::1", 8080), Backend("fd01::2", 8080))},
        ),
        ("nodeport-endpoints", {(6, 30080): (Backend("fd01::1", 8080),)}),
        (
            "no-endpoints",
            {
                ("fd00::12", 132, 80): Verdict("refuse", "default/none"),
                ("fd00::12", 17, 80): Verdict("drop"),
            },
        ),
        ("services", {("fd00::10", 6, 80): Verdict("refuse", "default/web:http")}),
        ("nodeports", {(6, 30080): Verdict("refuse", "default/web:http")}),
    ],
}


def captured(name: str, family: Family) -> bytes:
    path = CAPTURED / f"{name}-{'ip' if family is Family.IPV4 else 'ip6'}.hex"
    lines = path.read_text().splitlines()
    return bytes.fromhex("".join(line for line in lines if not line.startswith("#")))


def simplified(sent: bytes) -> list[Request]:
    """nft's requests between BATCH_BEGIN and END, without what the kernel does not look at.

    That is the number of an element in its list, kept as its type, the transaction's id of a set,
    which only counts for a set that is new in the same transaction, and the order of names.
    """
    requests = []
    for reply in list(replies(sent))[1:-1]:
        body = reply.body[:4] + b"".join(
            simplified_attribute(reply.kind, kind, reply.body[start:end])
            for kind, start, end in sorted(attributes(reply.body, 4, len(reply.body)))
        )
        requests.append((reply.kind, reply.flags, body))
    return requests


def simplified_attribute(message: int, kind: int, payload: bytes) -> bytes:
    if message == NEWSETELEM and kind == 4:
        return b""
    if message in {NEWSETELEM, 0x0A0E} and kind == 3:
        listed = attributes(payload, 0, len(payload))
        return attribute(
            kind | NESTED, b"".join(attribute(1 | NESTED, payload[a:b]) for _, a, b in listed)
        )
    if message == NEWRULE and kind == 4:
        return attribute(
            kind | NESTED,
            b"".join(
                attribute(1 | NESTED, simplified_expression(payload[a:b]))
                for _, a, b in attributes(payload, 0, len(payload))
            ),
        )
    return attribute(kind, payload)


def simplified_expression(payload: bytes) -> bytes:
    (_, a, b), (_, c, d) = attributes(payload, 0, len(payload))
    if payload[a:b] != b"lookup\0":
        return payload
    kept = [attribute(kind, payload[x:y]) for kind, x, y in attributes(payload, c, d) if kind != 4]
    return attribute(1, payload[a:b]) + attribute(2 | NESTED, b"".join(kept))


def ours(messages: list[Message]) -> list[Request]:
    """The requests as they go out; the last one's wish for an answer taken off again."""
    sent = b"".join(batch(messages, 0))
    requests = [(reply.kind, reply.flags, reply.body) for reply in replies(sent)][1:-1]
    kind, flags, body = requests[-1]
    return [*requests[:-1], (kind, flags & ~4, body)]


@pytest.mark.parametrize("family", FAMILIES, ids=identify)
def test_elements_are_added_as_nft_adds_them(family: Family) -> None:
    messages = [
        message
        for name, items in ADDED[family]
        for message in add_elements(LAYOUTS[name], family, items.items())
    ]
    assert ours(messages) == simplified(captured("add-elements", family))


@pytest.mark.parametrize("family", FAMILIES, ids=identify)
def test_elements_are_deleted_as_nft_deletes_them(family: Family) -> None:
    added = {name: list(items.items()) for name, items in ADDED[family]}
    frontend, _ = added["endpoints"][0]
    messages = [
        *delete_elements(LAYOUTS["services"], family, added["services"]),
        *delete_slots(LAYOUTS["endpoints"], family, [(frontend, 1)]),
        *delete_elements(LAYOUTS["nodeport-endpoints"], family, added["nodeport-endpoints"]),
        *delete_elements(LAYOUTS["allowed-sources"], family, added["allowed-sources"][:1]),
        *delete_elements(LAYOUTS["cluster-ips"], family, added["cluster-ips"]),
        flush(LAYOUTS["hairpin"], family),
    ]
    assert ours(messages) == simplified(captured("delete-elements", family))


@pytest.mark.parametrize("family", FAMILIES, ids=identify)
def test_chains_and_rules_are_those_of_nft(family: Family) -> None:
    ip = "ip" if family is Family.IPV4 else "ip6"
    pick = (
        f"dnat {ip} to {ip} daddr . meta l4proto . th dport . numgen random mod 5 map @endpoints"
    )
    nodeport = (
        f"dnat {ip} to meta l4proto . th dport . numgen random mod 12 map @nodeport-endpoints"
    )
    mark = "meta mark set meta mark | 0x00004000"
    messages = new_chains(
        family,
        {
            "pick-5": (pick,),
            "masquerade-pick-5": (mark, pick),
            "nodeport-pick-12": (nodeport,),
            "masquerade-sticky": (mark, "goto pick-5"),
        },
    )
    assert messages is not None
    assert ours(messages) == simplified(captured("add-chains", family))


@pytest.mark.parametrize("family", FAMILIES, ids=identify)
def test_a_chain_is_deleted_as_nft_deletes_it(family: Family) -> None:
    messages = list(delete_chain(family, "masquerade-sticky"))
    assert ours(messages) == simplified(captured("delete-chain", family))


@pytest.mark.parametrize(
    "rule",
    [
        "dnat ip6 to ip daddr . meta l4proto . th dport . numgen random mod 5 map @endpoints",
        "dnat ip to ip6 daddr . meta l4proto . th dport . numgen random mod 5 map @endpoints",
        "dnat ip to 10.0.0.1:80",
        "numgen random mod 2 vmap { 0 : goto a, 1 : goto b }",
        "meta mark set meta mark | 0x4000\n",
        "goto a b",
    ],
)
def test_a_rule_of_another_form_is_left_to_nft(rule: str) -> None:
    assert new_rule(Family.IPV4, "pick-5", rule) is None


def test_a_batch_has_numbers_a_lock_and_one_wish_for_an_answer() -> None:
    messages = [flush(LAYOUTS["hairpin"], Family.IPV4)] * 3
    sent = list(replies(b"".join(batch(messages, 41, generation=7))))
    assert [reply.sequence for reply in sent] == [41, 42, 43, 44, 45]
    assert [bool(reply.flags & 4) for reply in sent] == [False, False, False, True, False]
    # NFNL_BATCH_GENID, after nfgenmsg.
    assert sent[0].body[4:] == struct.pack("=HH", 8, 1) + struct.pack(">I", 7)
    unlocked = next(replies(b"".join(batch(messages, 41))))
    assert unlocked.body[4:] == b""
