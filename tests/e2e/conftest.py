"""Fixtures of the tests that run whole commands."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from netplane.apply.netns import Namespace
from tests.support.netns import new_netns


@pytest.fixture
def netns() -> Iterator[Namespace]:
    """A private network namespace: ``netns.name`` for --netns, ``netns.call`` to act inside."""
    with new_netns() as namespace:
        yield namespace
