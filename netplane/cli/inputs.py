"""Reading what ``-f`` and ``--config`` name, and making the snapshot and the configuration."""

from __future__ import annotations

import functools
import io
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from netplane.cli import log
from netplane.cli.options import Call
from netplane.config import Config, ConfigFile, decode, resolve
from netplane.core.model.cluster import build_snapshot
from netplane.core.model.documents import BY_HAND, Manifest, parse, parse_pieces, says_nothing
from netplane.core.model.json_list import PIECE
from netplane.core.model.snapshot import Snapshot
from netplane.errors import InputError, UsageError

STDIN = "-"
_SUFFIXES = (".json", ".yaml", ".yml")  # what kubectl reads in a directory


def read_snapshot(filenames: Sequence[str]) -> Snapshot:
    """Read all manifests into one snapshot.

    Raises:
        UsageError: ``-`` was given twice.
        InputError: Something is not readable, not parseable as a whole, or all of it is empty.
    """
    if list(filenames).count(STDIN) > 1:
        raise UsageError("-f -: the standard input can be read only once")
    snapshot = build_snapshot(_manifests(filenames))
    for kind, count in sorted(snapshot.skipped.items()):
        log.info(f"passed over {count} x {kind}: nothing to program for that kind")
    return snapshot


def read_config(call: Call, snapshot: Snapshot | None = None) -> Config:
    """The configuration of this command line; warns of what looks like a mistake in it."""
    file = _read_file(call.config_path) if call.config_path is not None else None
    for field in file.unknown if file else ():
        log.warn(f"{call.config_path}: unknown field {field}: passed over")
    config = resolve(file, call.settings, host_name=socket.gethostname())
    if snapshot is not None and snapshot.nodes and config.node_name not in snapshot.nodes:
        log.warn(
            f"the input has no Node named {config.node_name} ({config.origin('node_name')}; "
            "--node sets it): its zone and addresses are not known, and no endpoint is local"
        )
    return config


def _read_file(path: str) -> ConfigFile:
    try:
        content = sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
    except OSError as exc:
        raise UsageError(f"--config {path}: {exc.strerror}") from exc
    return decode(content, path=path)


def _manifests(filenames: Sequence[str]) -> Iterator[Manifest]:
    """The objects of every file, directories in the order of their names."""
    nothing = True
    for name in filenames:
        for path in [None] if name == STDIN else _files(Path(name)):
            objects = _read_objects(path)
            if objects is not None:
                nothing = False
                yield from objects
    if nothing:
        # A `kubectl get` that failed prints nothing, and that must not remove every Service.
        raise InputError(
            "the input is empty; to say that there are no Services, give an empty List:"
            ' {"apiVersion": "v1", "kind": "List", "items": []}'
        )


def _read_objects(path: Path | None) -> list[Manifest] | None:
    """The objects of one file, None where it is blank; without a path of the standard input."""
    if path is None:
        return _read_open(sys.stdin.buffer, STDIN)
    try:
        with path.open("rb", buffering=0) as file:
            return _read_open(file, str(path))
    except OSError as exc:
        raise InputError(f"{exc.filename or path}: {exc.strerror}") from exc


def _read_open(file: BinaryIO | io.FileIO, origin: str) -> list[Manifest] | None:
    if not file.seekable():
        file = io.BytesIO(file.read())
    start = file.tell()
    content = file.read(BY_HAND + 1)
    if len(content) > BY_HAND:
        file.seek(start)
        objects = parse_pieces(iter(functools.partial(file.read, PIECE), b""), origin=origin)
        if objects is not None:
            return objects
        file.seek(start)
        content = file.read()
    return None if says_nothing(content) else parse(content, origin=origin)


def _files(path: Path) -> list[Path]:
    """The manifests a path stands for: itself, or those right inside the directory."""
    try:
        if not path.is_dir():
            return [path]
        found = sorted(p for p in path.iterdir() if p.suffix in _SUFFIXES and p.is_file())
    except OSError as exc:
        raise InputError(f"{exc.filename or path}: {exc.strerror}") from exc
    if not found:
        raise InputError(f"{path}: no manifests in this directory ({', '.join(_SUFFIXES)})")
    return found
