"""The agent as a process on an API server that misbehaves: the kernel ends as the server says."""

from __future__ import annotations

import contextlib
import json
import random
import ssl
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from netplane.agent.manifest import dashboard
from netplane.apply.netns import Namespace
from tests.support.agent_process import METRICS_PORT, AgentProcess, running_agent
from tests.support.api_server import EVENT_FAULTS, LIST_FAULTS, WATCH_FAULTS, ApiServer, Fault
from tests.support.api_server_model import Object
from tests.support.certificates import Pair, make
from tests.support.churn import Churn
from tests.support.command import run_netplane
from tests.support.kernel_state import ruleset
from tests.support.manifests import endpoint_slice, kube_list, node, service
from tests.support.netns import run_tool

pytestmark = [pytest.mark.kernel, pytest.mark.e2e]

_HASTY = ("-m", "tests.support.hasty_netplane")
_TOKEN = "a-secret-of-the-first-hour"


@pytest.fixture(params=["iptables", "nftables"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Cluster(NamedTuple):
    """An API server in a namespace, and how to reach it there."""

    server: ApiServer
    namespace: Namespace
    kubeconfig: Path
    token_file: Path

    @property
    def options(self) -> list[str]:
        """What an agent needs to be told; the kubeconfig's current context leads nowhere."""
        return ["--kubeconfig", str(self.kubeconfig), "--context", "main"]


@contextlib.contextmanager
def _cluster(
    netns: Namespace,
    folder: Path,
    *,
    seed: int = 0,
    elsewhere: str = "http://127.0.0.1:9/",
    bookmarks: float = 0.05,
) -> Iterator[Cluster]:
    pair = make(folder, "api", san="IP:127.0.0.1")
    with ApiServer(
        token=_TOKEN,
        tls=_tls(pair),
        inside=netns,
        seed=seed,
        elsewhere=elsewhere,
        bookmarks=bookmarks,
    ) as server:
        token_file = folder / "token"
        token_file.write_text(_TOKEN, encoding="ascii")
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(_kubeconfig(server.url, pair, token_file), encoding="utf-8")
        server.store.put(node("node-1", ip="192.0.2.1"))
        yield Cluster(server, netns, kubeconfig, token_file)


def _tls(pair: Pair) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    return context


def _kubeconfig(url: str, pair: Pair, token_file: Path) -> str:
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "away",
            "contexts": [
                {"name": name, "context": {"cluster": name, "user": "main"}}
                for name in ("away", "main")
            ],
            "clusters": [
                {"name": "away", "cluster": {"server": "https://127.0.0.1:9"}},
                {
                    "name": "main",
                    "cluster": {"server": url, "certificate-authority": str(pair.certificate)},
                },
            ],
            "users": [{"name": "main", "user": {"tokenFile": str(token_file)}}],
        }
    )


@contextlib.contextmanager
def _agent(
    cluster: Cluster, folder: Path, mode: str, *, hasty: bool = True
) -> Iterator[AgentProcess]:
    program = _HASTY if hasty else ("-m", "netplane")
    options = [*cluster.options, "--mode", mode, "-v"]
    said = folder / "said.log"
    with running_agent(cluster.namespace, said, *options, program=program) as agent:
        agent.until(lambda: agent.healthy)
        yield agent


def _fill(server: ApiServer, count: int) -> None:
    for number in range(count):
        address = f"172.30.{9 + number // 250}.{number % 250 + 1}"
        server.store.put(service(f"web-{number}", cluster_ips=[address]))
        server.store.put(endpoint_slice(f"web-{number}", [f"10.244.1.{number % 250 + 1}"]))


def _objects(server: ApiServer) -> list[Object]:
    with server.store.lock:
        return [
            json.loads(json.dumps(thing))
            for collection in server.store.collections.values()
            for thing in collection.objects.values()
        ]


def _as_the_server_says(cluster: Cluster, mode: str) -> bool:
    """Whether a fresh comparison of the kernel with the server's objects finds nothing."""
    with tempfile.NamedTemporaryFile(suffix=".json") as manifest:
        manifest.write(kube_list(*_objects(cluster.server)))
        manifest.flush()
        where = ["--netns", str(cluster.namespace.name), "--mode", mode, "--node", "node-1"]
        ran = run_netplane("diff", *where, "-f", manifest.name)
    assert ran.status in {0, 1}, str(ran)
    return ran.status == 0


def _follows(cluster: Cluster, agent: AgentProcess, endpoint: str, *, service: str) -> None:
    """A change of endpoints reaches the kernel."""
    cluster.server.store.put(endpoint_slice(service, [endpoint]))
    _until_there(agent, endpoint)


