"""The commands as a user runs them, in a private namespace, in both modes."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from netplane.apply.netns import Namespace
from tests.support.command import Ran, run_netplane
from tests.support.kernel_state import ruleset
from tests.support.manifests import Object, endpoint, endpoint_slice, node, service
from tests.support.netns import ip, run_tool

pytestmark = [pytest.mark.kernel, pytest.mark.e2e]

Run = Callable[..., Ran]
_MODES = ("iptables", "nftables")
_UDP = ({"name": "dns", "port": 53, "protocol": "UDP"},)


def _state(*endpoints: str, extra: tuple[Object, ...] = ()) -> list[Object]:
    """A Service ``default/web`` with these endpoints, on node-1."""
    return [
        node("node-1", ip="192.0.2.1"),
        service("web", ports=[{"name": "http", "port": 80, "nodePort": 30080}], type="NodePort"),
        endpoint_slice("web", endpoints),
        *extra,
    ]


def _refused() -> Object:
    return service("bad", cluster_ips=("172.30.0.300",))


@pytest.fixture(params=_MODES)
def mode(request: pytest.FixtureRequest) -> str:
    """A mode."""
    return str(request.param)


@pytest.fixture
def run(netns: Namespace, tmp_path: Path) -> Run:
    """Runs a command on a state (a list of objects) in the namespace."""
    manifest = tmp_path / "state.json"

    def call(command: str, *arguments: str, state: list[Object] | None = None) -> Ran:
        options: list[str] = []
        if state is not None:
            content = {"apiVersion": "v1", "kind": "List", "items": state}
            manifest.write_text(json.dumps(content), encoding="utf-8")
            options += ["-f", str(manifest), "--node", "node-1"]
            options += ["--service-cidr", "172.30.0.0/16", "--cluster-cidr", "10.244.0.0/16"]
        if command != "render":
            options += ["--netns", str(netns.name)]
        return run_netplane(command, *options, *arguments)

    return call


def test_a_service_comes_changes_and_goes(run: Run, mode: str) -> None:
    first = _state("10.244.1.7", "10.244.1.8")
    ran = run("apply", "--mode", mode, state=first)
    assert ran.status == 0, ran
    (line,) = [text for text in ran.stdout.splitlines() if "default/web:http" in text]
    assert line.startswith("+ ")
    assert "+2 endpoints (10.244.1.7:8080, 10.244.1.8:8080)" in line

    ran = run("apply", "--mode", mode, state=first)
    assert (ran.status, ran.stdout) == (0, "no change\n")

    second = _state("10.244.1.8", "10.244.1.9")
    ran = run("apply", "--mode", mode, state=second)
    assert ran.status == 0, ran
    (line,) = [text for text in ran.stdout.splitlines() if "default/web:http" in text]
    assert line.startswith("~ ")
    assert "+1 endpoint (10.244.1.9:8080)" in line
    assert "10.244.1.7:8080 gone" in line

    ran = run("apply", "--mode", mode, state=[])
    assert ran.status == 0, ran
    assert "- default/web:http" in ran.stdout
    ran = run("apply", "--mode", mode, state=[])
    assert ran.stdout == "no change\n"


def test_diff_tells_by_its_status(run: Run, netns: Namespace, mode: str) -> None:
    state = _state("10.244.1.7")
    ran = run("diff", "--mode", mode, state=state)
    assert ran.status == 1, ran
    assert "default/web:http" in ran.stdout
    assert "netplane" not in ruleset(netns)
    assert "KUBE-" not in ruleset(netns)
    assert run("apply", "--mode", mode, state=state).status == 0
    ran = run("diff", "--mode", mode, state=state)
    assert (ran.status, ran.stdout) == (0, "no difference\n"), ran


def test_verbose_diff_shows_rules(run: Run, mode: str) -> None:
    state = _state("10.244.1.7")
    run("apply", "--mode", mode, state=state)
    ran = run("diff", "-v", "--mode", mode, state=_state("10.244.1.8"))
    rules = [text for text in ran.stdout.splitlines() if text.startswith("    ")]
    assert any(rule.strip().startswith("+") and "10.244.1.8" in rule for rule in rules)
    assert any(rule.strip().startswith("-") for rule in rules)


def test_a_dry_run_writes_nothing(run: Run, netns: Namespace, mode: str) -> None:
    before = ruleset(netns)
    ran = run("apply", "--dry-run", "--mode", mode, state=_state("10.244.1.7"))
    assert ran.status == 0, ran
    assert "+ default/web:http" in ran.stdout
    assert ruleset(netns) == before
    assert netns.call(Path("/proc/sys/net/ipv4/conf/all/route_localnet").read_text) == "0\n"
    ran = run("apply", "--dry-run", "--mode", mode, state=[*_state(), _refused()])
    assert ran.status == 3


def test_refused_objects_are_named_and_the_rest_is_applied(run: Run, mode: str) -> None:
    ran = run("apply", "--mode", mode, "-o", "json", state=[*_state("10.244.1.7"), _refused()])
    assert ran.status == 3, ran
    assert "Service default/bad: spec.clusterIP" in ran.stderr
    assert "172.30.0.300" in ran.stderr
    document = ran.document()
    assert document["written"]
    assert [change["label"] for change in document["services"]] == ["default/web:http"]
    assert {problem["name"] for problem in document["problems"]} == {"bad"}
    assert run("diff", "--mode", mode, state=[*_state("10.244.1.7"), _refused()]).status == 0


def test_unreadable_input_changes_nothing(run: Run, netns: Namespace, tmp_path: Path) -> None:
    run("apply", state=_state("10.244.1.7"))
    before = ruleset(netns)
    broken = tmp_path / "broken.json"
    broken.write_text('{"apiVersion": "v1", "kind": "List", "items": [', encoding="utf-8")
    ran = run("apply", "-f", str(broken), state=_state())
    assert ran.status == 1
    assert "broken.json" in ran.stderr
    assert ruleset(netns) == before


@pytest.mark.parametrize(
    "content",
    ["", "\n \n", "---\n# Source: web/templates/service.yaml\n---\n...\n"],
    ids=["empty", "blank", "documents-of-nothing"],
)
def test_empty_input_is_a_mistake_and_an_empty_list_is_not(
    run: Run, netns: Namespace, tmp_path: Path, content: str
) -> None:
    run("apply", state=_state("10.244.1.7"))
    before = ruleset(netns)
    nothing = tmp_path / "nothing.yaml"
    nothing.write_text(content, encoding="utf-8")
    ran = run("apply", "-f", str(nothing))
    assert ran.status == 1
    assert "empty" in ran.stderr
    assert ruleset(netns) == before
    assert run("apply", state=[]).status == 0
    assert "KUBE-SVC" not in ruleset(netns)


def test_what_is_rendered_is_what_is_applied(run: Run, netns: Namespace, mode: str) -> None:
    state = _state("10.244.1.7", "10.244.1.8")
    rendered = run("render", "--mode", mode, state=state)
    assert rendered.status == 0, rendered
    assert rendered.stdout == run("render", "--mode", mode, state=state[::-1]).stdout
    if mode == "nftables":
        run_tool(["nft", "-f", "-"], stdin=rendered.stdout, inside=netns)
    else:
        four, six = rendered.stdout.split("# ip6tables-restore --noflush\n")
        run_tool(["iptables-restore", "--noflush"], stdin=four, inside=netns)
        run_tool(["ip6tables-restore", "--noflush"], stdin=six, inside=netns)
    ran = run("diff", "--mode", mode, "-o", "json", "-v", state=state)
    assert (ran.document()["services"], ran.document()["base"]) == ([], []), ran


def test_status_shows_frontends_endpoints_and_drift(run: Run, netns: Namespace, mode: str) -> None:
    ran = run("status")
    assert (ran.status, "nothing of netplane's" in ran.stdout) == (0, True), ran
    run("apply", "--mode", mode, state=_state("10.244.1.7", "10.244.1.8"))
    ran = run("status")
    assert ran.status == 0, ran
    for text in (mode, "default/web:http", "172.30.0.10:80/tcp", "10.244.1.7:8080"):
        assert text in ran.stdout
    documents = {m["mode"]: m for m in run("status", "-o", "json").document()["modes"]}
    assert {name for name, found in documents.items() if found["installed"]} == {mode}
    assert documents[mode]["drift"] == []
    assert {f["label"] for f in documents[mode]["frontends"]} == {"default/web:http"}
    if mode == "iptables":
        run_tool(["iptables", "-t", "nat", "-F", "PREROUTING"], inside=netns)
    else:
        run_tool(["nft", "add", "rule", "ip", "netplane", "balance", "accept"], inside=netns)
    (found,) = run("status", "-o", "json", "--mode", mode).document()["modes"]
    assert found["drift"]


def test_cleanup_removes_all_and_only_ours(run: Run, netns: Namespace, mode: str) -> None:
    run_tool(["iptables", "-t", "nat", "-A", "POSTROUTING", "-j", "ACCEPT"], inside=netns)
    run_tool(["nft", "add", "table", "inet", "somebody"], inside=netns)
    run_tool(["ip6tables", "-t", "filter", "-S"], inside=netns)
    run("apply", "--mode", mode, state=_state("10.244.1.7"))
    ran = run("cleanup")
    assert ran.status == 0, ran
    assert ran.stdout
    left = ruleset(netns)
    assert "table inet somebody" in left
    assert "table ip nat" in left
    assert "netplane" not in left
    assert "KUBE-" not in left
    ran = run("cleanup")
    assert (ran.status, ran.stdout) == (0, "nothing to remove\n")


def test_switching_modes_leaves_one(run: Run, netns: Namespace) -> None:
    state = _state("10.244.1.7")
    for mode, gone in (("iptables", "netplane"), ("nftables", "KUBE-"), ("iptables", "netplane")):
        ran = run("apply", "--mode", mode, state=state)
        assert ran.status == 0, ran
        assert ran.stdout != "no change\n"
        assert gone not in ruleset(netns).replace("KUBE-FIREWALL", "")
        ran = run("apply", "--mode", mode, state=state)
        assert ran.stdout == "no change\n", ran.stdout
    ran = run("diff", "--mode", "nftables", "-o", "json", state=state)
    assert any("iptables" in step for step in ran.document()["also"])


def test_localhost_is_routable_only_where_it_serves(run: Run, netns: Namespace) -> None:
    def value() -> str:
        return netns.call(Path("/proc/sys/net/ipv4/conf/all/route_localnet").read_text).strip()

    run("apply", "--localhost-nodeports=false", state=_state())
    assert value() == "0"
    run("apply", "--nodeport-addresses=192.0.2.0/24", state=_state())
    assert value() == "0"
    ran = run("apply", "--nodeport-addresses=", state=_state())
    assert value() == "1"
    assert "route_localnet" in ran.stdout


def test_stale_udp_flows_are_deleted_without_any_rule_change(
    run: Run, netns: Namespace, mode: str
) -> None:
    ip("-n", str(netns.name), "address", "add", "172.30.0.53/32", "dev", "lo")
    ip("-n", str(netns.name), "address", "add", "10.244.1.7/32", "dev", "lo")
    dns = service("dns", cluster_ips=("172.30.0.53",), ports=_UDP)
    slice_ = endpoint_slice("dns", ("10.244.1.7",), ports=_UDP)
    run_tool(
        ["iptables", "-A", "OUTPUT", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT"],
        inside=netns,
    )

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.bind(("", 4001))
            client.sendto(b"x", ("172.30.0.53", 53))

    netns.call(send)  # a flow from before there were rules
    ran = run("apply", "--mode", mode, "-o", "json", state=_state(extra=(dns, slice_)))
    assert ran.status == 0, ran
    (flow,) = ran.document()["flows"]
    assert (flow["frontend"], flow["endpoint"]) == ("172.30.0.53:53", "172.30.0.53:53")
    ran = run("apply", "--mode", mode, state=_state(extra=(dns, slice_)))
    assert ran.stdout == "no change\n"


@pytest.mark.parametrize(
    "trace",
    [
        pytest.param(["iptables-nft", "-t", "mangle", "-N", "KUBE-PROXY-CANARY"], id="nft canary"),
        pytest.param(
            ["ip6tables-legacy", "-t", "nat", "-N", "KUBE-PROXY-CANARY"], id="legacy canary"
        ),
        pytest.param(["nft", "add", "table", "ip", "kube-proxy"], id="table"),
    ],
)
def test_a_kube_proxy_is_refused_until_taken_over(
    run: Run, netns: Namespace, trace: list[str], mode: str
) -> None:
    run_tool(trace, inside=netns)
    before = ruleset(netns)
    ran = run("apply", "--mode", mode, state=_state())
    assert ran.status == 1, ran
    assert "--take-over" in ran.stderr
    assert run("cleanup").stdout == "nothing to remove\n"
    assert run("diff", "--mode", mode, state=_state()).status == 1
    assert ruleset(netns) == before
    ran = run("apply", "--mode", mode, "--take-over", state=_state())
    assert ran.status == 0, ran
    after = ruleset(netns)
    assert "CANARY" not in after
    assert "kube-proxy {" not in after
    assert run("apply", "--mode", mode, state=_state()).stdout == "no change\n"


def test_cleanup_gives_a_node_back_to_a_kube_proxy(run: Run, netns: Namespace) -> None:
    """From nftables mode: its rules are there already, under the names of our chains."""
    assert run("apply", "--mode", "nftables", state=_state()).status == 0
    for table, chain in (("mangle", "KUBE-PROXY-CANARY"), ("nat", "KUBE-SERVICES")):
        run_tool(["iptables", "-w", "5", "-t", table, "-N", chain], inside=netns)
    ran = run("cleanup")
    assert ran.status == 0, ran
    assert "table ip netplane" in ran.stdout
    assert "left to a kube-proxy" in ran.stderr
    assert "table ip netplane" not in ruleset(netns)
    assert "KUBE-SERVICES" in ruleset(netns)
    assert "KUBE-PROXY-CANARY" in ruleset(netns)


def test_cleanup_leaves_the_table_of_a_kube_proxy(run: Run, netns: Namespace) -> None:
    """In its nftables mode it has no chains: those there are ours."""
    assert run("apply", "--mode", "iptables", state=_state()).status == 0
    run_tool(["nft", "add", "table", "ip", "kube-proxy"], inside=netns)
    assert run("cleanup").status == 0
    assert "KUBE-SERVICES" not in ruleset(netns)
    assert "table ip kube-proxy" in ruleset(netns)


def test_a_kube_proxy_process_is_found_in_its_own_namespace(
    run: Run, netns: Namespace, tmp_path: Path
) -> None:
    program = tmp_path / "kube-proxy"
    program.symlink_to("/bin/sleep")
    process = netns.call(lambda: subprocess.Popen([program, "60"]))
    try:
        ran = run("apply", state=_state())
        assert ran.status == 1
        assert f"process {process.pid}" in ran.stderr
    finally:
        process.kill()
        process.wait()
    assert run("apply", state=_state()).status == 0


def test_doctor_finds_what_is_there(run: Run, netns: Namespace, mode: str) -> None:
    run_tool(["iptables-legacy", "-t", "nat", "-A", "PREROUTING", "-j", "ACCEPT"], inside=netns)
    before = ruleset(netns)
    ran = run("doctor", "-o", "json", "--mode", mode)
    assert ran.status == 0, ran
    findings = json.loads(ran.stdout)
    levels = {(finding["check"], finding["level"]) for finding in findings}
    assert ("privileges", "ok") in levels
    assert ("kernel features", "ok") in levels
    assert ("kernel features", "stop") not in levels
    assert ("legacy rules", "warn") in levels
    assert ("kube-proxy", "ok") in levels
    assert all(finding["todo"] for finding in findings if finding["level"] != "ok")
    assert ruleset(netns) == before
    run_tool(["nft", "add", "table", "ip", "kube-proxy"], inside=netns)
    ran = run("doctor", "--mode", mode)
    assert ran.status == 1
    assert "stop" in ran.stdout
    assert "-> " in ran.stdout


def test_doctor_makes_no_legacy_table(run: Run, netns: Namespace) -> None:
    assert run("doctor").status == 0
    names = Path("/proc/thread-self/net/ip_tables_names")
    assert not names.exists() or netns.call(names.read_text) == ""


def test_the_process_stays_where_it_is(run: Run, mode: str) -> None:
    before = Path("/proc/self/ns/net").stat()
    threads = threading.active_count()
    for command in ("apply", "diff", "status", "cleanup", "doctor"):
        arguments = ("--mode", mode) if command != "cleanup" else ()
        state = _state() if command in {"apply", "diff"} else None
        assert run(command, *arguments, state=state).status in {0, 1}
    after = Path("/proc/self/ns/net").stat()
    assert (before.st_dev, before.st_ino) == (after.st_dev, after.st_ino)
    assert threading.active_count() == threads


def test_a_process_reads_the_standard_input(netns: Namespace, mode: str) -> None:
    state = {"apiVersion": "v1", "kind": "List", "items": _state("10.244.1.7")}
    argv = [sys.executable, "-m", "netplane", "apply", "-f", "-", "--netns", str(netns.name)]
    done = subprocess.run(
        [*argv, "--mode", mode, "--node", "node-1"],
        input=json.dumps(state),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "default/web:http" in done.stdout
    assert "\x1b" not in done.stdout
    assert "172.30.0.10" in ruleset(netns)


def test_without_privileges_only_render_works(tmp_path: Path, mode: str) -> None:
    state = tmp_path / "state.json"
    items = _state("10.244.1.7")
    state.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    on_state = ("-f", str(state), "--node", "node-1", "--mode", mode)
    argv = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-m", "netplane"]

    def powerless(*arguments: str) -> tuple[int, str]:
        done = subprocess.run([*argv, *arguments], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    status, printed = powerless("render", *on_state)
    assert (status, "172.30.0.10" in printed) == (0, True)
    for command, wanted in (("apply", 1), ("diff", 3), ("status", 1), ("cleanup", 1)):
        status, printed = powerless(command, *(on_state if command in {"apply", "diff"} else ()))
        assert (status, "CAP_NET_ADMIN" in printed) == (wanted, True), printed
    status, printed = powerless("doctor", "--mode", mode)
    assert (status, "run as root" in printed) == (1, True), printed


def test_local_endpoints_need_the_node(run: Run, mode: str) -> None:
    """The node's name decides what is local, so a wrong one is worth a warning."""
    state = [
        *_state(),
        service("local", cluster_ips=("172.30.0.11",), internalTrafficPolicy="Local"),
        endpoint_slice("local", [endpoint("10.244.1.7", node="node-1")]),
    ]
    ran = run("apply", "--mode", mode, "--node", "node-2", state=state)
    assert ran.status == 0, ran
    assert "no Node named node-2" in ran.stderr
    ran = run("apply", "--mode", mode, state=state)
    assert ran.stderr == ""
    assert "default/local:http" in ran.stdout


def test_node_ports_that_answer_nowhere_are_worth_a_warning(run: Run) -> None:
    """In nftables mode they answer on the primary address, which only the Node tells."""
    state = [item for item in _state("10.244.1.7") if item["kind"] != "Node"]
    for command in ("render", "apply"):
        ran = run(command, "--mode", "nftables", state=state)
        assert ran.status == 0, ran
        assert "IPv4: 1 NodePorts answer on no address" in ran.stderr
        ran = run(command, "--mode", "nftables", "--node-ip", "192.0.2.1", state=state)
        assert "NodePorts" not in ran.stderr
