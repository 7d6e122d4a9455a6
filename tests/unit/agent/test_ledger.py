"""The books: what each Service's state is after every order of receiving, failing and writing."""

from __future__ import annotations

from netplane.agent.changes import ClusterChange, ObjectKey
from netplane.agent.telling.ledger import Ledger, Standing, State
from netplane.core.model.problem import Problem
from netplane.core.model.service import Service, ServiceName

_WEB, _DNS = ServiceName("default", "web"), ServiceName("default", "dns")


def _service(name: ServiceName) -> Service:
    return Service(key=name, cluster_ips=("172.30.0.10",), ports=())


def _problem(name: str, kind: str = "Service", field: str = "spec.type") -> Problem:
    return Problem(kind, "default", name, field, "x", "unknown value")


def _added(*names: ServiceName) -> ClusterChange:
    return ClusterChange(services={name: _service(name) for name in names})


def _settled(ledger: Ledger, **refused: str) -> None:
    ledger.begun()
    ledger.settled({ServiceName("default", name): words for name, words in refused.items()}, ())


def test_pending_until_a_pass_that_took_it_up_is_done() -> None:
    ledger = Ledger()
    assert ledger.standings() == []
    ledger.take(_added(_WEB))
    assert ledger.standings() == [Standing(_WEB, State.PENDING)]
    ledger.begun()
    ledger.take(_added(_DNS))  # while the pass is under way
    assert ledger.pending == {_WEB, _DNS}
    ledger.settled({}, ())
    assert ledger.standings() == [
        Standing(_DNS, State.PENDING),
        Standing(_WEB, State.PROGRAMMED),
    ]
    _settled(ledger)
    assert ledger.pending == frozenset()


def test_a_failed_pass_leaves_everything_pending() -> None:
    ledger = Ledger()
    ledger.take(_added(_WEB))
    ledger.begun()
    ledger.take(ClusterChange(slices={_DNS: ()}))
    ledger.failed()
    assert ledger.pending == {_WEB, _DNS}
    assert (ledger.waiting(slices=False), ledger.waiting(slices=True)) == (1, 1)
    _settled(ledger)
    assert ledger.pending == frozenset()


def test_what_the_kernel_refused_is_told_with_its_words_until_it_takes_it() -> None:
    ledger = Ledger()
    ledger.take(_added(_WEB))
    _settled(ledger, web="no space left")
    assert ledger.standings() == [
        Standing(_WEB, State.REFUSED, ("the kernel refused it: no space left",))
    ]
    _settled(ledger)
    assert ledger.standings() == [Standing(_WEB, State.PROGRAMMED)]


def test_a_refused_service_is_listed_though_there_is_nothing_to_program() -> None:
    ledger = Ledger()
    key = ObjectKey("Service", "default", "web")
    fresh = ledger.take(ClusterChange(services={_WEB: None}, problems={key: (_problem("web"),)}))
    assert fresh == (_problem("web"),)
    _settled(ledger)
    assert ledger.standings() == [Standing(_WEB, State.REFUSED, (str(_problem("web")),))]
    again = ledger.take(ClusterChange(problems={key: (_problem("web"),)}))
    assert again == (), "what was told is not told again"
    ledger.take(ClusterChange(problems={key: ()}))
    assert ledger.standings() == []


def test_a_collision_leaves_a_service_in_part_and_is_new_once() -> None:
    ledger = Ledger()
    ledger.take(_added(_WEB, _DNS))
    ledger.begun()
    lost = (_problem("web", field="spec.clusterIPs[0]"),)
    assert ledger.settled({}, lost) == lost
    assert ledger.standings()[1] == Standing(_WEB, State.PARTLY, (str(lost[0]),))
    ledger.begun()
    assert ledger.settled({}, lost) == ()
    assert ledger.problems == lost


def test_a_bad_slice_is_told_of_the_service_it_feeds() -> None:
    ledger = Ledger()
    key = ObjectKey("EndpointSlice", "default", "web-1")
    problem = _problem("web-1", "EndpointSlice", "endpoints[0].addresses")
    ledger.take(
        ClusterChange(
            services={_WEB: _service(_WEB)}, problems={key: (problem,)}, concerns={key: _WEB}
        )
    )
    _settled(ledger)
    assert ledger.standings() == [Standing(_WEB, State.PARTLY, (str(problem),))]
    ledger.take(ClusterChange(problems={key: (problem,)}, concerns={key: _DNS}))
    assert ledger.standings() == [Standing(_WEB, State.PROGRAMMED)], "it feeds another now"
    ledger.take(ClusterChange(problems={key: ()}))
    assert ledger.problems == ()


def test_the_revision_moves_with_the_problems_alone() -> None:
    ledger = Ledger()
    ledger.take(_added(_WEB))
    _settled(ledger)
    before = ledger.revision
    key = ObjectKey("Service", "default", "web")
    ledger.take(ClusterChange(problems={key: (_problem("web"),)}))
    assert ledger.revision > before
    before = ledger.revision
    ledger.begun()
    ledger.settled({}, (_problem("dns"),))
    assert ledger.revision > before
