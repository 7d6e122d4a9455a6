"""Where faults are let happen: a namespace that is somebody else's, too, and states to sync."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

from netplane.apply.netns import Namespace
from tests.support.kernel_state import steady
from tests.support.manifests import Object, endpoint_slice, node, service
from tests.support.netns import new_netns, run_tool

_FOREIGN_NFT = """
table inet foreign {
    set seen { type ipv4_addr; elements = { 192.0.2.7, 192.0.2.8 } }
    chain prerouting { type nat hook prerouting priority -90; ip daddr @seen tcp dport 80 accept; }
}
table ip foreign { chain c { tcp dport 1 drop; }; }
"""
_FOREIGN_IPTABLES = """*nat
:FOREIGN - [0:0]
-A PREROUTING -d 192.0.2.9/32 -j FOREIGN
-A FOREIGN -p tcp -m tcp --dport 8080 -j ACCEPT
COMMIT
*filter
:FOREIGN - [0:0]
-A FORWARD -s 192.0.2.9/32 -j FOREIGN
COMMIT
"""
_TARGET = re.compile(r"-[jg] (KUBE-(?:SVC|SVL|EXT|SEP|FW)-\S+)")
STALE_ADDRESS = "172.30.1.53"
_FOREIGN_ADDRESS = "192.0.2.53"


@contextmanager
def scene() -> Iterator[Namespace]:
    """A namespace that is somebody else's, too."""
    with new_netns() as netns:
        run_tool(["nft", "-f", "-"], stdin=_FOREIGN_NFT, inside=netns)
        run_tool(["iptables-restore", "-n"], stdin=_FOREIGN_IPTABLES, inside=netns)
        _add_flow(netns, _FOREIGN_ADDRESS, _FOREIGN_ADDRESS)
        yield netns


def others_state(netns: Namespace) -> list[str]:
    """Everything that is not ours, as text."""
    found = [run_tool(["iptables-save"], inside=netns)]
    found += [
        run_tool(["nft", "-a", "list", "table", *name.split()], inside=netns)
        for name in ("inet foreign", "ip foreign")
    ]
    lines = [line for line in steady("\n".join(found)).splitlines() if "KUBE-" not in line]
    # iptables lists built-in chains and tables as soon as anybody has looked for them.
    rules = [line for line in lines if line[:1] not in {":", "*"} and line != "COMMIT"]
    return rules + re.findall(f"src=.*dst={_FOREIGN_ADDRESS}.*", udp_flows(netns))


def add_stale_flow(netns: Namespace) -> None:
    """A flow to the Service dns that goes to the endpoint which the old state has."""
    _add_flow(netns, STALE_ADDRESS, "10.244.1.53")


def _add_flow(netns: Namespace, address: str, answers: str) -> None:
    tuples = f"-s 10.244.1.99 -d {address} --sport 5353 --dport 53 -r {answers} -q 10.244.1.99"
    rest = "--reply-port-src 53 --reply-port-dst 5353 --timeout 600"
    run_tool(["conntrack", "-I", "-p", "udp", *tuples.split(), *rest.split()], inside=netns)


def udp_flows(netns: Namespace) -> str:
    """All of them, as conntrack lists them."""
    return run_tool(["conntrack", "-L", "-p", "udp"], inside=netns)


def half_services(held: dict[str, object]) -> list[str]:
    """Services that packets reach and that do not have all they need; ``held`` is a meaning."""
    found = []
    for program in ("iptables-save", "ip6tables-save"):
        tables = held[program]
        assert isinstance(tables, dict)
        for chains in tables.values():
            found += [
                f"{program}: {chain} leads to {target}, which is empty"
                for chain, rules in chains.items()
                for target in _TARGET.findall("\n".join(rules))
                if not chains.get(target)
            ]
    for family in ("ip", "ip6"):
        table = held.get(family)
        if table is not None:
            assert isinstance(table, dict)
            found += [f"{family}: {line}" for line in _half_picks(table)]
    return found


def _half_picks(program: dict[str, list[str]]) -> Iterator[str]:
    """Frontends that pick among so many slots and do not have them all; those beyond may wait."""
    for verdicts, endpoints in (("services", "endpoints"), ("nodeports", "nodeport-endpoints")):
        slots = dict(line.split(": slots ") for line in program[f"map {endpoints}"][1:])
        for line in program[f"map {verdicts}"][1:]:
            key, verdict = json.loads(line)
            picked = re.search(r"pick-(\d+)", json.dumps(verdict))
            if picked is None:
                continue
            frontend = json.dumps(key.get("elem", {"val": key})["val"]["concat"])
            wanted = str(list(range(int(picked[1])))).rstrip("]")
            if not slots.get(frontend, "").startswith(wanted):
                yield f"{frontend} wants the slots {wanted}, has {slots.get(frontend)}"


def states() -> dict[str, list[Object]]:
    """The objects of each state, by name: ``sticky`` is ``new`` and what only nft can write."""
    always = [
        node("node-1", ip="192.0.2.1"),
        service("stable", cluster_ips=["172.30.1.1"]),
        endpoint_slice("stable", ["10.244.1.1", "10.244.2.1"]),
        service("moved", cluster_ips=["172.30.1.2"]),
        service(
            "dns",
            cluster_ips=["172.30.1.53"],
            ports=[{"name": "dns", "port": 53, "protocol": "UDP"}],
        ),
    ]
    old = [
        *always,
        endpoint_slice("moved", ["10.244.1.2", "10.244.2.2"]),
        endpoint_slice(
            "dns", ["10.244.1.53"], ports=[{"name": "dns", "port": 53, "protocol": "UDP"}]
        ),
        service("gone", cluster_ips=["172.30.1.3"]),
        endpoint_slice("gone", ["10.244.1.3"]),
    ]
    new = [
        *always,
        endpoint_slice("moved", ["10.244.1.2", "10.244.2.20"]),
        endpoint_slice(
            "dns", ["10.244.2.53"], ports=[{"name": "dns", "port": 53, "protocol": "UDP"}]
        ),
        service(
            "fresh",
            cluster_ips=["172.30.1.4"],
            type="NodePort",
            ports=[{"name": "http", "port": 80, "nodePort": 30080}],
        ),
        endpoint_slice("fresh", ["10.244.1.4", "10.244.2.4", "10.244.3.4"]),
    ]
    sticky = [
        *new,
        service("sticky", cluster_ips=["172.30.1.5"], sessionAffinity="ClientIP"),
        endpoint_slice("sticky", ["10.244.1.5", "10.244.2.5"]),
    ]
    return {"old": old, "new": new, "sticky": sticky}