def test_it_programs_follows_and_outlives_the_server(
    netns: Namespace, tmp_path: Path, mode: str
) -> None:
    with (
        _cluster(netns, tmp_path) as cluster,
        _agent(cluster, tmp_path, mode, hasty=False) as agent,
    ):
        _fill(cluster.server, 5)
        agent.until(lambda: _as_the_server_says(cluster, mode))
        _follows(cluster, agent, "10.244.9.1", service="web-1")
        with cluster.server.away():
            cluster.server.store.put(endpoint_slice("web-1", ["10.244.9.2"]))
            cluster.server.store.delete("Service", ("default", "web-3"))
            agent.until(lambda: "not reached" in agent.said)
            assert "10.244.9.1" in ruleset(netns), "what was there goes on"
        agent.until(lambda: _as_the_server_says(cluster, mode))
        agent.until(lambda: agent.healthy)
        assert "10.244.9.2" in ruleset(netns)


def test_a_server_that_hangs_is_found_out(netns: Namespace, tmp_path: Path) -> None:
    """All connections stand, and its watches were quiet before, too."""
    config = tmp_path / "config.yaml"
    config.write_text(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
        "nftables:\n  syncPeriod: 1s\n",
        encoding="utf-8",
    )
    with _cluster(netns, tmp_path, bookmarks=60.0) as cluster:
        _fill(cluster.server, 3)
        options = [*cluster.options, "--config", str(config), "--mode", "nftables"]
        with running_agent(netns, tmp_path / "said.log", *options) as agent:
            agent.until(lambda: agent.healthy)
            with cluster.server.hanging():
                agent.until(lambda: not agent.healthy)
                reply = json.loads(agent.get("/healthz?verbose").body)
                assert "does not answer" in str(reply["reasons"])
            agent.until(lambda: agent.healthy)


_IPTABLES_TOO = pytest.param("iptables", marks=pytest.mark.soak)


def test_without_an_api_server_it_waits_and_costs_nothing(
    netns: Namespace, tmp_path: Path
) -> None:
    with _cluster(netns, tmp_path) as cluster:
        _fill(cluster.server, 3)
        options = [*cluster.options, "--mode", "nftables"]
        with cluster.server.away(), running_agent(netns, tmp_path / "said.log", *options) as agent:
            agent.until(lambda: "not reached" in agent.said)
            before = agent.cpu_seconds()
            time.sleep(3)  # what it uses meanwhile is the question
            assert agent.cpu_seconds() - before < 0.5
            assert "Connection refused" in agent.said
            assert agent.get("/healthz").status == 503
            assert agent.get("/healthz", port=METRICS_PORT).status == 200
            assert run_tool(["nft", "list", "ruleset"], inside=netns) == "", "nothing is written"


#: The source does not know which rules are written, so one mode is enough for a normal run.
_GROUPS = {
    "lists": LIST_FAULTS,
    "watches": WATCH_FAULTS,
    "events": EVENT_FAULTS,
}


@pytest.mark.parametrize("where", _GROUPS)
@pytest.mark.parametrize("mode", ["nftables", _IPTABLES_TOO], indirect=True)
def test_it_survives_each_fault(netns: Namespace, tmp_path: Path, mode: str, where: str) -> None:
    """Each happens to the requests for slices, and what changes after it arrives."""
    with _cluster(netns, tmp_path) as cluster:
        server = cluster.server
        server.page_limit = 50
        server.retry_after = "1"
        _fill(server, 60)
        with _agent(cluster, tmp_path, mode) as agent:
            for number, fault in enumerate(sorted(_GROUPS[where], key=lambda f: f.name)):
                script = {"lists": [Fault.GONE_EVENT], "watches": [Fault.RESET_IN_OBJECT]}
                server.script("EndpointSlice", *script.get(where, []), fault)
                server.store.put(_told(f"10.244.7.{number}"))
                agent.until(lambda: not server.pending)
                assert server.happened[-1] is fault
                server.store.put(_told(f"10.244.8.{number}"))
                _until_there(agent, f"10.244.8.{number}")
            agent.until(lambda: _as_the_server_says(cluster, mode))
            agent.until(lambda: agent.healthy)


def _until_there(agent: AgentProcess, endpoint: str) -> None:
    agent.until(lambda: endpoint in ruleset(agent.namespace))


def _told(endpoint: str) -> Object:
    """A slice of web-1 with characters of many bytes, one of which a connection may break in."""
    made = endpoint_slice("web-1", [endpoint])
    made["metadata"]["annotations"] = {"note": "Grüße, 世界 🌍"}
    return made


def test_a_deletion_that_was_missed_is_found(netns: Namespace, tmp_path: Path) -> None:
    with _cluster(netns, tmp_path) as cluster, _agent(cluster, tmp_path, "nftables") as agent:
        _fill(cluster.server, 3)
        agent.until(lambda: "172.30.9.3" in ruleset(netns))
        cluster.server.script("Service", Fault.DROP)
        cluster.server.store.delete("Service", ("default", "web-2"))
        agent.until(lambda: "172.30.9.3" not in ruleset(netns))
        assert cluster.server.happened == [Fault.DROP]


