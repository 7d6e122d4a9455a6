"""Connections between two readings of the kernel."""

from __future__ import annotations

import pytest

from netplane.core.plan.status import EndpointStatus, FrontendStatus, Status, since


def _status(connections: int | None, **endpoints: int | None) -> Status:
    frontend = FrontendStatus(
        label="default/web",
        family="IPv4",
        kind="ClusterIP",
        address="172.30.0.10",
        protocol="tcp",
        port=80,
        verdict="balance",
        endpoints=tuple(EndpointStatus(name, 80, count) for name, count in endpoints.items()),
        connections=connections,
    )
    return Status(mode="nftables", installed=True, frontends=(frontend,))


@pytest.mark.parametrize(
    ("before", "after", "new"),
    [
        pytest.param(5, 7, 2, id="more"),
        pytest.param(5, 5, 0, id="none"),
        pytest.param(5, 3, 3, id="written anew"),
        pytest.param(5, None, None, id="not counted any more"),
        pytest.param(None, 4, 4, id="counted from now on"),
    ],
)
def test_what_is_new(before: int | None, after: int | None, new: int | None) -> None:
    (frontend,) = since(_status(before, a=before), _status(after, a=after)).frontends
    assert frontend.connections == new
    assert frontend.endpoints == (EndpointStatus("a", 80, new),)


def test_what_was_not_there_is_new_as_a_whole() -> None:
    assert since(Status(mode="nftables", installed=False), _status(3, a=3)) == _status(3, a=3)
    (frontend,) = since(_status(3, a=3), _status(5, a=3, b=2)).frontends
    assert frontend.endpoints == (EndpointStatus("a", 80, 0), EndpointStatus("b", 80, 2))


def test_what_went_is_not_told() -> None:
    gone = since(_status(3, a=3), Status(mode="nftables", installed=True))
    assert gone.frontends == ()
