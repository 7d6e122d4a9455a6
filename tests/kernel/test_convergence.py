"""What the kernel holds is a function of the state applied last, whatever was there before."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from netplane.apply.netns import Namespace
from tests.support.command import apply_objects
from tests.support.kernel_state import meaning
from tests.support.manifests import Object, clusters
from tests.support.netns import new_netns, require
from tests.support.scenario import MODES, Mode

pytestmark = pytest.mark.kernel

OPTIONS = (
    "--node=node-1",
    "--node-ip=192.0.2.1,2001:db8::a",
    "--cluster-cidr=10.244.0.0/16,fd00:244::/56",
    "--service-cidr=172.30.0.0/16,fd00:30::/112",
)
SETTINGS = settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # shrinking against a kernel takes minutes
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("mode", MODES)
@SETTINGS
@given(before=clusters(), after=clusters())
def test_history_leaves_no_trace(mode: Mode, before: list[Object], after: list[Object]) -> None:
    require()
    with new_netns() as used, new_netns() as fresh:
        apply_objects(used, mode, before, *OPTIONS)
        _apply_twice(used, mode, after)
        _apply_twice(fresh, mode, after)
        assert meaning(used) == meaning(fresh)


@SETTINGS
@given(before=clusters(), after=clusters())
def test_a_mode_takes_over_from_the_other(before: list[Object], after: list[Object]) -> None:
    require()
    with new_netns() as used, new_netns() as fresh:
        apply_objects(used, "iptables", before, *OPTIONS)
        apply_objects(used, "nftables", before, *OPTIONS)
        _apply_twice(used, "iptables", after)
        _apply_twice(fresh, "iptables", after)
        assert meaning(used) == meaning(fresh)


def _apply_twice(namespace: Namespace, mode: Mode, objects: list[Object]) -> None:
    """Apply; a second time must find nothing to do."""
    apply_objects(namespace, mode, objects, *OPTIONS)
    assert apply_objects(namespace, mode, objects, *OPTIONS).document()["changed"] is False