def test_what_came_of_each_request_is_counted(netns: Namespace, tmp_path: Path) -> None:
    with _cluster(netns, tmp_path) as cluster, _agent(cluster, tmp_path, "nftables") as agent:
        host = cluster.server.url.removeprefix("https://")
        answers = f'rest_client_requests_total{{code="200",host="{host}",method="GET"}}'
        agent.until(lambda: agent.metrics().get(answers, 0) >= 6)  # a list, a watch of each kind
    assert "rest_client_requests_total" in dashboard()


def test_an_empty_list_takes_nothing_away_until_it_is_confirmed(
    netns: Namespace, tmp_path: Path
) -> None:
    with _cluster(netns, tmp_path) as cluster, _agent(cluster, tmp_path, "nftables") as agent:
        _fill(cluster.server, 120)
        agent.until(lambda: _as_the_server_says(cluster, "nftables"))
        server = cluster.server
        before = agent.metrics()["kubeproxy_sync_proxy_rules_service_changes_total"]
        server.script("Service", Fault.GONE_EVENT, Fault.EMPTY)
        server.store.put(service("web-1", cluster_ips=["172.30.7.1"]))
        agent.until(lambda: not server.pending and "172.30.7.1" in ruleset(netns))
        after = agent.metrics()["kubeproxy_sync_proxy_rules_service_changes_total"]
        assert after - before == 1, "none of the others was ever thought to be gone"
        for number in range(120):
            server.store.delete("Service", ("default", f"web-{number}"))
        server.store.compact()
        agent.until(lambda: _as_the_server_says(cluster, "nftables"))
        assert agent.healthy


def test_bookmarks_alone_keep_it_well(netns: Namespace, tmp_path: Path) -> None:
    with _cluster(netns, tmp_path) as cluster:
        _fill(cluster.server, 3)
        with _agent(cluster, tmp_path, "nftables", hasty=False) as agent:
            agent.until(lambda: cluster.server.watches == 3)
            asked = len(cluster.server.requests)
            time.sleep(1.5)  # thirty bookmarks for each of three watches
            assert len(cluster.server.requests) == asked, "nobody lists or watches anew"
            # Without them it only grows.
            agent.until(lambda: agent.metrics()["netplane_watch_age_seconds"] < 1.4)
            assert agent.healthy


def test_a_token_that_is_replaced_is_followed(netns: Namespace, tmp_path: Path) -> None:
    with _cluster(netns, tmp_path) as cluster:
        _fill(cluster.server, 3)
        server = cluster.server
        with _agent(cluster, tmp_path, "nftables", hasty=False) as agent:
            agent.until(lambda: server.watches == 3)
            fresh = "a-secret-of-the-second-hour"
            cluster.token_file.write_text(fresh, encoding="ascii")
            server.token = fresh
            server.script("EndpointSlice", Fault.RESET_IN_OBJECT)
            _follows(cluster, agent, "10.244.9.1", service="web-1")
            used = [request.headers["authorization"] for request in server.requests]
            assert used[-1] == f"Bearer {fresh}"
            assert used.count(f"Bearer {_TOKEN}") < len(used)
            assert agent.healthy
        assert fresh not in agent.said
        assert _TOKEN not in agent.said


def test_no_redirect_is_followed(netns: Namespace, tmp_path: Path) -> None:
    with (
        ApiServer(inside=netns) as stranger,
        _cluster(netns, tmp_path, elsewhere=f"{stranger.url}/api/v1/services") as cluster,
        _agent(cluster, tmp_path, "nftables") as agent,
    ):
        _fill(cluster.server, 3)
        redirects = [Fault.GONE_EVENT, Fault.REDIRECT, Fault.REDIRECT]
        cluster.server.script("EndpointSlice", *redirects)
        cluster.server.store.put(_told("10.244.7.1"))
        agent.until(lambda: not cluster.server.pending)
        _follows(cluster, agent, "10.244.9.1", service="web-1")
        assert cluster.server.happened.count(Fault.REDIRECT) == 2
        assert stranger.requests == []


_CHANGES = [
    pytest.param(150, id="150"),
    pytest.param(2000, id="2000", marks=pytest.mark.soak),
]


@pytest.mark.parametrize("changes", _CHANGES)
def test_with_faults_everywhere_it_ends_as_the_server_says(
    netns: Namespace, tmp_path: Path, mode: str, changes: int
) -> None:
    with _cluster(netns, tmp_path, seed=changes) as cluster:
        server = cluster.server
        server.page_limit = 40
        _fill(server, 60)
        churn = Churn(server.store, random.Random(changes))
        with _agent(cluster, tmp_path, mode) as agent:
            server.probability = 0.05
            for number in range(changes):
                churn.change()
                if number % 10 == 0:
                    assert agent.alive
                    time.sleep(0.05)  # the story's pace; nothing is waited for

            def enough_happened() -> bool:
                churn.change()
                return len(set(server.happened)) > 3

            agent.until(enough_happened)  # how many events there are to spoil depends on the pace
            agent.until(lambda: _as_the_server_says(cluster, mode), within=60)
            server.probability = 0.0
            agent.until(lambda: agent.healthy)
