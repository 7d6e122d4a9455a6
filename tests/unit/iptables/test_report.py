from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from netplane.core.iptables.diff import diff
from netplane.core.iptables.parse import Observed, parse_save
from netplane.core.iptables.report import report
from netplane.core.plan.changes import Action, Changes, ServiceChange
from netplane.core.plan.port import PortPlan
from tests.unit.iptables.plans import port, ruleset, saved

TWO = ("10.180.0.1:80", "10.180.0.2:80")


def _told(old: tuple[PortPlan, ...] | None, new: tuple[PortPlan, ...]) -> Changes:
    """The report of a change, from an empty kernel where ``old`` is None."""
    observed = Observed() if old is None else parse_save(saved(ruleset(*old)))
    desired = ruleset(*new)
    return report(desired, observed, diff(desired, observed))


def _only(changes: Changes) -> ServiceChange:
    assert changes.base == ()
    (change,) = changes.services
    assert change.rules
    return change


def test_no_change_is_no_report() -> None:
    assert not _told((port(cluster=TWO),), (port(cluster=TWO),))


def test_a_new_service() -> None:
    change = _only(_told((), (port(cluster=TWO, node_port=30080, external_ips=("1.2.3.4",)),)))
    assert change.label == "ns1/svc1:p80"
    assert (change.family, change.protocol, change.action) == ("IPv4", "tcp", Action.ADDED)
    assert change.frontends_added == (
        "ClusterIP 172.30.0.41:80/tcp",
        "External 1.2.3.4:80/tcp",
        "NodePort :30080/tcp",
    )
    assert change.endpoints_added == TWO
    assert change.notes == ()
    assert all(rule.startswith("+ -A KUBE-") for rule in change.rules)


def test_a_service_that_is_gone_is_named_by_its_rules() -> None:
    change = _only(_told((port(cluster=TWO),), ()))
    assert (change.label, change.action) == ("ns1/svc1:p80", Action.REMOVED)
    assert change.frontends_removed == ("ClusterIP 172.30.0.41:80/tcp",)
    assert change.endpoints_removed == TWO
    assert all(rule.startswith("- -A KUBE-") for rule in change.rules)


def test_an_endpoint_comes_and_another_goes() -> None:
    old, new = port(cluster=TWO), port(cluster=("10.180.0.2:80", "10.180.0.3:80"))
    change = _only(_told((old,), (new,)))
    assert change.action is Action.CHANGED
    assert change.endpoints_added == ("10.180.0.3:80",)
    assert change.endpoints_removed == ("10.180.0.1:80",)
    assert change.frontends_added == change.frontends_removed == ()


@pytest.mark.parametrize(
    ("old", "new", "notes"),
    [
        pytest.param(
            port(cluster=TWO),
            port(),
            ("ClusterIP 172.30.0.41:80/tcp now rejects connections",),
            id="no endpoints any more",
        ),
        pytest.param(
            port(),
            port(cluster=TWO),
            ("ClusterIP 172.30.0.41:80/tcp now serves",),
            id="first endpoints",
        ),
        pytest.param(
            port(local=TWO, internal_local=True),
            port(internal_local=True, has_endpoints=True),
            ("ClusterIP 172.30.0.41:80/tcp now drops packets",),
            id="no local endpoints any more",
        ),
        pytest.param(
            port(cluster=TWO),
            port(cluster=TWO, affinity_seconds=10800),
            ("session affinity 10800 s",),
            id="affinity",
        ),
        pytest.param(
            port(cluster=TWO, affinity_seconds=10800),
            port(cluster=TWO),
            ("no session affinity any more",),
            id="no affinity",
        ),
        pytest.param(
            port(cluster=TWO, load_balancer_ips=("1.2.3.4",)),
            port(cluster=TWO, load_balancer_ips=("1.2.3.4",), source_ranges=("192.0.2.0/24",)),
            ("load balancer sources allowed: 192.0.2.0/24",),
            id="source ranges",
        ),
        pytest.param(
            port(cluster=TWO, node_port=30080),
            port(cluster=TWO, local=TWO, node_port=30080, external_local=True),
            ("the same frontends and endpoints, by other rules",),
            id="traffic policy",
        ),
    ],
)
def test_what_else_is_said(old: PortPlan, new: PortPlan, notes: tuple[str, ...]) -> None:
    assert _only(_told((old,), (new,))).notes == notes


