"""Health over simulated time: every permanent fault shows within two periods, and mends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from netplane.agent.clocks import Clocks
from netplane.agent.glimpses import is_eligible
from netplane.agent.telling.health import Health
from netplane.core.model.address import Family

_PERIOD = 30.0
_EPOCH = 1_800_000_000.0  # 2027-01-15T08:00:00Z
_NOW = "2027-01-15T08:00:00.000000Z"


class Node:
    """An agent's loop in miniature: each part of it can be broken, and mended."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.heard = self.now
        self.turns = self.talks = self.changes = True
        self.write: Callable[[Health], None] | None = Health.verified
        self.health = Health(
            families=(Family.IPV4, Family.IPV6),
            period=_PERIOD,
            last_heard=lambda: self.heard,
            clocks=Clocks(lambda: self.now, lambda: _EPOCH),
        )
        self.live(1)

    def live(self, seconds: int) -> None:
        """A turn each second."""
        for _ in range(seconds):
            self.now += 1
            if self.talks:
                self.heard = self.now
            if not self.turns:
                continue
            self.health.turned()
            if self.changes:
                self.health.wanted()
            if self.write is not None:
                self.health.begun()
                self.write(self.health)

    def get(self, *, verbose: bool = False) -> dict[str, Any]:
        answer = self.health.healthz(verbose=verbose)
        document: dict[str, Any] = msgspec.json.decode(answer.body)
        assert answer.status == (200 if document["healthy"] else 503)
        return document


def _fails(health: Health) -> None:
    health.failed("EPERM")


def _one_family_fails(health: Health) -> None:
    health.verified(Family.IPV4)
    health.failed("EPERM", Family.IPV6)


def _never_ends(health: Health) -> None:
    del health


def _fault(name: str, value: object) -> Callable[[Node], None]:
    return lambda node: setattr(node, name, value)


_FAULTS = [
    pytest.param(_fault("write", _fails), "IPv6: changes wait since 60 s: EPERM", id="write"),
    pytest.param(_fault("write", _one_family_fails), "IPv6: changes wait", id="one family"),
    pytest.param(_fault("write", _never_ends), "changes wait", id="write hangs"),
    pytest.param(_fault("write", None), "changes wait", id="nothing is begun"),
    pytest.param(_fault("turns", value=False), "the loop has not turned", id="loop"),
    pytest.param(_fault("talks", value=False), "nothing was heard", id="source"),
]


@pytest.mark.parametrize(("fault", "reason"), _FAULTS)
def test_a_fault_shows_within_two_periods_and_mends(
    fault: Callable[[Node], None], reason: str
) -> None:
    node = Node()
    assert node.get()["healthy"]
    before = {name: getattr(node, name) for name in ("write", "turns", "talks")}
    fault(node)
    node.live(round(2 * _PERIOD) + 1)
    assert not node.get()["healthy"]
    assert any(reason in found for found in node.health.reasons()), node.health.reasons()
    assert node.health.livez().status == 503
    for name, value in before.items():
        setattr(node, name, value)
    node.live(1)
    assert node.get()["healthy"]
    assert node.health.reasons() == ()
    assert node.health.livez().status == 200


@pytest.mark.parametrize("write", [_fails, None, _never_ends])
def test_a_short_fault_is_no_fault(write: Callable[[Health], None] | None) -> None:
    node = Node()
    node.write = write
    node.live(round(2 * _PERIOD) - 1)
    assert node.get()["healthy"]


def test_nothing_to_do_is_healthy() -> None:
    node = Node()
    node.changes = False
    node.write = None
    node.live(1000)
    assert node.get() == {
        "lastUpdated": _NOW,
        "currentTime": _NOW,
        "nodeEligible": True,
        "healthy": True,
        "status": {
            "IPv4": {"lastUpdated": "2027-01-15T07:43:20.000000Z", "healthy": True},
            "IPv6": {"lastUpdated": "2027-01-15T07:43:20.000000Z", "healthy": True},
        },
    }


