"""Files and directories of manifests, read again and again: what each file says, and what is new.

A file that cannot be read or parsed, or is empty, keeps saying what it said last: it is about to
be written, or broken, and neither is a wish to remove what it described.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from netplane.core.model.documents import Manifest, parse, safe_origin
from netplane.errors import InputError

SUFFIXES = (".json", ".yaml", ".yml")  # what kubectl reads in a directory
#: Seconds within which two changes of a file may bear the same time.
_TICK = 0.05


class _Stamp(NamedTuple):
    """What changes when a file's content does."""

    device: int
    inode: int
    size: int
    changed: int  # nanoseconds since the epoch


class Change(NamedTuple):
    """What one file said, and says now."""

    before: tuple[Manifest, ...]
    after: tuple[Manifest, ...]


class ManifestFiles:
    """What the files of some paths say; to be used by one thread at a time.

    Args:
        paths: Files, and directories, of which the manifests right inside them count.
        wall: The time in seconds since the epoch, as the files' own times are.

    Attributes:
        said: What each file said when it could last be read.
        faults: Per file that cannot be used now, why; safe to print.
    """

    def __init__(self, paths: Sequence[Path], wall: Callable[[], float]) -> None:
        self.said: dict[Path, tuple[Manifest, ...]] = {}
        self.faults: dict[Path, str] = {}
        self._paths = tuple(paths)
        self._wall = wall
        self._stamps: dict[Path, _Stamp] = {}
        self._folders: frozenset[Path] = frozenset()
        self._roots: dict[Path, _Stamp | None] = {}

    @property
    def manifests(self) -> Iterator[Manifest]:
        """What all files say, in the order in which they are read: the later object counts."""
        for path in sorted(self.said, key=self.place):
            yield from self.said[path]

    def place(self, path: Path) -> tuple[int, Path]:
        """Where a file stands in the order: that of the paths, and of the names in a directory."""
        indexes = [i for i, own in enumerate(self._paths) if own in {path, path.parent}]
        return max(indexes, default=-1), path

    def read(
        self, touched: Collection[Path] | None = None, *, may_empty: bool = False
    ) -> dict[Path, Change] | None:
        """Read what has changed, and forget the files that are gone.

        Args:
            touched: The only files that anything happened to; None: look at all of them.
            may_empty: Whether to believe that all files are gone.

        Returns:
            Per changed file what it said and says; None where all files are gone that were there,
            which is not believed: nothing else is done then.

        Raises:
            InputError: A path is not readable; everything stays as it was said.
        """
        if touched is None or self._is_strange(touched):
            present = self._scan()
            gone = (self.said.keys() | self.faults.keys()) - present.keys()
            fresh = {p: stamp for p, stamp in present.items() if self._stamps.get(p) != stamp}
        else:
            looked = {path: _look(path) for path in touched if self._is_ours(path)}
            gone = {path for path, stamp in looked.items() if stamp is None}
            fresh = {path: stamp for path, stamp in looked.items() if stamp is not None}
        lost = gone & self.said.keys()
        if lost and len(lost) == len(self.said) and not fresh and not may_empty:
            return None
        changes = {path: Change(self.said.pop(path), ()) for path in sorted(lost)}
        for path in gone:
            self.faults.pop(path, None)
            self._stamps.pop(path, None)
        for path, stamp in fresh.items():
            before = self.said.get(path, ())
            if self._read(path, stamp) and self.said[path] != before:
                changes[path] = Change(before, self.said[path])
        return changes

    def _read(self, path: Path, stamp: _Stamp) -> bool:
        """Read one file; returns whether it can be used."""
        self._stamps.pop(path, None)
        try:
            content = path.read_bytes()
        except OSError as exc:
            self.faults[path] = exc.strerror or "not readable"
            return False
        if self._wall() - stamp.changed / 1e9 >= _TICK:
            self._stamps[path] = stamp  # else it may change once more and still look the same
        if not content.strip():
            self.faults[path] = "empty; an empty List says that there are no objects"
            return False
        try:
            self.said[path] = tuple(parse(content, origin=str(path)))
        except InputError as exc:
            self.faults[path] = str(exc).removeprefix(f"{safe_origin(str(path))}: ")
            return False
        self.faults.pop(path, None)
        return True

    def is_unchanged(self) -> bool:
        """Whether the paths are what they were at the last full look, as far as they tell.

        A directory tells of files that come and go, not of what is written into them.
        """
        return bool(self._roots) and {path: _tell(path) for path in self._paths} == self._roots

    def _is_ours(self, path: Path) -> bool:
        if path in self._folders:
            return False
        return path in self._paths or (path.parent in self._folders and _counts(path.name))

    def _is_strange(self, touched: Collection[Path]) -> bool:
        """Whether something happened that more than one file may depend on.

        A directory was moved, or a link, as which ConfigMaps put all their files in place. What
        else is not ours is passed over: mostly a file that is written before it gets its name.
        """
        others = [path for path in touched if not self._is_ours(path)]
        return any(
            path in self._folders or path.is_symlink() or path.is_dir() or not path.parent.is_dir()
            for path in others
        )

    def _scan(self) -> dict[Path, _Stamp]:
        """All files that are there; notes which of the paths are directories."""
        roots = {path: _tell(path) for path in self._paths}  # before: what follows may be late
        found: dict[Path, _Stamp | None] = {}
        folders = set()
        for path in self._paths:
            try:
                if path.is_dir():
                    folders.add(path)
                    with os.scandir(path) as entries:
                        names = sorted(entry.name for entry in entries if _counts(entry.name))
                    found |= {path / name: _look(path / name) for name in names}
                else:
                    told = path.stat()
                    if not stat.S_ISREG(told.st_mode):  # to open a pipe waits for who writes to it
                        raise InputError(
                            f"{safe_origin(str(path))}: neither a file nor a directory"
                        )
                    found[path] = _stamp(told)
            except OSError as exc:
                raise InputError(f"{safe_origin(str(path))}: {exc.strerror}") from exc
        self._folders = frozenset(folders)
        self._roots = roots
        return {path: stamp for path, stamp in found.items() if stamp is not None}


def _counts(name: str) -> bool:
    return name.endswith(SUFFIXES)


def _tell(path: Path) -> _Stamp | None:
    """The stamp of whatever is there."""
    try:
        return _stamp(path.stat())
    except OSError:
        return None


def _look(path: Path) -> _Stamp | None:
    """A file's stamp; None where there is none, or something else than a file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return _stamp(found) if stat.S_ISREG(found.st_mode) else None


def _stamp(found: os.stat_result) -> _Stamp:
    return _Stamp(found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns)
