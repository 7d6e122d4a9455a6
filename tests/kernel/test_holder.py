"""Two agents on one namespace: the second is refused and told who holds it."""

from __future__ import annotations

import os

import pytest

from netplane.agent.holder import sole_agent
from netplane.apply.netns import Namespace
from netplane.errors import BusyError
from tests.support.netns import new_netns

pytestmark = pytest.mark.kernel


def test_the_second_agent_is_told_who_the_first_is(netns: Namespace) -> None:
    with (
        sole_agent(netns),
        pytest.raises(BusyError, match=rf"pid {os.getpid()} \("),
        sole_agent(netns),
    ):
        pytest.fail("two agents hold one namespace")


def test_when_the_first_ends_another_may_begin(netns: Namespace) -> None:
    with sole_agent(netns):
        pass
    with sole_agent(netns):
        pass


def test_each_namespace_has_its_own(netns: Namespace) -> None:
    with new_netns() as other, sole_agent(netns), sole_agent(other):
        pass
