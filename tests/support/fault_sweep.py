"""One fault per run: what a sync that met it left behind, and whether the next one makes it good."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, Self

import msgspec

from netplane.apply.netns import Namespace
from tests.support.fault_subject import Order, Said
from tests.support.kernel_state import meaning, steady
from tests.support.manifests import Object, endpoint_slice, kube_list, node, service
from tests.support.netns import new_netns, require, run_tool
from tests.support.strace import Call, Fault, Trace, injected, recorded

ERRORS = ("ENOBUFS", "EPERM", "ENOMEM", "EINTR", "EAGAIN", "EMSGSIZE", "EIO")
_SECONDS = 30
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
_STALE_FLOW = (
    "-p udp -s 10.244.1.99 -d 172.30.1.53 --sport 5353 --dport 53 -r 10.244.1.53 -q 10.244.1.99"
    " --reply-port-src 53 --reply-port-dst 5353 --timeout 600"
).split()
_FOREIGN_FLOW = (
    "-p udp -s 10.244.1.99 -d 192.0.2.53 --sport 5354 --dport 53 -r 192.0.2.53 -q 10.244.1.99"
    " --reply-port-src 53 --reply-port-dst 5354 --timeout 600"
).split()


class Stage(NamedTuple):
    """What is done while the fault happens.

    Attributes:
        subject: By an engine or the command, see ``Order``.
        first: The state before; "" for an empty kernel.
        second: The state wanted.
    """

    subject: Literal["engine", "iptables", "nftables"]
    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.subject}-{'change' if self.first else 'cold'}-{self.second}"


class Undisturbed(NamedTuple):
    """A run without a fault: its calls by thread, and what the kernel held before and after."""

    calls: list[list[Call]]
    before: dict[str, object]
    after: dict[str, object]


class Verdict(NamedTuple):
    """What a fault came to: whether it happened, what was told, and what is not as it must be."""

    fault: Fault
    fired: bool
    told: str
    problems: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.fault}: {'; '.join(self.problems)} [told: {self.told or 'success'}]"


class Sweep:
    """Runs one stage again and again, each time in a fresh namespace; a context manager."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._folder = tempfile.TemporaryDirectory()
        self._subject: subprocess.Popen[bytes] | None = None
        self._undisturbed: Undisturbed | None = None
        self._child = 0

    def __enter__(self) -> Self:
        require()  # before the subject starts: it must see the same names
        for name, objects in _states().items():
            Path(self._folder.name, name).write_bytes(kube_list(*objects))
        self._subject = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fault_subject"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd=Path(__file__).parents[2],
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._subject is not None
        assert self._subject.stdin is not None
        assert self._subject.stdout is not None
        self._subject.stdin.close()
        self._subject.stdout.close()
        self._subject.wait(_SECONDS)
        self._folder.cleanup()

    def undisturbed(self, *, tree: bool = False) -> Undisturbed:
        """Run without a fault; ``tree``: the calls of the programs it starts are told, too."""
        with _prepared() as netns:
            ready = self._order(netns, self.stage.first)
            before = meaning(netns)
            with recorded(ready, tree=tree) as trace:
                first = self._go_on()
            after = meaning(netns)
            again = self._go_on()
            left = self._hear()
            assert first == again == left == Said(), (first, again, left)
            assert self._hear() == Said(ended=0)
            assert not _half_services(after), after
            self._undisturbed = Undisturbed(trace.calls(), before, after)
            return self._undisturbed

    def disturb(self, fault: Fault) -> Verdict:
        """Run with a fault, then go on without; says what is not as it must be."""
        if self._undisturbed is None:
            self.undisturbed()
        with _prepared() as netns:
            foreign = _foreign(netns)
            ready = self._order(netns, self.stage.first)
            if self.stage.first:
                run_tool(["conntrack", "-I", *_STALE_FLOW], inside=netns)
            with injected(ready, fault) as trace:
                said = self._go_on()
            problems = [*self._judge(netns, said)]
            if said.ended is None:
                problems += self._same_process()
            else:
                problems += self._fresh_process(netns)
            problems += self._judge_end(netns)
            if _foreign(netns) != foreign:
                problems.append("what is not ours has changed")
        told = said.failure if said.ended is None else f"ended {said.ended}"
        return Verdict(fault, trace.fired(), told.strip(), tuple(problems))

    def _judge(self, netns: Namespace, said: Said) -> Iterator[str]:
        """What is wrong right after the fault."""
        assert self._undisturbed is not None
        held = meaning(netns)
        if said.bug:
            yield f"a bug: {said.bug}"
        if said.ended is None and not said.failure and held != self._undisturbed.after:
            yield "reported as done, and is not"
        if held not in (self._undisturbed.before, self._undisturbed.after):
            yield from _half_services(held)

    def _same_process(self) -> Iterator[str]:
        again = self._go_on()
        if again != Said():
            yield f"then: {again.failure}{again.bug}"
        left = self._hear()
        if left.left:
            yield f"left open: {left.left}"
        ended = self._hear()
        if ended != Said(ended=0):
            yield f"the process ended strangely: {ended}"

    def _fresh_process(self, netns: Namespace) -> Iterator[str]:
        self._order(netns, "")
        first, _, left, ended = self._go_on(), self._go_on(), self._hear(), self._hear()
        if first != Said() or ended != Said(ended=0):
            yield f"a fresh process: {first}, {left}, {ended}"

    def _judge_end(self, netns: Namespace) -> Iterator[str]:
        assert self._undisturbed is not None
        if meaning(netns) != self._undisturbed.after:
            yield "the next sync does not make it good"
        if self.stage.subject != "engine" and "172.30.1.53" in _flows(netns):
            yield "a stale flow is still there"

    def _order(self, netns: Namespace, first: str) -> int:
        """Start a child; returns its process id when it is ready."""
        folder = Path(self._folder.name)
        subject, _, second = self.stage
        order = Order(str(netns), subject, str(folder / first) if first else "", str(folder / second))
        self._write(msgspec.json.encode(order))
        said = self._hear()
        assert said.ready, said
        self._child = said.ready
        return said.ready

    def _go_on(self) -> Said:
        """Let it act; returns what it tells, or how it ended."""
        self._write(b"go on")
        return self._hear()

    def _write(self, line: bytes) -> None:
        assert self._subject is not None
        assert self._subject.stdin is not None
        self._subject.stdin.write(line + b"\n")

    def _hear(self) -> Said:
        assert self._subject is not None
        assert self._subject.stdout is not None
        stdout = self._subject.stdout.fileno()
        line = b""
        deadline = time.monotonic() + _SECONDS
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([stdout], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                os.kill(self._child, signal.SIGKILL)
                raise AssertionError(f"nothing is heard for {_SECONDS} s")
            line += self._subject.stdout.read(1)
        return msgspec.json.decode(line, type=Said)


@contextmanager
def _prepared() -> Iterator[Namespace]:
    """A namespace that is somebody else's, too."""
    with new_netns() as netns:
        run_tool(["nft", "-f", "-"], stdin=_FOREIGN_NFT, inside=netns)
        run_tool(["iptables-restore", "-n"], stdin=_FOREIGN_IPTABLES, inside=netns)
        run_tool(["conntrack", "-I", *_FOREIGN_FLOW], inside=netns)
        yield netns


def _foreign(netns: Namespace) -> list[str]:
    """Everything that is not ours, as text."""
    found = [run_tool(["iptables-save"], inside=netns)]
    found += [
        run_tool(["nft", "-a", "list", "table", *name.split()], inside=netns)
        for name in ("inet foreign", "ip foreign")
    ]
    lines = [line for line in steady("\n".join(found)).splitlines() if "KUBE-" not in line]
    # iptables lists built-in chains and tables as soon as anybody has looked for them.
    rules = [line for line in lines if line[:1] not in {":", "*"} and line != "COMMIT"]
    flows = re.findall("src=.*dst=192.0.2.53.*", _flows(netns))
    return rules + flows


def _flows(netns: Namespace) -> str:
    return run_tool(["conntrack", "-L", "-p", "udp"], inside=netns)


def _half_services(held: dict[str, object]) -> list[str]:
    """Services that packets reach and that do not have all they need."""
    found = []
    for program in ("iptables-save", "ip6tables-save"):
        tables = held[program]
        assert isinstance(tables, dict)
        for table, chains in tables.items():
            for chain, rules in chains.items():
                for target in re.findall(r"-[jg] (KUBE-(?:SVC|SVL|EXT|SEP|FW)-\S+)", " ".join(rules)):
                    if not chains.get(target):
                        found.append(f"{table} {chain} leads to {target}, which is empty")
    for family in ("ip", "ip6"):
        program_ = held.get(family)
        if isinstance(program_, dict):
            found += [f"{family}: {line}" for line in _half_picks(program_)]
    return found


def _half_picks(program: dict[str, list[str]]) -> Iterator[str]:
    """Frontends that pick among so many slots and do not have just those."""
    for verdicts, endpoints in (("services", "endpoints"), ("nodeports", "nodeport-endpoints")):
        slots = dict(line.split(": slots ") for line in program[f"map {endpoints}"][1:])
        for line in program[f"map {verdicts}"][1:]:
            key, verdict = json.loads(line)
            picked = re.search(r"pick-(\d+)", json.dumps(verdict))
            if picked is None:
                continue
            frontend = json.dumps(key.get("elem", {"val": key})["val"]["concat"])
            wanted = str(list(range(int(picked[1]))))
            if not slots.get(frontend, "").startswith(wanted):
                yield f"{frontend} wants the slots {wanted}, has {slots.get(frontend)}"


def _states() -> dict[str, list[Object]]:
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
        service("fresh", cluster_ips=["172.30.1.4"], type="NodePort",
                ports=[{"name": "http", "port": 80, "nodePort": 30080}]),
        endpoint_slice("fresh", ["10.244.1.4", "10.244.2.4", "10.244.3.4"]),
    ]
    sticky = [
        *new,
        service("sticky", cluster_ips=["172.30.1.5"], sessionAffinity="ClientIP"),
        endpoint_slice("sticky", ["10.244.1.5", "10.244.2.5"]),
    ]
    return {"old": old, "new": new, "sticky": sticky}
