"""A thread to work in: the one way netplane starts any."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from netplane.errors import BusyError


class Worker(ThreadPoolExecutor):
    """One thread, running when this returns.

    Raises BusyError where the system starts no more threads.
    """

    def __init__(self, name: str) -> None:
        super().__init__(1, thread_name_prefix=name)
        try:
            # The thread starts with the first call. That it cannot be started, and that a pool is
            # closed, are the same exception: here it is the former.
            self.submit(int)
        except RuntimeError as exc:
            self.shutdown()
            raise BusyError(
                "the system starts no more threads: a limit on tasks (pids.max, ulimit -u) or"
                " memory; try again"
            ) from exc
