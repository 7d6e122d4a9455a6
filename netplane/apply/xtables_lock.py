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
                return f"process {pid} ({_command(pid)})"
    return ""


def _command(pid: str) -> str:
    try:
        text = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "already gone"
    return "".join(c if c.isprintable() else "?" for c in text)