def test_a_new_service_that_refuses_says_so() -> None:
    change = _only(_told((), (port(),)))
    assert change.action is Action.ADDED
    assert change.notes == ("ClusterIP 172.30.0.41:80/tcp now rejects connections",)


def test_a_health_check_port_is_told_with_its_service() -> None:
    old = port(cluster=TWO, load_balancer_ips=("1.2.3.4",))
    new = port(cluster=TWO, load_balancer_ips=("1.2.3.4",), health_check_node_port=31000)
    assert "31000" in "".join(_only(_told((old,), (new,))).rules)


def test_what_services_share_is_told_apart() -> None:
    changes = _told(None, ())
    assert changes.services == ()
    assert "+ IPv4 nat: -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000" in changes.base
    assert "+ IPv4 nat: chain KUBE-NODEPORTS" in changes.base
    assert (
        '+ IPv4 nat: -I OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES'
        in changes.base
    )


def test_another_order_of_rules_is_said_once() -> None:
    one, two = port(cluster=TWO), port("ns1/svc2:p80", "172.30.0.42", cluster=TWO)
    changes = _told((two, one), (one, two))
    assert changes.services == ()
    assert changes.base == ("+ IPv4 nat: chain KUBE-SERVICES, same rules in another order",)


def test_an_emptied_endpoint_chain_is_told_with_its_service() -> None:
    desired = ruleset(port(cluster=TWO))
    lines = saved(desired).split("\n")
    edited = "\n".join(line for line in lines if not line.startswith("-A KUBE-SEP-SXIV"))
    observed = parse_save(edited)
    changes = report(desired, observed, diff(desired, observed))
    assert _only(changes).endpoints_added == ("10.180.0.1:80",)


def test_chains_kube_proxy_wrote_without_comments_find_their_service() -> None:
    desired = ruleset()
    lines = saved(ruleset(port(cluster=TWO))).split("\n")
    bare = [
        " ".join(part for part in line.split(' -m comment --comment "')[:1])
        + line[line.rindex('"') + 1 :]
        if line.startswith(("-A KUBE-SVC-", "-A KUBE-SEP-"))
        else line
        for line in lines
    ]
    observed = parse_save("\n".join(bare))
    changes = report(desired, observed, diff(desired, observed))
    assert _only(changes).label == "ns1/svc1:p80"
    assert _only(changes).endpoints_removed == TWO


_ONE = port(cluster=TWO, node_port=30080, load_balancer_ips=("198.51.100.1",))
_SOME = (_ONE, port("ns1/svc2:p80", "172.30.0.42"), port("ns1/svc3:dns", "172.30.0.43"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(None, _SOME, id="all come"),
        pytest.param(_SOME, (), id="all go"),
        pytest.param(_SOME[:2], _SOME[1:], id="one comes, one goes"),
        pytest.param((port(cluster=TWO),), _SOME, id="one changes"),
    ],
)
def test_what_is_told_first_is_what_is_told_of_all(
    old: tuple[PortPlan, ...] | None, new: tuple[PortPlan, ...]
) -> None:
    changes = _told(old, new)
    whole = changes.services
    bare = [msgspec.structs.replace(change, rules=()) for change in whole]
    assert whole
    assert changes.outline() == bare
    assert changes.outline(limit=1) == bare[:1]
    assert changes.totals() == Counter(change.action for change in whole)
    lost = {f"{at.address}:{at.port}/{at.protocol}" for at in changes.lost()}
    texts = (text for change in whole for text in change.frontends_removed)
    assert lost == {text.split(" ")[1] for text in texts}
    # Without a word of any service port in what is nobody's, however it was found.
    assert not any("ns1/svc" in line for line in changes.base)
