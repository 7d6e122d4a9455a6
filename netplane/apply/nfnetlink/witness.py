"""What other processes' transactions mean for ours: nothing, mostly, and that can be proven.

The ruleset's generation, the lock of every commit, moves with anybody's transaction. Were each a
reason to observe again, somebody who writes all the time would keep us from ever writing. The
witness follows the kernel's notices: while it has heard of every commit since a generation, and
none of the foreign ones touched what is ours, what was observed then still holds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink.events import Commit, NftEvents, Notices, Place
from netplane.config import Mode
from netplane.core.iptables.layout import TABLES
from netplane.core.nftables.layout import TABLE

_WRAP: Final = 1 << 32
_PREFIX: Final = "KUBE-"
_HOOKS: Final = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})


def concern_of(mode: Mode) -> Callable[[Place], bool]:
    """What tells the places that rules of a mode depend on: what we write, or jump from."""
    return _concerns_nftables if mode == "nftables" else _concerns_iptables


def _concerns_nftables(place: Place) -> bool:
    return place.table == TABLE


def _concerns_iptables(place: Place) -> bool:
    if place.table not in TABLES:
        return False
    return not place.chain or place.chain in _HOOKS or place.chain.startswith(_PREFIX)


class Witness:
    """Follows one namespace's commits; a context manager, its methods may be called by any thread.

    Args:
        namespace: Whose.
        concerns: Whether a place is one where a foreign hand matters.

    Raises:
        PrivilegeError: CAP_NET_ADMIN is missing.
        ApplyError: The kernel has no such notices.
    """

    def __init__(self, namespace: Namespace, concerns: Callable[[Place], bool]) -> None:
        self._events = NftEvents(namespace)
        self._concerns = concerns
        self._lock = threading.Lock()
        self._floor = 0  # every commit after this generation is known, and did no harm
        self._last: int | None = None
        self._whole = True  # the next commit will have been heard of in whole
        self._alarmed = False

    def __enter__(self) -> Self:
        self._events.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._events.__exit__(kind, value, tb)

    def fileno(self) -> int:
        """Becomes readable when somebody has committed; then ``alarmed`` says whether to look."""
        return self._events.fileno()

    def alarmed(self) -> bool:
        """Whether, since the last call, a foreign commit concerned us or a notice was lost."""
        with self._lock:
            self._listen()
            alarmed, self._alarmed = self._alarmed, False
            return alarmed

    def vouch(self, generation: int) -> int | None:
        """The newest generation known of, where all that came after this one did no harm.

        None where it did, or where nobody can tell; the generation itself where there is none.
        """
        with self._lock:
            self._listen()
            if self._last is None:
                return None
            if (generation - self._floor) % _WRAP > (self._last - self._floor) % _WRAP:
                return None
            return self._last

    def _listen(self) -> None:
        self._hear(self._events.notices())

    def _hear(self, notices: Notices) -> None:
        for commit in notices.commits:
            self._take(commit)
        if notices.lost:
            self._last, self._whole, self._alarmed = None, False, True

    def _take(self, commit: Commit) -> None:
        before = (commit.generation - 1) % _WRAP or _WRAP - 1  # the count skips 0
        if self._last is None:
            self._floor = before if self._whole else commit.generation
            self._whole = True
        harmful = not commit.ours and any(map(self._concerns, commit.places))
        if harmful or (self._last is not None and self._last != before):
            self._floor, self._alarmed = commit.generation, True
        self._last = commit.generation
