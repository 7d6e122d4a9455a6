"""Conntrack entries from bytes, as the kernel sends them and as it might."""

from __future__ import annotations

import ipaddress
import random
import socket

import pytest

from netplane.apply.flows import Flow, decode_flow
from netplane.core.model.address import Family
from netplane.core.nftables.wire import PROTOCOL_FAMILY, attribute, nested, number
from netplane.errors import WireError

_UDP, _TCP = socket.IPPROTO_UDP, socket.IPPROTO_TCP
_CLIENT = {Family.IPV4: "10.244.9.9", Family.IPV6: "fd00:244::9"}
_FRONTEND = {Family.IPV4: "10.96.0.10", Family.IPV6: "fd00:96::10"}
_ENDPOINT = {Family.IPV4: "10.244.1.7", Family.IPV6: "fd00:244:1::7"}
_STATUS, _TIMEOUT = number(3, 0x188), number(7, 29)
_ANSWERED = number(3, 0x18A)
_ID, _USE = number(12, 0xDEADBEEF), number(11, 1)
_ZONE = attribute(18, b"\x00\x07")


def _tuple(kind: int, source: str, to: str, port: int, to_port: int, **odd: bytes | int) -> bytes:
    addresses = [ipaddress.ip_address(text) for text in (source, to)]
    first = 1 if addresses[0].version == 4 else 3
    return nested(
        kind,
        nested(1, *(attribute(first + i, a.packed) for i, a in enumerate(addresses))),
        nested(
            2,
            attribute(1, bytes([int(odd.get("protocol", _UDP))])),
            attribute(2, port.to_bytes(2, "big")),
            attribute(3, to_port.to_bytes(2, "big")),
        ),
        bytes(odd.get("more", b"")),
    )


def _entry(family: Family, *further: bytes, **odd: bytes | int) -> bytes:
    client, frontend, endpoint = _CLIENT[family], _FRONTEND[family], _ENDPOINT[family]
    return b"".join(
        [
            bytes([PROTOCOL_FAMILY[family], 0, 0, 0]),
            _tuple(1, client, frontend, 4000, 53, **odd),
            _tuple(2, endpoint, client, 5353, 4000, **odd),
            *further,
        ]
    )


def _flow(family: Family, identity: int = 0xDEADBEEF, zone: int = 0, **more: bool) -> Flow:
    client, frontend, endpoint = _CLIENT[family], _FRONTEND[family], _ENDPOINT[family]
    return Flow(client, 4000, frontend, 53, endpoint, 5353, identity, zone, **more)


@pytest.mark.parametrize("family", Family)
def test_an_entry_is_read(family: Family) -> None:
    body = _entry(family, _STATUS, _TIMEOUT, _ID, _USE)
    assert decode_flow(body, family) == _flow(family, answered=False)
    assert decode_flow(body, family.other) is None


@pytest.mark.parametrize("family", Family)
def test_zone_and_id_are_read_where_they_are(family: Family) -> None:
    body = _entry(family, _ZONE, _ANSWERED, _ID)
    assert decode_flow(body, family) == _flow(family, zone=7, answered=True)
    assert decode_flow(_entry(family), family) == _flow(family, identity=0)


@pytest.mark.parametrize("family", Family)
def test_an_unusual_form_is_read_as_well(family: Family) -> None:
    """A zone of one direction stands inside that direction's tuple (CTA_TUPLE_ZONE)."""
    body = _entry(family, _STATUS, _ID, more=attribute(3, b"\x00\x07"))
    assert decode_flow(body, family) == _flow(family, answered=False)
    head, tuples = body[:4], _entry(family)[4:]
    unanswered = _flow(family, answered=False)
    assert decode_flow(head + _STATUS + tuples + _ID, family) == unanswered


@pytest.mark.parametrize("more", [b"", attribute(3, b"\x00\x07")], ids=["usual", "unusual"])
def test_other_protocols_are_passed_over(more: bytes) -> None:
    assert decode_flow(_entry(Family.IPV4, _ID, protocol=_TCP, more=more), Family.IPV4) is None


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(bytes([2, 0, 0, 0]) + nested(1, nested(2, attribute(1, b"\x11"))), id="bare"),
        pytest.param(_entry(Family.IPV4, b"\x00\x00\x0c\x00"), id="a length of nothing"),
        pytest.param(_entry(Family.IPV4, b"\xff\xff\x0c\x00"), id="a length beyond the end"),
        pytest.param(_entry(Family.IPV4)[:-5], id="cut off"),
    ],
)
def test_what_is_no_entry_is_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        decode_flow(body, Family.IPV4)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_bytes_are_an_entry_or_an_error_of_ours(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(300):
        body = bytearray(_entry(rng.choice(list(Family)), _ZONE, _STATUS, _ID, _USE))
        for _ in range(rng.randrange(1, 4)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        cut = bytes(body[: rng.randrange(len(body) + 1)])
        for family in Family:
            try:
                found = decode_flow(cut, family)
            except WireError:
                continue
            assert found is None or 0 <= found.port < 1 << 16