def test_who_damages_the_rules_as_fast_as_they_are_repaired_is_a_fault() -> None:
    """Every single write is verified, and yet most packets meet other rules."""
    node = Node()
    for _ in range(round(2 * _PERIOD)):
        node.health.repaired()
        assert node.get()["healthy"]
        node.live(1)
    node.health.repaired()
    assert not node.get()["healthy"]
    assert "again and again, for 60 s" in node.health.reasons()[0]
    node.health.undisturbed()
    assert node.get()["healthy"]


def test_damage_now_and_then_is_repaired_and_no_fault() -> None:
    node = Node()
    for _ in range(20):
        node.health.repaired()
        node.live(round(_PERIOD / 2))
        assert node.get()["healthy"]


def test_a_change_during_a_write_is_not_covered_by_it() -> None:
    node = Node()
    node.changes, node.write = False, None
    node.health.begun()
    node.health.wanted()
    node.health.verified()
    node.live(59)
    assert node.get()["healthy"]
    node.live(1)
    assert not node.get()["healthy"]


def test_a_failed_write_leaves_what_it_owed_as_old_as_it_was() -> None:
    node = Node()
    node.changes, node.write = False, None
    node.health.wanted()
    for _ in range(3):
        node.live(20)
        node.health.begun()
        node.health.failed("EBUSY")
    assert not node.get()["healthy"]


def test_the_keys_are_kube_proxys_in_its_order() -> None:
    node = Node()
    assert list(node.get()) == ["lastUpdated", "currentTime", "nodeEligible", "healthy", "status"]
    livez = msgspec.json.decode(node.health.livez().body)
    assert list(livez) == ["lastUpdated", "currentTime", "healthy", "status"]


def test_one_broken_family_leaves_the_other_ones_status() -> None:
    node = Node()
    node.write = _one_family_fails
    node.live(61)
    document = node.get(verbose=True)
    assert document["status"]["IPv4"]["healthy"]
    assert not document["status"]["IPv6"]["healthy"]
    assert document["lastUpdated"] == document["status"]["IPv6"]["lastUpdated"] < _NOW
    assert document["reasons"] == ["IPv6: changes wait since 60 s: EPERM"]


def test_before_the_first_verification_no_traffic_is_asked_for_and_no_restart() -> None:
    health = Health(
        families=(Family.IPV4,),
        period=_PERIOD,
        last_heard=lambda: 0.0,
        clocks=Clocks(lambda: 0.0, lambda: _EPOCH),
    )
    answer = health.healthz()
    assert answer.status == 503
    assert msgspec.json.decode(answer.body)["lastUpdated"] == "0001-01-01T00:00:00Z"
    assert health.livez().status == 200
    health.begun()
    health.verified()
    assert health.healthz().status == 200


@pytest.mark.parametrize(
    ("deleting", "taints", "eligible"),
    [
        pytest.param(False, (), True, id="plain"),
        pytest.param(False, ("node.kubernetes.io/unschedulable",), True, id="other taint"),
        pytest.param(True, (), False, id="deleting"),
        pytest.param(False, ("ToBeDeletedByClusterAutoscaler",), False, id="autoscaler"),
    ],
)
def test_eligibility_is_of_healthz_alone(
    deleting: bool, taints: tuple[str, ...], eligible: bool
) -> None:
    node = Node()
    node.health.node(eligible=is_eligible(deleting=deleting, taints=taints))
    assert node.get()["nodeEligible"] is eligible
    assert node.get()["healthy"] is eligible
    assert node.health.livez().status == 200
    assert node.health.healthy


def test_a_known_reason_for_silence_needs_no_patience_beyond_two_periods() -> None:
    now, fault = 1000.0, ""
    health = Health(
        families=(Family.IPV4,),
        period=_PERIOD,
        last_heard=lambda: 1000.0,
        clocks=Clocks(lambda: now, lambda: _EPOCH),
        watch_bound=10 * _PERIOD,
        fault=lambda: fault,
    )
    health.begun()
    health.verified()
    now += 2 * _PERIOD
    health.turned()
    assert health.healthy
    fault = "the directory is gone"
    assert health.reasons() == ("nothing was heard of the source for 60 s: the directory is gone",)
    fault = ""
    assert health.healthy
