"""Where a bind address listens."""

from __future__ import annotations

import pytest

from netplane.agent.telling.listening import places
from netplane.errors import UsageError


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("127.0.0.1:10249", ["127.0.0.1:10249"]),
        ("[::1]:10249", ["[::1]:10249"]),
        ("0.0.0.0:10256", ["0.0.0.0:10256", "[::]:10256"]),
        ("[::]:10256", ["0.0.0.0:10256", "[::]:10256"]),
        (":10256", ["0.0.0.0:10256", "[::]:10256"]),
        ("", []),
    ],
)
def test_places(text: str, wanted: list[str]) -> None:
    assert [str(place) for place in places(text, option="--x")] == wanted


@pytest.mark.parametrize(
    "text", ["10256", "127.0.0.1", "host:1", "1.2.3.4:", ":65536", "[::1]", "x:²"]
)
def test_no_place(text: str) -> None:
    with pytest.raises(UsageError, match="--healthz-bind-address"):
        places(text, option="--healthz-bind-address")
