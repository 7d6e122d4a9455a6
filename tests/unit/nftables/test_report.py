"""What a transaction and a table are told to people as."""

from __future__ import annotations

import random
from collections import Counter

import msgspec
import pytest

from netplane.core.model.address import Family
from netplane.core.model.service import Protocol
from netplane.core.nftables.compile import compile_family
from netplane.core.nftables.diff import diff
from netplane.core.nftables.layout import Ruleset, Verdict
from netplane.core.nftables.observed import HOLE, Observed
from netplane.core.nftables.report import report
from netplane.core.nftables.status import family_status
from netplane.core.plan.changes import Action, Changes, ServiceChange
from netplane.core.plan.plan import FamilyPlan
from netplane.core.plan.port import PortPlan
from netplane.core.plan.status import EndpointStatus, FrontendStatus
from netplane.rendering import environment
from tests.support.port_plans import backends, port, random_plan, view
from tests.support.rulesets import as_observed

A, B = backends("10.244.1.1", "10.244.2.1")


def compiled(*ports: PortPlan, **fields: object) -> Ruleset:
    return compile_family(FamilyPlan(view=view(Family.IPV4, **fields), ports=ports), environment())


def told(desired: Ruleset, observed: Observed) -> Changes:
    return report(desired, observed, diff(desired, observed))


def the_change(before: Ruleset, after: Ruleset) -> ServiceChange:
    (change,) = told(after, as_observed(before)).services
    return change


def test_a_new_table() -> None:
    changes = told(compiled(port("web", cluster=(A,))), Observed(family=Family.IPV4))
    assert changes.base[0] == "+ table ip netplane"
    (change,) = changes.services
    assert change.action is Action.ADDED
    assert change.frontends_added == ("ClusterIP 172.30.0.1:80/tcp",)
    assert change.endpoints_added == ("10.244.1.1:8080",)
    assert '+ services { 172.30.0.1 . tcp . 80 comment "default/web:http" : goto pick-1 }' in (
        change.rules
    )


def test_a_service_that_went() -> None:
    web = port("web", cluster=(A,), node_port=30080, protocol=Protocol.UDP)
    change = the_change(compiled(web), compiled())
    assert change.action is Action.REMOVED
    assert change.protocol == "udp"
    assert change.frontends_removed == ("ClusterIP 172.30.0.1:80/udp", "NodePort :30080/udp")
    assert change.endpoints_removed == ("10.244.1.1:8080",)


def test_a_frontend_more_has_no_new_endpoints() -> None:
    change = the_change(
        compiled(port("web", cluster=(A,))),
        compiled(port("web", cluster=(A,), external_ips=("198.51.100.1",))),
    )
    assert change.action is Action.CHANGED
    assert change.frontends_added == ("External 198.51.100.1:80/tcp",)
    assert change.endpoints_added == ()


@pytest.mark.parametrize(
    ("after", "note"),
    [
        (port("web"), "ClusterIP 172.30.0.1:80/tcp refuses connections"),
        (
            port("web", internal_local=True, has_endpoints=True),
            "ClusterIP 172.30.0.1:80/tcp drops connections",
        ),
        (port("web", cluster=(A,), affinity_seconds=60), "session affinity on"),
    ],
)
def test_notes(after: PortPlan, note: str) -> None:
    before = port("web", cluster=(A,))
    assert the_change(compiled(before), compiled(after)).notes == (note,)


def test_session_affinity_tells_its_endpoints() -> None:
    before = port("web", cluster=(A,), node_port=30080, affinity_seconds=60)
    change = the_change(
        compiled(before), compiled(msgspec.structs.replace(before, cluster=(A, B)))
    )
    assert change.endpoints_added == ("10.244.2.1:8080",)
    assert change.endpoints_removed == ()


def test_an_edited_program_is_nobodys() -> None:
    web = compiled(port("web", cluster=(A,)))
    observed = as_observed(web)
    chains = {**observed.chains, "refuse": ("accept",)}
    changes = told(web, msgspec.structs.replace(observed, chains=chains))
    assert changes.services == ()
    assert changes.base == ("- chain refuse: accept", "+ chain refuse: reject")


