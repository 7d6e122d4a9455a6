"""Who holds the xtables lock, which every writer of iptables-legacy takes (iptables(8) -w)."""

from __future__ import annotations

import os
from pathlib import Path

_DEFAULT = "/run/xtables.lock"
_LOCKS = Path("/proc/locks")
_ID_FIELD = 5  # "1: FLOCK ADVISORY WRITE 9922 fe:00:2148726 0 EOF" (proc_locks(5))
_PID_FIELD = 4


def holder() -> str:
    """The holder as ``process 9922 (iptables)``, "" where nobody holds the lock or it is not told.

    A holder in another pid namespace is not told by the kernel.
    """
    path = Path(os.environ.get("XTABLES_LOCKFILE", _DEFAULT))  # read by iptables itself, too
    try:
        inode = str(path.stat().st_ino)
        locks = _LOCKS.read_text(encoding="ascii").splitlines()
    except OSError:
        return ""
    for line in locks:
        fields = line.split()
        # The device is left out of the comparison: overlay file systems report another one to
        # stat(2) than the kernel prints here. A waiting process has "->" in the second field.
        if fields[1] == "FLOCK" and fields[_ID_FIELD].rpartition(":")[2] == inode:
            pid = fields[_PID_FIELD]
            if pid.isdigit() and pid != "0":
                return _named(pid, path)
    return ""


def _named(pid: str, path: Path) -> str:
    """The process that took the lock, or, where it has ended, those it left the open file to."""
    command = _command(pid)
    if command:
        return f"process {pid} ({command})"
    heirs = [f"process {heir} ({_command(heir)})" for heir in _openers(path)]
    return " or ".join(heirs) or f"process {pid} (already gone)"


def _openers(path: Path) -> list[str]:
    """The processes that have a file open, ourselves excepted."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            try:
                has_it = any(descriptor.samefile(path) for descriptor in (entry / "fd").iterdir())
            except OSError:
                continue  # it ended meanwhile, or closed a file, or is somebody else's
            if has_it:
                found.append(entry.name)
    return found


def _command(pid: str) -> str:
    """What a process runs, "" of one that has ended."""
    try:
        text = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
    return "".join(c if c.isprintable() else "?" for c in text)
