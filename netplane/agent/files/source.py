"""Files and directories of manifests as the source of changes: no API server is needed.

A change of one file costs what is in that file, as long as all of it are Services and slices (and
kinds that do not count). Where Endpoints or Pods stand in for slices, one object's meaning depends
on all others', and where a Node or a faulty object is involved it is rare: then everything that
the files say is made into a whole snapshot again.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from netplane.agent.changes import ClusterChange, ObjectKey
from netplane.agent.clocks import Clocks
from netplane.agent.cluster_state import FILE_KIND, ClusterState, key_of
from netplane.agent.files.manifests import Change, ManifestFiles
from netplane.agent.glimpses import eligible_node, fed_by
from netplane.core.model.cluster import build_snapshot
from netplane.core.model.decoding import ENDPOINT_SLICE, ENDPOINTS, NODE, POD, SERVICE, Shape
from netplane.core.model.documents import Manifest, safe_origin
from netplane.core.model.problem import Problem
from netplane.core.model.service import ServiceName
from netplane.errors import InputError

#: Seconds between looks at the paths where no event says that anything happened to them.
LOOK = 5.0
#: So many of which pass between looks at every file, should an event have been lost.
_EACH = 12
#: Seconds after which an emptied directory is looked at once more.
SETTLE = 1.0
#: Seconds for which the events of one change, a file written and renamed, are gathered.
_LINGER = 0.002
_MOST_TOUCHED = 64  # gathered at a time
_COUNTED: Mapping[str, Shape[Any]] = {
    shape.kind: shape for shape in (SERVICE, ENDPOINT_SLICE, ENDPOINTS, NODE, POD)
}
_PLAIN = frozenset({SERVICE.kind, ENDPOINT_SLICE.kind})


class DirectorySource:
    """The manifests of some paths; a ``Source``.

    It is in sync when every file could be read once: rules that a broken file accounts for are
    not removed because the agent was started beside it.

    Args:
        paths: Files, and directories with files in them; of two equal objects the later counts.
        node_name: Of the own Node.
        clocks: ``monotonic`` for ``last_heard``, ``wall`` to compare with the times of files.
        on_fault: Told each fault for which nothing can be read, safe to print, and "" when
            everything can be again. What is wrong with one file of many is a problem of it.
        settle: Seconds before an emptied directory is believed.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        node_name: str,
        clocks: Clocks,
        on_fault: Callable[[str], object] | None = None,
        settle: float = SETTLE,
    ) -> None:
        self._paths = [path.absolute() for path in paths]
        self._node_name = node_name
        self._clocks = clocks
        self._on_fault = on_fault or str
        self._settle = settle
        self._files = ManifestFiles(self._paths, clocks.wall)
        self._state = ClusterState(node_name)
        self._owners: defaultdict[ObjectKey, dict[Path, Manifest]] = defaultdict(dict)
        self._entangled: set[Path] = set()
        self._news = asyncio.Event()
        self._heard = clocks.monotonic()
        self._idle = 0
        self.in_sync = False
        self.fault = ""

    @property
    def last_heard(self) -> float:
        """When the paths could last be looked at."""
        return self._heard

    @property
    def patience(self) -> float:
        """They are looked at even if nothing happens."""
        return 4 * LOOK

    async def run(self) -> None:
        """Follow the files until cancelled."""
        while True:
            try:
                async with aclosing(self._events()) as events:
                    async for touched in events:
                        if not await self._look(touched):
                            break  # the directory may be another one now: watch that
            except OSError as exc:
                self._say(f"the manifests cannot be watched: {exc}")
            await asyncio.sleep(self._settle)

    def take(self) -> ClusterChange | None:
        """What changed since the last take; None before every file has been read once."""
        self._news.clear()
        return self._state.take() if self.in_sync else None

    async def wait(self) -> None:
        """Until there is something to take, or the source is in sync, faulty or well again."""
        await self._news.wait()

    async def _events(self) -> AsyncGenerator[set[Path] | None, None]:
        """The files that something happened to; None now and then, to look at all of them.

        It ends where what is watched went away: the path may lead somewhere else by now.
        """
        from asyncinotify import Inotify, Mask  # for this source only

        # What is still being written is of no use: the end of writing counts, not each write.
        happened = Mask.CLOSE_WRITE | Mask.MOVE | Mask.CREATE | Mask.DELETE | Mask.ATTRIB
        ended = Mask.IGNORED | Mask.MOVE_SELF | Mask.UNMOUNT
        with Inotify() as inotify:
            # Of a file, the directory it is in: editors put a new file in its place.
            for path in {path if path.is_dir() else path.parent for path in self._paths}:
                inotify.add_watch(path, happened | Mask.MOVE_SELF | Mask.DELETE_SELF)
            yield None
            coming = asyncio.ensure_future(inotify.get())
            try:
                while True:
                    touched: set[Path] = set()
                    lost = False
                    wait = LOOK
                    while (await asyncio.wait({coming}, timeout=wait))[0]:
                        event = coming.result()
                        coming = asyncio.ensure_future(inotify.get())
                        if event.mask & ended:
                            return
                        lost |= bool(event.mask & Mask.Q_OVERFLOW)
                        touched |= {event.path} if event.path is not None else set()
                        wait = _LINGER if len(touched) < _MOST_TOUCHED else 0
                    yield None if lost else touched or None
            finally:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)

    async def _look(self, touched: set[Path] | None) -> bool:
        """Read what changed, an emptied directory twice; returns whether the paths are there."""
        self._idle = 0 if touched is not None else self._idle + 1
        if self._may_skip(touched):
            self._heard = self._clocks.monotonic()
            return True
        try:
            changes = await asyncio.to_thread(self._files.read, touched)
            if changes is None:
                await asyncio.sleep(self._settle)
                changes = await asyncio.to_thread(self._files.read, may_empty=True) or {}
        except InputError as exc:
            self._say(str(exc))
            return False
        self._heard = self._clocks.monotonic()
        self._absorb(changes)
        self._report_files()
        faults = self._files.faults
        if not self.in_sync and not faults:
            self.in_sync = True
            self._news.set()
        self._say("" if self.in_sync else _named(faults))
        if self.in_sync and self._state.changed:
            self._news.set()
        return True

    def _may_skip(self, touched: set[Path] | None) -> bool:
        """Whether nothing happened, and it is not yet time to look at every file regardless."""
        quiet = touched is None and self.in_sync and not self._files.faults
        return quiet and self._idle % _EACH != 0 and self._files.is_unchanged()

    def _say(self, fault: str) -> None:
        if fault != self.fault:
            self.fault = fault
            self._news.set()
            self._on_fault(fault)

    # --- from files to objects ----------------------------------------------------------------

    def _absorb(self, changes: dict[Path, Change]) -> None:
        was_entangled = bool(self._entangled)
        touched: set[ObjectKey] = set()
        for path, change in changes.items():
            touched |= self._own(path, change)
            if all(_is_simple(manifest) for manifest in change.after):
                self._entangled.discard(path)
            else:
                self._entangled.add(path)
        if was_entangled or self._entangled or not all(key.kind in _PLAIN for key in touched):
            node = self._owners.get(ObjectKey(NODE.kind, "", self._node_name))
            eligible = eligible_node(self._last(node)) if node else True
            snapshot = build_snapshot(self._files.manifests)
            self._state.adopt(snapshot, eligible=eligible, concerns=self._fed)
            return
        for key in touched:
            owners = self._owners.get(key)
            if owners:
                self._state.upsert(self._last(owners))
            else:
                self._state.delete(key)

    def _fed(self, key: ObjectKey) -> ServiceName | None:
        """The Service that a slice of this name says it feeds."""
        owners = self._owners.get(key)
        return fed_by(self._last(owners)) if owners else None

    def _last(self, owners: Mapping[Path, Manifest]) -> Manifest:
        """The one that counts, of what several files say of an object."""
        return owners[max(owners, key=self._files.place)]

    def _own(self, path: Path, change: Change) -> set[ObjectKey]:
        """Note which objects a file has now; returns those of which it says something else."""
        before, after = _counted(change.before), _counted(change.after)
        touched = {
            key for key in before.keys() | after.keys() if before.get(key) != after.get(key)
        }
        for key in touched:
            manifest = after.get(key)
            if manifest is not None:
                self._owners[key][path] = manifest
                continue
            del self._owners[key][path]
            if not self._owners[key]:
                del self._owners[key]
        return touched

    def _report_files(self) -> None:
        """Say of each file what is wrong with it, and of those that were that they are fine."""
        faults = {
            ObjectKey(FILE_KIND, "", safe_origin(str(path))): fault
            for path, fault in self._files.faults.items()
        }
        for key in self._state.faulty(FILE_KIND) - faults.keys():
            self._state.set_problems(key, ())
        for key, fault in faults.items():
            problem = Problem(FILE_KIND, "", key.name, "content", "", f"kept as it was: {fault}")
            if self.in_sync:
                self._state.set_problems(key, (problem,))


def _named(faults: Mapping[Path, str]) -> str:
    """One of the files that cannot be used, and how many more there are."""
    path, fault = min(faults.items())
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"{safe_origin(str(path))}: {fault}{more}"


def _counted(manifests: Iterable[Manifest]) -> dict[ObjectKey, Manifest]:
    """The objects of a file that count, the last of each name."""
    return {key_of(manifest): manifest for manifest in manifests if _shape_of(manifest)}


def _is_simple(manifest: Manifest) -> bool:
    """Whether an object's meaning is its own: a Service, a slice, a Node, or nothing for us."""
    shape = _shape_of(manifest)
    if shape is None:
        return bool(manifest.kind and manifest.api_version)
    stands_in = manifest.kind in {ENDPOINTS.kind, POD.kind}
    return bool(manifest.name) and manifest.api_version in shape.api_versions and not stands_in


def _shape_of(manifest: Manifest) -> Shape[Any] | None:
    """The shape of a kind that counts; other groups have kinds of the same name."""
    shape = _COUNTED.get(manifest.kind)
    group = manifest.api_version.rpartition("/")[0]
    return shape if shape and group == shape.api_versions[0].rpartition("/")[0] else None
