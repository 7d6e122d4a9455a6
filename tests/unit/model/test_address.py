"""Addresses and networks in canonical form."""

from __future__ import annotations

import pytest

from netplane.core.model.address import canonical_address, canonical_network


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("0.0.0.0", "0.0.0.0"),
        ("255.255.255.255", "255.255.255.255"),
        ("010.000.00.001", "10.0.0.1"),
        ("256.0.0.1", None),
        ("10.0.0", None),
        ("10.0.0.1.2", None),
        ("10.0.0.1\n", None),
        (" 10.0.0.1", None),
        ("10.0.0.+1", None),
        ("10.0.0.0001", None),
        ("10.0.0.٣", None),
        ("FD00::0:1", "fd00::1"),
        ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
        ("::ffff:10.0.0.1", None),
        ("::ffff:a00:1", None),
        ("fe80::1%eth0", None),
        ("fd00::1::", None),
        ("", None),
        ("web", None),
    ],
)
def test_canonical_address(text: str, expected: str | None) -> None:
    assert canonical_address(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.1.2.3/8", "10.0.0.0/8"),
        (" 10.0.0.0/8\t", "10.0.0.0/8"),
        ("010.0.0.0/008", "10.0.0.0/8"),
        ("2001:DB8::1/32", "2001:db8::/32"),
        ("10.0.0.0", None),
        ("10.0.0.0/33", None),
        ("10.0.0.0/-1", None),
        ("10.0.0.0/255.0.0.0", None),
        ("fd00::/129", None),
        ("/8", None),
        ("", None),
    ],
)
def test_canonical_network(text: str, expected: str | None) -> None:
    assert canonical_network(text) == expected
