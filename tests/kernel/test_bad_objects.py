"""Among many Services, bad ones in a hundred ways: the good answer, the bad are named."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from netplane.apply.netns import Namespace
from tests.support.agent_process import AgentProcess, running_agent
from tests.support.api_server import ApiServer
from tests.support.bad_objects import WAYS, Bad, named, older
from tests.support.command import run_netplane
from tests.support.manifests import Object, endpoint_slice, kube_list, node, service
from tests.support.netns import ip

pytestmark = [pytest.mark.kernel, pytest.mark.e2e]

_HOSTS = 25
_FIRST_PORT = 8000
_SERVICES = 200
_MANY = 1000


def _good(number: int) -> tuple[Object, Object, tuple[str, int], tuple[str, int]]:
    """A Service and its slice, where to reach it, and who is to answer: nobody else's endpoint."""
    name = f"good-{number}"
    address = f"172.30.{number // 250}.{number % 250 + 1}"
    host, port = f"10.244.1.{number % _HOSTS + 1}", _FIRST_PORT + number // _HOSTS
    made = service(name, cluster_ips=[address])
    fed = endpoint_slice(name, [host], ports=[{"name": "http", "port": port}])
    return made, fed, (address, 80), (host, port)


@contextlib.contextmanager
def _listening(netns: Namespace, ports: int) -> Iterator[dict[int, socket.socket]]:
    """Every endpoint's address in the namespace, a way to the Services', and servers."""
    lines = [f"addr add 10.244.1.{host + 1}/32 dev lo" for host in range(_HOSTS)]
    lines += ["link add out0 type veth peer name out1", "link set out1 up"]
    lines += ["addr add 192.0.2.1/24 dev out0", "link set out0 up"]
    lines += ["route add 172.30.0.0/15 dev out0"]
    ip("-n", str(netns), batch=lines)
    with contextlib.ExitStack() as stack:
        servers = {}
        for port in range(_FIRST_PORT, _FIRST_PORT + ports):
            server = netns.call(functools.partial(socket.create_server, ("", port)))
            server.settimeout(5)
            servers[port] = stack.enter_context(server)
        yield servers


def _answers(
    netns: Namespace, servers: dict[int, socket.socket], to: tuple[str, int], by: tuple[str, int]
) -> bool:
    """Whether a connection to a Service ends at the endpoint it should."""
    with netns.call(socket.socket) as client:
        client.settimeout(5)
        try:
            client.connect(to)
            accepted, peer = servers[by[1]].accept()
        except OSError:
            return False
        with accepted:
            return (peer, accepted.getsockname()) == (client.getsockname(), by)


def _document(netns: Namespace) -> dict[str, object]:
    ran = run_netplane("status", "--netns", str(netns), "--mode", "nftables", "-o", "json")
    assert ran.status == 0, str(ran)
    agent = ran.document()["agent"]
    assert isinstance(agent, dict)
    return agent


def _judge(agent: AgentProcess, mode: str, good: int, ways: Sequence[Bad]) -> None:
    """Every good Service answers, and every bad object is named, with why, in all places."""
    netns = agent.namespace
    with _listening(netns, good // _HOSTS + 1) as servers:
        silent = [n for n in range(good) if not _answers(netns, servers, *_good(n)[2:])]
    assert silent == []
    told = _document(netns)
    assert told["healthy"] is True
    problems = told["problems"]
    standings = {(s["namespace"], s["name"]): s for s in told["services"]}  # type: ignore[attr-defined]
    assert Counter(s["state"] for s in standings.values())["pending"] == 0
    text = run_netplane("status", "--netns", str(netns), "--mode", mode).stdout
    labels = Counter(
        re.findall(r'netplane_refused_objects{kind="(\w+)",reason="(\w+)"}', key)[0]
        for key in agent.metrics()
        if key.startswith("netplane_refused_objects{")
    )
    for number, way in enumerate(ways):
        made, fed = way.objects(number)
        name = named(made if way.names == "Service" else fed)
        mine = [p for p in problems if p.startswith(f"{name}: {way.field}")]  # type: ignore[attr-defined]
        assert mine, f"way {number}, {name}: {way.field} is not named"
        if way.reason is not None:
            assert any(way.reason.value in problem for problem in mine), (number, mine)
        assert all(problem in text for problem in mine), (number, mine)
        assert labels[way.names, way.label], (number, way.label)
        if way.files_only:
            continue
        _, _, whose = named(made).partition(" ")
        standing = standings[tuple(whose.split("/", 1))]  # type: ignore[index]
        assert standing["state"] == way.state, (number, way, standing)
        if way.state != "programmed":
            assert set(mine) <= set(standing["why"]), (number, standing)
        assert f"{whose}: {way.state}" in text or way.state == "programmed"
    assert all(line.isprintable() for line in text.splitlines())


def _settled(agent: AgentProcess, good: int) -> bool:
    counts = _document(agent.namespace)["counts"]
    assert isinstance(counts, dict)
    return bool(agent.healthy and counts["programmed"] >= good and not counts["pending"])


_SIZES = [
    pytest.param(_SERVICES, id=str(_SERVICES)),
    pytest.param(_MANY, id=str(_MANY), marks=pytest.mark.soak),
]


@pytest.mark.parametrize("size", _SIZES)
@pytest.mark.parametrize("mode", ["nftables", "iptables"])
def test_through_an_api_server(netns: Namespace, tmp_path: Path, mode: str, size: int) -> None:
    ways = [way for way in WAYS if not way.files_only]
    good = size - len(ways)
    kubeconfig = tmp_path / "kubeconfig"
    with ApiServer(inside=netns) as server:
        cluster = {"name": "main", "cluster": {"server": server.url}}
        context = {"name": "main", "context": {"cluster": "main", "user": "main"}}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "main",
            "contexts": [context],
            "clusters": [cluster],
            "users": [{"name": "main", "user": {}}],
        }
        kubeconfig.write_text(json.dumps(config), encoding="utf-8")
        # Half of the bad ones are in the first list, the others come while it watches.
        things = [node("node-1", ip="192.0.2.1"), *older()]
        things += [thing for number in range(good) for thing in _good(number)[:2]]
        bad = [thing for number, way in enumerate(ways) for thing in way.objects(number)]
        for thing in [*bad[::2], *things]:
            server.store.put(thing)
        options = ["--kubeconfig", str(kubeconfig), "--mode", mode]
        with running_agent(netns, tmp_path / "said.log", *options) as agent:
            agent.until(lambda: agent.healthy, within=60)
            for thing in bad[1::2]:
                server.store.put(thing)
            agent.until(lambda: _settled(agent, good))
            agent.until(lambda: len(_document(netns)["problems"]) >= len(ways))  # type: ignore[arg-type]
            _judge(agent, mode, good, ways)


@pytest.mark.parametrize("size", _SIZES)
def test_through_a_directory(netns: Namespace, tmp_path: Path, size: int) -> None:
    good = size - len(WAYS)
    folder = tmp_path / "manifests"
    folder.mkdir()
    things = [node("node-1", ip="192.0.2.1"), *older()]
    things += [thing for number in range(good) for thing in _good(number)[:2]]
    (folder / "good.json").write_bytes(kube_list(*things))
    for number, way in enumerate(WAYS):
        (folder / f"bad-{number}.json").write_bytes(kube_list(*way.objects(number)))
    options = ["-f", str(folder), "--mode", "nftables"]
    with running_agent(netns, tmp_path / "said.log", *options) as agent:
        agent.until(lambda: agent.healthy, within=60)
        agent.until(lambda: _settled(agent, good))
        _judge(agent, "nftables", good, WAYS)
