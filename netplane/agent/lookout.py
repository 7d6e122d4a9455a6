"""What tells the loop to look at the kernel: foreign commits, addresses, legacy tables.

Where the kernel sends notices nothing is polled; legacy iptables has none, so its tables' figures
are compared twice a second, and what is in them as often as that costs next to nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Final, Self

from netplane.apply.address_events import AddressEvents
from netplane.apply.iptables.legacy_fingerprint import Fingerprint, legacy_fingerprint
from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink.witness import Witness, concern_of
from netplane.config import Mode
from netplane.errors import ApplyError

_POLL: Final = 0.5  # seconds
#: Reading what is in legacy tables may take this part of a processor.
_SHARE: Final = 0.004


class Lookout:
    """Watches one namespace for a mode; a context manager, then ``watching`` on an event loop.

    Args:
        namespace: Which, entered.
        mode: Whose rules matter.

    Raises:
        ApplyError: The kernel cannot be listened to.
    """

    def __init__(self, namespace: Namespace, mode: Mode) -> None:
        self._namespace = namespace
        self._mode = mode
        self.witness = Witness(namespace, concern_of(mode))
        self._addresses = AddressEvents(namespace)
        self._stack = contextlib.ExitStack()
        self._seen = Fingerprint()
        self._writing = False
        self._listen: Callable[[], object] = lambda: None  # have the loop ask the witness

    def __enter__(self) -> Self:
        self._stack.enter_context(self.witness)
        self._stack.enter_context(self._addresses)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._stack.close()

    @contextlib.asynccontextmanager
    async def watching(
        self, rules: Callable[[], object], addresses: Callable[[], object]
    ) -> AsyncIterator[None]:
        """Call ``rules`` when somebody may have touched them, ``addresses`` when some moved."""
        loop = asyncio.get_running_loop()

        def heard_commits() -> None:
            if self.witness.alarmed():
                rules()

        def heard_addresses() -> None:
            if self._addresses.moved():
                addresses()

        self._listen = partial(loop.call_soon_threadsafe, heard_commits)
        loop.add_reader(self.witness.fileno(), heard_commits)
        loop.add_reader(self._addresses.fileno(), heard_addresses)
        polling = asyncio.create_task(self._poll(rules)) if self._mode == "iptables" else None
        try:
            yield
        finally:
            self._listen = lambda: None
            loop.remove_reader(self.witness.fileno())
            loop.remove_reader(self._addresses.fileno())
            if polling is not None:
                polling.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await polling

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """What happens to the legacy tables meanwhile is ours; entered by the pass's thread.

        A pass asks the witness, too, which by that has read notices that the loop then waits for
        in vain. So in the end the loop asks it what it has heard.
        """
        self._writing = True
        try:
            yield
        finally:
            self._listen()
            if self._mode == "iptables":
                self._seen = self._fingerprint(deep=True)
            self._writing = False

    async def _poll(self, rules: Callable[[], object]) -> None:
        loop = asyncio.get_running_loop()
        deep_at = time.monotonic()
        while True:
            await asyncio.sleep(_POLL)
            before = self._seen
            if self._writing:
                continue
            deep = time.monotonic() >= deep_at
            now, took = await loop.run_in_executor(None, partial(self._timed, deep=deep))
            if deep:
                deep_at = time.monotonic() + took / _SHARE
            # A pass that ended meanwhile has set what is seen anew.
            if not now.may_be(before) and self._seen is before and not self._writing:
                rules()

    def _timed(self, *, deep: bool) -> tuple[Fingerprint, float]:
        """What is seen, and the seconds of processor that took."""
        begin = time.thread_time()
        return self._fingerprint(deep=deep), time.thread_time() - begin

    def _fingerprint(self, *, deep: bool) -> Fingerprint:
        try:
            return legacy_fingerprint(self._namespace, deep=deep)
        except ApplyError:
            return Fingerprint()  # the next pass meets the same fault, and tells it
