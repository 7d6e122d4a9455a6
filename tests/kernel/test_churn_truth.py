"""While endpoints and Services change without end, connections tell the truth about the rules.

Each Service has addresses of its own that may ever be its endpoints, so whoever answers tells of
which Service it is. None may be answered by an endpoint of another; a Service that always has a
ready endpoint never fails; and a connection that is there lives on, whatever comes and goes.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from netplane.apply.netns import Namespace
from tests.support.command import run_netplane
from tests.support.directory_agent import DirectoryAgent, new_agent
from tests.support.eventually import eventually
from tests.support.kernel_state import meaning
from tests.support.load import Load, new_load
from tests.support.load_generator import Target
from tests.support.manifests import Object, endpoint, endpoint_slice, node, service
from tests.support.scenario import MODES, Mode
from tests.support.topology import Addresses, new_topology

pytestmark = [pytest.mark.kernel, pytest.mark.e2e]

NODE = "192.0.2.1"
OPTIONS = ("--cluster-cidr", "10.244.0.0/16", "--service-cidr", "172.30.0.0/16")
STABLE, VOLATILE = range(6), range(6, 9)  # numbers of Services; the volatile ones come and go
POOL = range(1, 7)  # the last octets of those that may be a Service's endpoints
NOT_READY = {"ready": False, "serving": False, "terminating": False}
LEAVING = {"ready": False, "serving": True, "terminating": True}


class Amount(NamedTuple):
    """How many updates, connections after each of them, and connections a second at the most."""

    updates: int
    connections: int
    rate: float


@pytest.fixture(
    params=[
        pytest.param(Amount(100, 10, 400.0), id="short"),
        pytest.param(Amount(1000, 20, 1000.0), id="soak", marks=pytest.mark.soak),
    ]
)
def amount(request: pytest.FixtureRequest) -> Amount:
    assert isinstance(request.param, Amount)
    return request.param


class Cluster:
    """The Services as they are now, and the files that say so."""

    def __init__(self, agent: DirectoryAgent, rng: random.Random) -> None:
        self._agent = agent
        self._rng = rng
        self._affine: set[int] = set()
        self.ready: dict[int, set[int]] = {}
        agent.write("node", node("node-1", ip=NODE))
        for number in (*STABLE, *VOLATILE):
            self._write(number)

    def change(self) -> None:
        """One update of one Service or of its endpoints."""
        number = self._rng.choice((*STABLE, *VOLATILE))
        if number in VOLATILE and number in self.ready and self._rng.random() < 0.4:
            self._agent.remove(f"svc-{number}")
            del self.ready[number]
            return
        if self._rng.random() < 0.1:
            self._affine ^= {number}
        self._write(number)

    def _write(self, number: int) -> None:
        fewest = 1 if number in STABLE else 0
        ready = set(self._rng.sample(POOL, self._rng.randint(fewest, len(POOL))))
        others = [host for host in POOL if host not in ready and self._rng.random() < 0.5]
        self.ready[number] = ready
        states = {host: self._rng.choice((NOT_READY, LEAVING)) for host in others}
        members = [
            endpoint(f"10.244.{number}.{host}", node="node-1", conditions=states.get(host))
            for host in self._rng.sample(POOL, len(POOL))
            if host in ready or host in states
        ]
        self._agent.write(
            f"svc-{number}", self._service(number), endpoint_slice(f"svc-{number}", members)
        )

    def _service(self, number: int) -> Object:
        more: dict[str, Any] = {"type": "NodePort"}
        if number in self._affine:
            more["sessionAffinity"] = "ClientIP"
        ports = [{"name": "http", "port": 80, "nodePort": 30000 + number}]
        return service(f"svc-{number}", cluster_ips=[_cluster_ip(number)], ports=ports, **more)


def _cluster_ip(number: int) -> str:
    return f"172.30.0.{number + 10}"


def _targets() -> list[Target]:
    found = []
    for number in (*STABLE, *VOLATILE):
        inside = ("10.244.1.99", _cluster_ip(number), 80)
        outside = ("198.51.100.9", NODE, 30000 + number)
        for kind, (source, address, port) in (("ClusterIP", inside), ("NodePort", outside)):
            found.append(
                Target(
                    name=f"{kind} {number}",
                    source=source,
                    address=address,
                    port=port,
                    endpoints=frozenset(f"10.244.{number}.{host}:8080" for host in POOL),
                    certain=number in STABLE,
                    held=2 if number in STABLE else 0,
                )
            )
    return found


@pytest.mark.parametrize("mode", MODES)
def test_truth_during_churn(mode: Mode, amount: Amount, tmp_path: Path) -> None:
    rng = random.Random(f"{mode} {amount.updates}")
    addresses = Addresses(node=(NODE,), pods=("10.244.1.0/24",))
    with (
        new_topology(addresses) as topology,
        new_agent(topology.node, tmp_path, mode, *OPTIONS) as agent,
    ):
        cluster = Cluster(agent, rng)
        agent.start()
        with new_load(topology.world, _targets(), rate=amount.rate) as load:
            for _ in range(amount.updates):
                cluster.change()
                load.go_on(amount.connections)
                load.assert_whole()
            _assert_settles(topology.node, mode, agent)
            _assert_only_ready_ones_answer(load, cluster)
            books = load.assert_whole()
            assert books.held == 2 * 2 * len(STABLE)
            print(
                f"{mode}: {amount.updates} updates; {sum(books.made.values())} connections,"
                f" 0 failures; {books.held} held all the time, {books.pings} answers on them"
            )
            assert "are repaired" not in agent.said(), "nobody else has written"


def _assert_settles(netns: Namespace, mode: Mode, agent: DirectoryAgent) -> None:
    """In the end the rules are what a fresh apply of the last state makes."""
    arguments = ["apply", "-f", str(agent.manifests), "--mode", mode, "--node", "node-1", *OPTIONS]
    with new_topology(Addresses(node=(NODE,))) as other:
        ran = run_netplane(*arguments, "--netns", str(other.node))
        assert ran.status == 0, str(ran)
        fresh = meaning(other.node)
    eventually(
        lambda: meaning(netns) == fresh,
        poll=0.2,
        last=lambda: _differences(meaning(netns), fresh),
    )
    agent.await_health(200)


def _differences(there: Any, wanted: Any, path: str = "") -> str:
    """Where two meanings differ, in words."""
    if not isinstance(there, dict) or not isinstance(wanted, dict):
        return "" if there == wanted else f"{path}: {there} is there, wanted {wanted}\n"
    return "".join(
        _differences(there.get(name), wanted.get(name), f"{path} {name}")
        for name in {**there, **wanted}
    )


def _assert_only_ready_ones_answer(load: Load, cluster: Cluster) -> None:
    """With everything settled, new connections reach the ready endpoints, and them alone."""
    load.go_on(20)  # those that were on their way
    before = load.books().seen
    load.go_on(20 * len(_targets()))
    after = load.books().seen
    for place in (place for place, count in after.items() if count > before.get(place, 0)):
        _, _, host = place.rpartition(" > ")
        octets = host.partition(":")[0].split(".")
        number, last = int(octets[2]), int(octets[3])
        ready = cluster.ready.get(number, set())
        leaving = not ready and number in VOLATILE  # then those that leave serve to the end
        assert last in ready or leaving, f"{place}: ready are {sorted(ready)}"
