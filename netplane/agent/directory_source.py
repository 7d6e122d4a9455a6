"""Manifests in files as a source: no API server needed.

Whatever changes, everything is read again and compared with what was held, so that objects may
stand in for one another (Endpoints, Pods) and files may be split and joined at will. A file that
is half written or unreadable costs nothing: what was held stays, and the fault is told until it is
mended. Where everything seems to be gone, a second look must confirm it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import watchfiles

from netplane.agent.changes import ClusterChange
from netplane.agent.cluster_state import ClusterState
from netplane.agent.health import Clocks
from netplane.core.model.cluster import build_snapshot
from netplane.core.model.documents import Manifest, parse, safe_origin
from netplane.core.model.snapshot import Snapshot
from netplane.errors import InputError

_SUFFIXES = (".json", ".yaml", ".yml")  # what kubectl reads in a directory
_SETTLE = 0.5  # seconds within which an editor or a synchroniser puts back what it took away
_DEBOUNCE_MS, _STEP_MS = 100, 20  # a burst of writes is one change


class DirectorySource:
    """Files and directories of manifests; a ``Source``.

    Args:
        paths: Files, or directories whose manifests count (not those in directories below).
        node_name: Of the own Node.
        on_fault: Told each new fault, safe to print.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        node_name: str,
        clocks: Clocks,
        on_fault: Callable[[str], object],
    ) -> None:
        self._paths = tuple(paths)
        self._clocks = clocks
        self._on_fault = on_fault
        self._state = ClusterState(node_name)
        self._news = asyncio.Event()
        self._in_sync = False
        self._fault = ""
        self._heard = clocks.monotonic()

    @property
    def in_sync(self) -> bool:
        """Everything has been read once without a fault."""
        return self._in_sync

    @property
    def last_heard(self) -> float:
        """Now, as long as the files can be read; else when they last could."""
        return self._heard if self._fault else self._clocks.monotonic()

    @property
    def patience(self) -> float:
        """Files are read as they change: silence is normal, a fault is not."""
        return 0.0

    @property
    def fault(self) -> str:
        """What is wrong with the files now."""
        return self._fault

    def take(self) -> ClusterChange | None:
        """What has changed since the last take."""
        self._news.clear()
        return self._state.take() if self._in_sync else None

    async def wait(self) -> None:
        """Until something was read, or cannot be read any more."""
        await self._news.wait()

    async def run(self) -> None:
        """Read, and read again whenever a file changes, until cancelled."""
        await self._read()
        while True:
            folders = {path if path.is_dir() else path.parent for path in self._paths}
            present = [folder for folder in folders if folder.is_dir()]
            if not present:
                await asyncio.sleep(_SETTLE)
                await self._read()
                continue
            watching = watchfiles.awatch(
                *present,
                debounce=_DEBOUNCE_MS,
                step=_STEP_MS,
                recursive=False,
                # Also wakes without a change, for a folder that was replaced is watched no more.
                yield_on_timeout=True,
                rust_timeout=5_000,
            )
            async for _ in watching:
                await self._read()
                if any(not folder.is_dir() for folder in present):
                    break

    async def _read(self) -> None:
        """Read everything; what cannot be read changes nothing."""
        try:
            snapshot = await asyncio.to_thread(self._load)
            if not snapshot.services and self._state.services:
                await asyncio.sleep(_SETTLE)
                snapshot = await asyncio.to_thread(self._load)
        except InputError as exc:
            self._set_fault(str(exc))
            return
        except OSError as exc:
            self._set_fault(f"{safe_origin(str(exc.filename))}: {exc.strerror}")
            return
        self._set_fault("")
        self._state.adopt(snapshot)
        if not self._in_sync or self._state.changed:
            self._in_sync = True
            self._news.set()

    def _load(self) -> Snapshot:
        manifests: list[Manifest] = []
        for path in self._files():
            manifests += parse(path.read_bytes(), origin=str(path))
        return build_snapshot(manifests)

    def _files(self) -> Iterator[Path]:
        for path in self._paths:
            if path.is_dir():
                yield from sorted(p for p in path.iterdir() if p.suffix in _SUFFIXES)
            else:
                yield path

    def _set_fault(self, fault: str) -> None:
        if fault and fault != self._fault:
            self._on_fault(fault)
        if fault != self._fault:
            self._heard = self._clocks.monotonic()
            self._news.set()
        self._fault = fault
