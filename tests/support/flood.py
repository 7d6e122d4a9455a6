"""Packets by the ten thousand a second to one frontend, each the first of a connection.

Most of them come from a node, from a new client each; the others from the world around it, from a
few clients that come again and again. What becomes of them is counted in the kernel, between the
hooks that translate and those that refuse: nothing is answered, and nothing has to be.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from netplane.apply.netns import Namespace
from tests.support.netns import ip, new_netns, run_tool

ADDRESS = "172.30.0.10"
PORT = 53
_ENDPOINTS = "10.244.1.0/24"
_MARK = "0x4000"
_FRONTEND = f"ip daddr {ADDRESS} counter name missed"
_TRANSLATED = f"ip daddr {_ENDPOINTS} ct status dnat counter name led"
_ESCAPED = f"ip daddr {ADDRESS} counter name escaped"
_UNMARKED = f"ip daddr {_ENDPOINTS} ct status dnat meta mark & {_MARK} == 0 counter name unmarked"
# Translation is at -100; what is refused or dropped comes at 0, or before -100.
_WATCH = f"""
table ip watch {{
  counter missed {{ }}
  counter led {{ }}
  counter unmarked {{ }}
  counter escaped {{ }}
  chain seen {{ {_FRONTEND}; {_TRANSLATED}; {_UNMARKED}; }}
  chain output {{ type filter hook output priority -50; jump seen; }}
  chain prerouting {{ type filter hook prerouting priority -50; jump seen; }}
  chain sent {{ type filter hook output priority 10; {_ESCAPED}; }}
  chain forwarded {{ type filter hook forward priority 10; {_ESCAPED}; }}
}}
"""
# A list that changes without a commit of nftables; iptables' security table comes after filter.
_GONE = "-m recent --name gone --rcheck --rdest"
_RULES = f"""*security
-A OUTPUT {_GONE}
-A FORWARD {_GONE}
COMMIT
"""
_GONE_LIST = Path("/proc/thread-self/net/xt_recent/gone")
_MEMBARRIER = 324  # the system call, the same on all 64-bit machines but alpha and x32
_MEMBARRIER_CMD_GLOBAL = 1  # linux/membarrier.h
_STARTED_WITHIN = 60.0
#: The world leaves a processor to who changes the rules.
_PAUSE = 0.03

_SENDER = f"""
import socket, struct, sys, time
first, clients = map(int, sys.argv[1:3])
seconds, pause = map(float, sys.argv[3:])
link = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
target = int.from_bytes(socket.inet_aton("{ADDRESS}"), "big")
packet = bytearray(struct.pack(">BBHHHBBHII", 0x45, 0, 29, 0, 0, 64, 17, 0, 0, target))
packet += struct.pack(">HHHH", 0, {PORT}, 9, 0) + b"?"
source, port = struct.Struct(">I").pack_into, struct.Struct(">H").pack_into
sent = 0
until = time.monotonic() + seconds
while time.monotonic() < until:
    for _ in range(200):
        sent += 1
        source(packet, 12, first + sent * 7919 % clients)
        port(packet, 20, 1024 + sent % 60000)
        try:
            link.sendto(packet, ("{ADDRESS}", 0))
        except OSError:  # refused: that it came there is counted
            pass
    time.sleep(pause)
