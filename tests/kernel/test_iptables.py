"""The iptables mode on a real kernel: both variants, both families."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from netplane.apply.iptables import xtables_lock
from netplane.apply.iptables.mode import IptablesDataplane
from netplane.apply.iptables.programs import Tools, Variant
from netplane.apply.netns import Namespace
from netplane.apply.sync import Sync
from netplane.config import Setting, resolve
from netplane.core.iptables.compile import compile_family
from netplane.core.iptables.steps import Step
from netplane.core.model.address import Family
from netplane.core.model.service import Protocol
from netplane.core.model.snapshot import Snapshot
from netplane.core.plan.node import DetectorKind, LocalDetector
from netplane.core.plan.plan import FamilyPlan
from netplane.core.plan.port import PortPlan
from netplane.errors import BusyError, LockedError, RefusedError
from netplane.rendering import environment
from tests.support.host_iptables import use_iptables
from tests.support.netns import run_tool
from tests.unit.iptables.plans import family_plan, plan, port, view

pytestmark = pytest.mark.kernel

PODS = ("10.180.0.1:80", "10.180.0.2:80", "10.180.0.3:80")
PODS_V6 = ("[fd00:10::1]:80", "[fd00:10::2]:80")


@pytest.fixture(params=list(Variant), ids=lambda variant: variant.value)
def variant(request: pytest.FixtureRequest) -> Variant:
    found: Variant = request.param
    return found


@pytest.fixture
def dataplane(netns: Namespace, variant: Variant) -> IptablesDataplane:
    return IptablesDataplane(netns, variant=variant, lock_wait=60)


def _save(netns: Namespace, variant: Variant, family: Family = Family.IPV4) -> list[str]:
    name = "iptables" if family is Family.IPV4 else "ip6tables"
    text = run_tool([f"{name}-{variant.value}-save"], inside=netns)
    return [line for line in text.split("\n") if line and not line.startswith("#")]


def _restore(netns: Namespace, variant: Variant, text: str, family: Family = Family.IPV4) -> None:
    name = "iptables" if family is Family.IPV4 else "ip6tables"
    argv = [f"{name}-{variant.value}-restore", "-w", "60", "--noflush"]
    run_tool(argv, stdin=text, inside=netns)


def _every_form(family: Family) -> tuple[PortPlan, ...]:
    """Service ports that together have every form of rule the template can write."""
    v4 = family is Family.IPV4
    pods = PODS if v4 else PODS_V6
    vip, external = ("1.2.3.4", "192.0.2.1") if v4 else ("2001:db8::4", "2001:db8:1::1")
    address = "172.30.0." if v4 else "fd00:30::"
    ranges = ("192.168.0.0/16", "0.0.0.0/0") if v4 else ("2001:db8:2::/48", "::/0")
    return (
        port("a/one:http", f"{address}1", cluster=pods, node_port=30080, affinity_seconds=60),
        port(
            "a/two:dns",
            f"{address}2",
            cluster=pods,
            local=pods[:1],
            protocol=Protocol.UDP,
            load_balancer_ips=(vip,),
            external_ips=(external,),
            external_local=True,
            source_ranges=ranges,
            vips_may_enter=True,
            health_check_node_port=31000,
        ),
        port(
            "a/three",
            f"{address}3",
            cluster=pods,
            local=pods[1:],
            protocol=Protocol.SCTP,
            node_port=30081,
            internal_local=True,
        ),
        port("a/four", f"{address}4", node_port=30082, external_ips=(external,), number=81),
        port(
            "a/five",
            f"{address}5",
            cluster=pods,
            internal_local=True,
            external_local=True,
            node_port=30083,
            load_balancer_ips=(vip,),
            number=82,
        ),
    )


DETECTORS = (
    LocalDetector(),
    LocalDetector(DetectorKind.BRIDGE_INTERFACE, "cbr0"),
    LocalDetector(DetectorKind.INTERFACE_PREFIX, "veth"),
)


def _views(family: Family) -> Iterator[FamilyPlan]:
    """Every form of rule under every configuration of a node that changes rules."""
    base = view(family)
    addresses = ("10.0.0.1", "192.0.2.9") if family is Family.IPV4 else ("fd00::1",)
    replace = msgspec.structs.replace
    for on in (
        base,
        replace(base, masquerade_all=True, masquerade_mark=0x80000000, drop_invalid=False),
        replace(base, node_port_addresses=addresses, localhost_node_ports=True),
        replace(base, node_port_addresses=(), localhost_node_ports=True),
        replace(base, localhost_node_ports=True),
        *(replace(base, detector=detector) for detector in DETECTORS),
    ):
        yield FamilyPlan(view=on, ports=_every_form(family))


def test_what_is_written_is_what_iptables_save_prints(
    netns: Namespace, variant: Variant, dataplane: IptablesDataplane
) -> None:
    for v4, v6 in zip(_views(Family.IPV4), _views(Family.IPV6), strict=True):
        dataplane.prepare(plan(v4, v6)).commit()
        for planned in (v4, v6):
            desired = compile_family(planned, environment())
            written = [
                rule
                for table in desired.tables
                for rules in (*desired.tables[table].values(), desired.jumps[table])
                for rule in rules
            ]
            found = [line for line in _save(netns, variant, planned.family) if line[0] == "-"]
            assert sorted(found) == sorted(written)
        assert not dataplane.prepare(plan(v4, v6)).changes


def test_jumps_stand_in_the_order_of_kube_proxys(
    netns: Namespace, variant: Variant, dataplane: IptablesDataplane
) -> None:
    _restore(netns, variant, "*filter\n-A INPUT -j DROP\nCOMMIT\n")
    dataplane.prepare(plan(family_plan())).commit()
    targets = [
        line.rpartition(" ")[2] for line in _save(netns, variant) if line.startswith("-A INPUT")
    ]
    assert targets == [
        "KUBE-FIREWALL",
        "KUBE-PROXY-FIREWALL",
        "KUBE-NODEPORTS",
        "KUBE-EXTERNAL-SERVICES",
        "DROP",
    ]


def test_a_second_apply_writes_nothing(
    netns: Namespace, variant: Variant, dataplane: IptablesDataplane
) -> None:
    planned = plan(family_plan(port(cluster=PODS)))
    dataplane.prepare(planned).commit()
    with Namespace(netns.name) as inside:
        update = IptablesDataplane(inside, variant=variant).prepare(planned)
    assert not update.changes
    update.commit()  # the namespace has been left: to run anything in it would fail


def test_rendered_text_loads_as_it_is(
    netns: Namespace, variant: Variant, dataplane: IptablesDataplane
) -> None:
    for family in Family:
        planned = FamilyPlan(view=view(family), ports=_every_form(family))
        _restore(netns, variant, dataplane.render_family(planned), family)
        assert not dataplane.prepare(plan(planned)).changes


def test_unchanged_chains_keep_their_counters(
    netns: Namespace, dataplane: IptablesDataplane
) -> None:
    one = port("ns/one", "172.30.0.1", cluster=("127.0.0.1:9",))
    two = port("ns/two", "172.30.0.2", cluster=PODS)
    dataplane.prepare(plan(family_plan(one, two))).commit()
    run_tool(["ip", "-n", netns.name or "", "route", "add", "default", "dev", "lo"])
    connect = "import socket;s=socket.socket();s.settimeout(.2);s.connect_ex(('172.30.0.1',80))"
    run_tool(["python3", "-c", connect], inside=netns)
    assert _connections(dataplane, "ns/one") == [1]
    fewer = msgspec.structs.replace(two, cluster=two.cluster[:2])
    dataplane.prepare(plan(family_plan(one, fewer))).commit()
    assert _connections(dataplane, "ns/one") == [1]
    assert len(_connections(dataplane, "ns/two")) == 2


def _connections(dataplane: IptablesDataplane, label: str) -> list[int | None]:
    (frontend,) = (f for f in dataplane.status().frontends if f.label == label)
    return [endpoint.connections for endpoint in frontend.endpoints]


def test_stale_chains_are_deleted_whatever_their_number(
    netns: Namespace, variant: Variant, dataplane: IptablesDataplane
) -> None:
    many = tuple(
        port(f"ns/svc-{i:04}", f"172.30.{i >> 8}.{i & 255}", cluster=PODS, node_port=30000 + i)
        for i in range(700)
    )
    dataplane.prepare(plan(family_plan(*many))).commit()
    dataplane.prepare(plan(family_plan(many[0]))).commit()
    left = [line.split(" ")[0] for line in _save(netns, variant) if line.startswith(":KUBE-S")]
    assert len(left) == 6  # KUBE-SERVICES twice, one SVC and its three SEP
    assert dataplane.status().drift == ()


FOREIGN = """*filter
:INPUT DROP [0:0]
:DOCKER - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-ROUTER-INPUT - [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m comment --comment "a \\"quoted\\" -j KUBE-SERVICES" -j DOCKER
-A KUBE-ROUTER-INPUT -s 10.0.0.0/8 -j RETURN
COMMIT
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*mangle
:KUBE-SVC-IN-MANGLE - [0:0]
-A KUBE-SVC-IN-MANGLE -j MARK --set-xmark 0x1/0xffffffff
COMMIT
"""


def test_foreign_rules_survive_apply_and_cleanup(
    netns: Namespace, variant: Variant, dataplane: IptablesDataplane
) -> None:
    _restore(netns, variant, FOREIGN)
    before = _save(netns, variant)
    dataplane.prepare(plan(family_plan(port(cluster=PODS, node_port=30080)))).commit()
    during = _save(netns, variant)
    assert [line for line in during if line in before] == before
    assert len(during) > len(before)
    assert dataplane.cleanup()
    assert _save(netns, variant) == before
    assert dataplane.cleanup() == ()


def test_cleanup_leaves_the_kubelet_its_chain(
    netns: Namespace, variant: Variant, dataplane: IptablesDataplane
) -> None:
    kubelet = (
        "*filter\n:KUBE-FIREWALL - [0:0]\n:KUBE-KUBELET-CANARY - [0:0]\n"
        "-A INPUT -j KUBE-FIREWALL\n-A OUTPUT -j KUBE-FIREWALL\n"
        "-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP\nCOMMIT\n"
    )
    _restore(netns, variant, kubelet)
    before = _save(netns, variant)
    on = msgspec.structs.replace(view(), localhost_node_ports=True)
    planned = plan(family_plan(port(cluster=PODS), on=on))
    dataplane.prepare(planned).commit()
    assert not dataplane.prepare(planned).changes
    dataplane.cleanup()
    ours = [line for line in _save(netns, variant) if line not in before and "*nat" not in line]
    localnet = [line for line in ours if line.startswith("-A")]
    assert [line.split(" ")[1] for line in localnet] == ["KUBE-FIREWALL"]
    assert not dataplane.status().installed


def test_a_foreign_rule_into_a_chain_of_ours_does_not_stop_us(
    netns: Namespace, variant: Variant, dataplane: IptablesDataplane
) -> None:
    dataplane.prepare(plan(family_plan(port(cluster=PODS)))).commit()
    chain = "KUBE-SVC-XPGD46QRK7WJZT7O"
    _restore(netns, variant, f"*nat\n:MINE - [0:0]\n-A MINE -j {chain}\nCOMMIT\n")
    dataplane.prepare(plan(family_plan())).commit()
    assert not dataplane.prepare(plan(family_plan())).changes
    assert f"-A MINE -j {chain}" in _save(netns, variant)
    assert not any(line.startswith(f"-A {chain}") for line in _save(netns, variant))


def test_an_edited_chain_is_found_and_repaired(
    netns: Namespace, variant: Variant, dataplane: IptablesDataplane
) -> None:
    planned = plan(family_plan(port(cluster=PODS)))
    dataplane.prepare(planned).commit()
    edit = (
        "*nat\n:KUBE-SEP-SXIVWICOYRO3J4NJ - [0:0]\n"
        '-D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES\n'
        "COMMIT\n"
    )
    _restore(netns, variant, edit)
    assert len(dataplane.status().drift) == 2
    update = dataplane.prepare(planned)
    assert update.changes.services[0].endpoints_added == ("10.180.0.1:80",)
    update.commit()
    assert dataplane.status().drift == ()


def test_jumps_written_twice_are_there_once_again(
    netns: Namespace, variant: Variant, dataplane: IptablesDataplane
) -> None:
    planned = plan(family_plan(port(cluster=PODS)))
    dataplane.prepare(planned).commit()
    before = _save(netns, variant)
    jump = '-m comment --comment "kubernetes service portals" -j KUBE-SERVICES'
    _restore(netns, variant, f"*nat\n-A PREROUTING {jump}\n-I OUTPUT {jump}\nCOMMIT\n")
    update = dataplane.prepare(planned)
    assert update.changes
    update.commit()
    assert _save(netns, variant) == before


def test_legacy_tables_are_not_created_by_looking(netns: Namespace) -> None:
    IptablesDataplane(netns, variant=Variant.LEGACY).status()
    names = netns.call(Path("/proc/thread-self/net/ip_tables_names").read_text)
    assert names == ""


def test_a_refused_line_is_shown(netns: Namespace, variant: Variant) -> None:
    tools = Tools(netns, variant, 60)
    text = "*nat\n:KUBE-SVC-X - [0:0]\n-A KUBE-SVC-X -m nosuchmatch -j RETURN\nCOMMIT\n"
    with pytest.raises(RefusedError, match=r"line 3, `-A KUBE-SVC-X -m nosuchmatch") as caught:
        tools.restore(Family.IPV4, Step("nat", "a test", text))
    assert caught.value.line == 3


def test_a_failure_says_what_was_written(
    netns: Namespace, variant: Variant, dataplane: IptablesDataplane
) -> None:
    dataplane.prepare(plan(family_plan(port(cluster=PODS)))).commit()
    update = dataplane.prepare(plan(family_plan(port(node_port=30080))))
    # Somebody leads a rule to a chain that is about to be deleted, after we have looked.
    _restore(netns, variant, "*nat\n:MINE - [0:0]\n-A MINE -j KUBE-SEP-SXIVWICOYRO3J4NJ\nCOMMIT\n")
    with pytest.raises(RefusedError) as caught:
        update.commit()
    assert caught.value.written == "IPv4 filter (fixed chains, jumps, refusals of what stops)"
    assert "Not written: IPv4 nat (dispatch chains and jumps)" in str(caught.value)
    dataplane.prepare(plan(family_plan(port(node_port=30080)))).commit()
    assert not dataplane.prepare(plan(family_plan(port(node_port=30080)))).changes


def test_the_holder_of_the_lock_is_named(
    netns: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "xtables.lock"
    monkeypatch.setenv("XTABLES_LOCKFILE", str(lock))
    dataplane = IptablesDataplane(netns, variant=Variant.LEGACY, lock_wait=1)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match=rf"process {os.getpid()} \(\w+") as caught:
            dataplane.prepare(plan(family_plan())).commit()
    assert "Written: nothing" in str(caught.value)
    assert caught.value.retryable
    dataplane.prepare(plan(family_plan())).commit()
    assert not dataplane.prepare(plan(family_plan())).changes


def test_who_inherited_the_lock_is_named_where_its_taker_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What scripts do: flock(1) takes the lock on a descriptor of the shell's, and ends.
    lock = tmp_path / "xtables.lock"
    monkeypatch.setenv("XTABLES_LOCKFILE", str(lock))
    script = 'exec 9>"$0"; flock 9; echo taken; read -r _'
    with subprocess.Popen(
        ["/bin/sh", "-c", script, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as shell:
        assert shell.stdout is not None
        assert shell.stdout.readline() == b"taken\n"
        assert xtables_lock.holder() == f"process {shell.pid} (sh)"
        shell.communicate(b"\n")
    assert not xtables_lock.holder()


def test_the_lock_is_waited_for_once_in_a_sync(
    netns: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_iptables("legacy", tmp_path, monkeypatch)
    lock = tmp_path / "xtables.lock"
    monkeypatch.setenv("XTABLES_LOCKFILE", str(lock))
    config = resolve(None, {"node_name": Setting("node-1", "test")}, host_name="")
    sync = Sync(netns, config, Snapshot(services={}, slices={}, nodes={}))
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        began = time.monotonic()
        with pytest.raises(LockedError, match="waited 5 s in vain"):
            sync.commit()
    assert time.monotonic() - began < 10


def test_without_privileges_it_is_not_taken_for_an_empty_kernel(
    netns: Namespace, variant: Variant
) -> None:
    code = (
        "from netplane.apply.iptables.mode import IptablesDataplane, Variant\n"
        "from netplane.apply.netns import Namespace\n"
        f"IptablesDataplane(Namespace(), variant=Variant({variant.value!r})).status()\n"
    )
    drop = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]
    argv = [*drop, sys.executable, "-c", code]
    done = netns.call(
        lambda: subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    )
    assert "netplane.errors.PrivilegeError" in done.stderr


def test_the_hosts_variant_is_the_default(netns: Namespace) -> None:
    version = run_tool(["iptables", "--version"], inside=netns)
    expected = Variant.NFT if "nf_tables" in version else Variant.LEGACY
    assert IptablesDataplane(netns).variant is expected


def test_a_kernel_without_ipv6_is_served_in_ipv4(
    netns: Namespace,
    variant: Variant,
    dataplane: IptablesDataplane,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("netplane.apply.iptables.programs._IPV6", tmp_path / "no-such-directory")
    v4, v6 = (FamilyPlan(view=view(family), ports=_every_form(family)) for family in Family)
    dataplane.prepare(plan(v4, v6)).commit()
    assert dataplane.notes == ("IPv6 is left out: the kernel has no IPv6",)
    assert not dataplane.prepare(plan(v4)).changes
    assert not any("KUBE-" in line for line in _save(netns, variant, Family.IPV6))
