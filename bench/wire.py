"""What an element costs between Python and the kernel: encode, commit, dump, decode.

    sudo python -m bench.wire [services] [endpoints]        (10000 and 5)

In a network namespace of its own. It also watches how long others wait for the kernel while the
load goes on, in transactions of different sizes.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink.commit import commit_all
from netplane.apply.nfnetlink.socket import NfnetlinkSocket
from netplane.core.model.address import Family
from netplane.core.nftables.diff import ElementDelta
from netplane.core.nftables.layout import SETS, Key, Value, Verdict
from netplane.core.nftables.program import render_program
from netplane.core.nftables.wire import Message
from netplane.core.nftables.wire_compare import Comparison
from netplane.core.nftables.wire_rules import delete_chain, new_chain, new_chains
from netplane.core.nftables.wire_transactions import transactions
from netplane.core.plan.node import FamilyView
from netplane.core.plan.port import Backend
from netplane.rendering import environment

_T = TypeVar("_T")
_LAYOUTS = {layout.name: layout for layout in SETS}
_MARK = "meta mark set meta mark | 0x00004000"


def main(services: int, endpoints: int) -> None:
    deltas = _load(services, endpoints)
    count = services * (endpoints + 2)
    print(f"{services} Services x {endpoints} endpoints: {count} elements, microseconds each")
    with _namespace() as namespace, NfnetlinkSocket(namespace) as link:
        program = render_program(FamilyView(family=Family.IPV4), environment())
        _nft(namespace, program)
        series, seconds = _timed(lambda: list(_series(deltas, endpoints, 1 << 30)))
        _print("encode", seconds, count)
        generation = link.generation()
        _, seconds = _timed(lambda: commit_all(link, series, generation=generation))
        _print("commit, one transaction", seconds, count)
        for name in ("endpoints", "services"):
            layout, size = _LAYOUTS[name], services * (endpoints if name == "endpoints" else 1)
            wanted = dict(deltas[name].add)
            dump, seconds = _timed(partial(link.dump_elements, Family.IPV4, layout))
            _print(f"dump and decode {name}", seconds, size)
            assert dump.elements == wanted
            found, seconds = _timed(partial(link.compare_elements, Family.IPV4, layout, wanted))
            _print(f"dump and compare {name}", seconds, size)
            assert found is wanted
            bodies = _bodies(link, name)
            _, seconds = _timed(partial(_bodies, link, name))
            _print(f"dump {name} alone", seconds, size)
            _, seconds = _timed(partial(_compare, name, bodies, wanted))
            _print(f"compare {name} alone", seconds, size)
        _one_change(link, deltas)
        for limit in (1 << 30, 20_000, 10_000, 5_000, 2_500):
            _nft(namespace, f"delete table ip netplane\n{program}")
            _wait_while(namespace, link, deltas, endpoints, limit)


def _load(services: int, endpoints: int) -> dict[str, ElementDelta]:
    slots: list[tuple[Key, Value]] = []
    verdicts: list[tuple[Key, Value]] = []
    addresses: list[tuple[Key, Value]] = []
    for i in range(services):
        address = f"10.{96 + (i >> 16)}.{i >> 8 & 255}.{i & 255}"
        key = (address, 6, 80)
        backends = [i * endpoints + j for j in range(endpoints)]
        slots.append(
            (
                key,
                tuple(
                    Backend(f"10.{128 + (b >> 16)}.{b >> 8 & 255}.{b & 255}", 8080)
                    for b in backends
                ),
            )
        )
        verdicts.append((key, Verdict(f"pick-{endpoints}", f"default/service-{i}:http")))
        addresses.append(((address,), None))
    return {
        "cluster-ips": ElementDelta(add=addresses),
        "endpoints": ElementDelta(add=slots),
        "services": ElementDelta(add=verdicts),
    }


def _series(
    deltas: dict[str, ElementDelta], endpoints: int, limit: int
) -> Iterator[list[Message]]:
    rule = (
        f"dnat ip to ip daddr . meta l4proto . th dport . numgen random mod {endpoints}"
        " map @endpoints"
    )
    before = new_chains(Family.IPV4, {f"pick-{endpoints}": (rule,)})
    assert before is not None
    return transactions(Family.IPV4, deltas, before=before, limit=limit)


def _bodies(link: NfnetlinkSocket, name: str) -> list[bytes]:
    """The messages of a dump, as the kernel sent them."""
    from netplane.core.nftables.wire_elements import dump_request

    return [reply.body for reply in link._ask(dump_request(_LAYOUTS[name], Family.IPV4))]  # noqa: SLF001


def _compare(name: str, bodies: list[bytes], wanted: dict[Key, Value]) -> None:
    comparison = Comparison(_LAYOUTS[name], Family.IPV4, wanted)
    for body in bodies:
        comparison.feed(body)
    comparison.finish()


def _one_change(link: NfnetlinkSocket, deltas: dict[str, ElementDelta]) -> None:
    """One endpoint replaced in the loaded table, again and again."""
    key, _ = deltas["endpoints"].add[0]
    times = []
    for i in range(400):
        backend = Backend("10.200.0.1", 9000 + i)
        delta = ElementDelta(delete_slots=[(key, 0)], add_slots=[(key, 0, backend)])
        start = time.perf_counter()
        commit_all(
            link, transactions(Family.IPV4, {"endpoints": delta}), generation=link.generation()
        )
        times.append(time.perf_counter() - start)
    times.sort()
    print(f"  one endpoint replaced: p50 {times[200] * 1e6:.0f} us, p99 {times[396] * 1e6:.0f} us")


def _wait_while(
    namespace: Namespace,
    link: NfnetlinkSocket,
    deltas: dict[str, ElementDelta],
    endpoints: int,
    limit: int,
) -> None:
    """How long others wait for the kernel while the load goes on.

    Not measured by `nft list tables` itself: nft 1.0.6 fetches every element of every set for
    that, which takes seconds here without any load at all.
    """
    series = list(_series(deltas, endpoints, limit))
    reads: list[float] = []
    commits: list[float] = []
    ready, done = threading.Event(), threading.Event()

    def watch() -> None:
        strangers = [new_chain(Family.IPV4, "stranger"), *delete_chain(Family.IPV4, "stranger")]
        with NfnetlinkSocket(namespace) as other:
            while not done.is_set():
                reads.append(_timed(partial(other.chains, Family.IPV4))[1])
                commits.append(_timed(partial(other.commit, strangers, generation=None))[1])
                ready.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    ready.wait()
    reads.clear()
    commits.clear()
    outcome, seconds = _timed(partial(commit_all, link, series, generation=None))
    done.set()
    watcher.join()
    print(
        f"  {outcome.transactions:3} transactions: {seconds * 1000:6.0f} ms;"
        f" another's listing waits at most {max(reads) * 1000:.0f} ms,"
        f" its commit {max(commits) * 1000:.0f} ms"
    )


def _timed(call: Callable[[], _T]) -> tuple[_T, float]:
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def _print(what: str, seconds: float, count: int) -> None:
    print(f"  {what:28} {seconds * 1000:8.1f} ms {seconds / count * 1e6:8.2f} us")


def _nft(namespace: Namespace, text: str) -> None:
    subprocess.run(
        ["ip", "netns", "exec", str(namespace), "nft", "-f", "-"],
        input=text.encode(),
        check=True,
        capture_output=True,
    )


@contextmanager
def _namespace() -> Iterator[Namespace]:
    name = f"np-bench-{secrets.token_hex(4)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        with Namespace(name) as namespace:
            yield namespace
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    main(*(arguments or [10_000, 5]))
