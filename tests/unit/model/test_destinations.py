"""Where traffic may be sent: the verdict on an address, whatever was asked before."""

from __future__ import annotations

import pytest

from netplane.core.model.destinations import cluster_address, endpoint_address
from netplane.core.model.reasons import Reason


@pytest.mark.parametrize(
    ("text", "endpoint", "cluster"),
    [
        ("10.0.0.255", "10.0.0.255", "10.0.0.255"),
        ("10.0.0.256", Reason.NOT_AN_ADDRESS, Reason.NOT_AN_ADDRESS),
        ("10.0.0.01", "10.0.0.1", "10.0.0.1"),
        ("010.0.0.1", "10.0.0.1", "10.0.0.1"),
        ("10.0.0.", Reason.NOT_AN_ADDRESS, Reason.NOT_AN_ADDRESS),
        ("10.0.0.1\n", Reason.NOT_AN_ADDRESS, Reason.NOT_AN_ADDRESS),
        ("10.0.0\n.1", Reason.NOT_AN_ADDRESS, Reason.NOT_AN_ADDRESS),
        ("10.0.1", Reason.NOT_AN_ADDRESS, Reason.NOT_AN_ADDRESS),
        ("1.10.0.0.1", Reason.NOT_AN_ADDRESS, Reason.NOT_AN_ADDRESS),
        ("10.0.0.\u0661", Reason.NOT_AN_ADDRESS, Reason.NOT_AN_ADDRESS),
        ("0.0.0.7", "0.0.0.7", "0.0.0.7"),
        ("0.0.0.0", Reason.UNSPECIFIED, Reason.UNSPECIFIED),
        ("127.0.0.1", Reason.LOOPBACK, Reason.LOOPBACK),
        ("169.254.0.1", Reason.LINK_LOCAL, "169.254.0.1"),
        ("169.253.0.1", "169.253.0.1", "169.253.0.1"),
        ("224.0.0.1", Reason.MULTICAST, Reason.MULTICAST),
        ("::ffff:10.0.0.1", Reason.MAPPED, Reason.MAPPED),
        ("64:ff9b::10.0.0.1", "64:ff9b::a00:1", "64:ff9b::a00:1"),
        ("FD00::1", "fd00::1", "fd00::1"),
    ],
)
def test_the_verdict_stands_after_its_neighbours_were_asked(
    text: str, endpoint: str | Reason, cluster: str | Reason
) -> None:
    network = text.rpartition(".")[0]
    for neighbour in (f"{network}.7", f"{network}.8"):
        endpoint_address(neighbour)
        cluster_address(neighbour)
    assert (endpoint_address(text), cluster_address(text)) == (endpoint, cluster)
