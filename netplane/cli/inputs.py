"""Reading what ``-f`` and ``--config`` name, and making the snapshot and the configuration."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from netplane.cli import log
from netplane.cli.options import Call
from netplane.config import Config, ConfigFile, decode, resolve
from netplane.core.model.cluster import build_snapshot
from netplane.core.model.documents import Manifest, parse
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
    manifests: list[Manifest] = []
    nothing = True
    for origin, content in _contents(filenames):
        nothing = nothing and not content.strip()
        manifests += parse(content, origin=origin)
    if nothing:
        # A `kubectl get` that failed prints nothing, and that must not remove every Service.
        raise InputError(
            "the input is empty; to say that there are no Services, give an empty List:"
            ' {"apiVersion": "v1", "kind": "List", "items": []}'
        )
    snapshot = build_snapshot(manifests)
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


def _contents(filenames: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Every file's name and content, directories in the order of their names."""
    for name in filenames:
        if name == STDIN:
            yield STDIN, sys.stdin.buffer.read()
            continue
        try:
            for path in _files(Path(name)):
                yield str(path), path.read_bytes()
        except OSError as exc:
            raise InputError(f"{exc.filename or name}: {exc.strerror}") from exc


def _files(path: Path) -> list[Path]:
    """The manifests a path stands for: itself, or those right inside the directory."""
    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.iterdir() if p.suffix in _SUFFIXES and p.is_file())
    if not found:
        raise InputError(f"{path}: no manifests in this directory ({', '.join(_SUFFIXES)})")
    return found
