"""Removing all and only what is ours, in every mode.

In iptables mode our chains are kube-proxy's: where one programs iptables here they are its own by
now, and are left to it, unless it is to be taken over. Tables of nftables mode are ours alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from netplane.apply import foreign
from netplane.apply.modes import open_all, open_inhabited
from netplane.apply.netns import Namespace


class Step(NamedTuple):
    """What has been removed, or left to somebody else, in words."""

    text: str
    left: bool = False


def cleanup(namespace: Namespace, *, take_over: bool) -> Iterator[Step]:
    """Remove it step by step; what was told is done, though a later step may fail.

    Args:
        namespace: Where, entered.
        take_over: Remove a kube-proxy's chains, and what else it left behind, too.

    Raises:
        ApplyError: A mode's rules could not be read or removed.
    """
    kube_proxy = foreign.find_kube_proxy(namespace)
    if kube_proxy.holds_chains and not take_over:
        for name, dataplane in open_inhabited(namespace):
            if name != "nftables":
                text = f"{name}: the chains are left to a kube-proxy, {kube_proxy}"
                yield Step(text, left=True)
                continue
            yield from (Step(f"{name}: {text}") for text in dataplane.cleanup())
        return
    for name, dataplane in open_all(namespace):
        yield from (Step(f"{name}: {text}") for text in dataplane.cleanup())
    if take_over:
        yield from map(Step, foreign.take_over(namespace, kube_proxy))