def test_an_unlabelled_element_goes_by_its_address() -> None:
    web = compiled(port("web", cluster=(A,)))
    observed = as_observed(web)
    services = {**observed.elements["services"], ("1.2.3.4", 17, 53): Verdict("drop")}
    elements = {**observed.elements, "services": services}
    (change,) = told(web, msgspec.structs.replace(observed, elements=elements)).services
    assert (change.label, change.protocol) == ("1.2.3.4:53", "udp")


@pytest.mark.parametrize("seed", range(30))
def test_every_difference_is_told(seed: int) -> None:
    rng = random.Random(seed)
    before, after = (compile_family(random_plan(rng), environment()) for _ in range(2))
    delta = diff(after, as_observed(before))
    changes = report(after, as_observed(before), delta)
    assert bool(changes) == bool(delta)
    assert list(changes.services) == sorted(
        changes.services, key=lambda c: (c.label, c.family, c.protocol)
    )
    assert not told(after, as_observed(after))


def test_status_counts_connections() -> None:
    web = compiled(
        port("web", cluster=(A, B), node_port=30080), port("empty", 2, protocol=Protocol.SCTP)
    )
    key = ("172.30.0.1", 6, 80)
    observed = as_observed(web)
    counters = {
        **observed.counters,
        "services": {key: (5,)},
        "endpoints": {key: (2, 3)},
        "nodeports": {(6, 30080): (0,)},
        "nodeport-endpoints": {(6, 30080): (0, 0)},
    }
    status = family_status(msgspec.structs.replace(observed, counters=counters))
    assert status.drift == ()
    empty, web_cluster, web_node_port = status.frontends
    assert (empty.label, empty.verdict, empty.connections) == (
        "default/empty:http",
        "reject",
        None,
    )
    assert web_cluster == FrontendStatus(
        label="default/web:http",
        family="IPv4",
        kind="ClusterIP",
        address="172.30.0.1",
        protocol="tcp",
        port=80,
        verdict="balance",
        endpoints=(EndpointStatus("10.244.1.1", 8080, 2), EndpointStatus("10.244.2.1", 8080, 3)),
        connections=5,
    )
    assert (web_node_port.kind, web_node_port.port) == ("NodePort", 30080)


def test_status_tells_drift() -> None:
    observed = as_observed(compiled(port("web", cluster=(A, B))))
    key = ("172.30.0.1", 6, 80)
    cases: dict[str, dict[str, object]] = {
        "no slot 0": {"elements": {**observed.elements, "endpoints": {key: (HOLE, B)}}},
        "picks one of 2": {"elements": {**observed.elements, "endpoints": {key: (A,)}}},
        "program was edited": {"chains": {**observed.chains, "balance": ()}},
        "chain pick-2 was edited": {"chains": {**observed.chains, "pick-2": ()}},
        "none of ours": {"others": ("counter own",)},
        "foreign form": {"unreadable": frozenset({"services"})},
    }
    for words, change in cases.items():
        drift = family_status(msgspec.structs.replace(observed, **change)).drift
        assert any(words in line for line in drift), (words, drift)


@pytest.mark.parametrize("seed", range(30))
def test_what_is_told_first_is_what_is_told_of_all(seed: int) -> None:
    """Totals, the first few and the frontends that go agree with the whole report."""
    rng = random.Random(seed)
    before, after = (compile_family(random_plan(rng), environment()) for _ in range(2))
    nothing = Observed(family=before.family)
    for desired, observed in ((after, as_observed(before)), (after, nothing)):
        changes = told(desired, observed)
        whole = changes.services
        bare = [msgspec.structs.replace(change, rules=()) for change in whole]
        assert changes.outline() == bare
        assert changes.outline(limit=3) == bare[:3]
        assert changes.totals() == Counter(change.action for change in whole)
        lost = {f"{at.address or ''}:{at.port}/{at.protocol}" for at in changes.lost()}
        texts = (text for change in whole for text in change.frontends_removed)
        assert lost == {text.split(" ")[1].replace("[", "").replace("]", "") for text in texts}