print(sent)
"""


class Seen(NamedTuple):
    """What has become of the packets.

    Attributes:
        led: Translated to an endpoint.
        missed: Not translated.
        escaped: Not translated, and not refused either.
        unmarked: Translated, and not marked for masquerade.
        gone: Translated to an endpoint that had gone before they were sent.
    """

    led: int
    missed: int
    escaped: int
    unmarked: int
    gone: int


class Flood:
    """What a flooded node sees; see ``flooded_node``."""

    def __init__(self, node: Namespace, world: Namespace) -> None:
        self.node = node
        self._world = world

    @contextmanager
    def running(self, seconds: float) -> Iterator[Iterator[None]]:
        """Send for so long; what it yields goes on until the last packet is sent."""
        with ExitStack() as stack:
            senders = [
                # New clients have to be chosen for, which is the longer way.
                stack.enter_context(_sender(self.node, "11.0.0.0", 14_000_000, seconds, 0)),
                stack.enter_context(_sender(self._world, "198.51.100.0", 250, seconds, _PAUSE)),
            ]
            yield _while_alive(senders, time.monotonic() + 10 * seconds + _STARTED_WITHIN)

    def say_gone(self, addresses: Iterable[str]) -> None:
        """No packet that is sent from now on may come to these endpoints."""
        _wait_for_packets_under_way()
        self._write("+", addresses)

    def say_coming(self, addresses: Iterable[str]) -> None:
        """These endpoints may come back."""
        self._write("-", addresses)

    def seen(self) -> Seen:
        """What has become of the packets so far."""
        listed = run_tool(["nft", "list", "counters", "table", "ip", "watch"], inside=self.node)
        found = dict(re.findall(r"counter (\w+) {\s+packets (\d+)", listed))
        saved = run_tool(["iptables-nft-save", "-c", "-t", "security"], inside=self.node)
        gone = re.findall(r"(?m)^\[(\d+):\d+\] -A .* --name gone ", saved)
        return Seen(
            led=int(found["led"]),
            missed=int(found["missed"]),
            escaped=int(found["escaped"]),
            unmarked=int(found["unmarked"]),
            gone=sum(map(int, gone)),
        )

    def _write(self, sign: str, addresses: Iterable[str]) -> None:
        def write() -> None:
            for address in addresses:
                _GONE_LIST.write_text(f"{sign}{address}\n", encoding="ascii")

        self.node.call(write)


@contextmanager
def flooded_node() -> Iterator[Flood]:
    """A node whose packets to endpoints go nowhere, which is as good, and a world beside it."""
    with new_netns() as node, new_netns() as world:
        for namespace in (node, world):
            for setting in ("conf.all.rp_filter=0", "conf.default.rp_filter=0", "ip_forward=1"):
                run_tool(["sysctl", "-qw", f"net.ipv4.{setting}"], inside=namespace)
        run_tool(["sysctl", "-qw", "net.netfilter.nf_conntrack_udp_timeout=1"], inside=node)
        mac = "address 02:00:00:00:00:07"
        lines = ["link add out0 type veth peer name out1", "link set out1 up", "link set out0 up"]
        lines += ["addr add 192.0.2.1/24 dev out0", "route add default via 192.0.2.2"]
        lines += ["neigh add 192.0.2.2 lladdr 02:00:00:00:00:01 dev out0"]
        lines += [f"link add up0 {mac} type veth peer name up1 {mac} netns {world}"]
        lines += ["link set up0 arp off up", "addr add 203.0.113.1/24 dev up0"]
        ip("-n", str(node), batch=lines)
        lines = ["link set up1 arp off up", "addr add 203.0.113.2/24 dev up1"]
        ip("-n", str(world), batch=[*lines, "route add default dev up1"])
        run_tool(["nft", "-f", "-"], stdin=_WATCH, inside=node)
        run_tool(["iptables-nft-restore", "--noflush"], stdin=_RULES, inside=node)
        yield Flood(node, world)


@contextmanager
def _sender(
    namespace: Namespace, first: str, clients: int, seconds: float, pause: float
) -> Iterator[subprocess.Popen[bytes]]:
    address = int.from_bytes(bytes(map(int, first.split("."))), "big")
    argv = [sys.executable, "-c", _SENDER, str(address), str(clients), str(seconds), str(pause)]
    with namespace.call(lambda: subprocess.Popen(argv, stdout=subprocess.DEVNULL)) as process:
        try:
            yield process
        finally:
            process.kill()


def _while_alive(senders: Iterable[subprocess.Popen[bytes]], deadline: float) -> Iterator[None]:
    while any(sender.poll() is None for sender in senders) and time.monotonic() < deadline:
        yield


def _wait_for_packets_under_way() -> None:
    """Until the kernel has done with every packet that is on its way (an RCU grace period)."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.syscall(_MEMBARRIER, _MEMBARRIER_CMD_GLOBAL, 0, 0) == 0, ctypes.get_errno()
