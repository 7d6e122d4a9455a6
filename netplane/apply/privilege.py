"""Whether this process may program a kernel at all."""

from __future__ import annotations

from pathlib import Path

from netplane.errors import PrivilegeError

_CAP_NET_ADMIN = 12  # linux/capability.h


def has_net_admin() -> bool:
    """Whether CAP_NET_ADMIN is in the effective set of the calling thread."""
    for line in Path("/proc/thread-self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_NET_ADMIN & 1)
    raise AssertionError("/proc/thread-self/status has no CapEff line")


def require_net_admin() -> None:
    """Raise PrivilegeError without CAP_NET_ADMIN, before anything is tried halfway."""
    if not has_net_admin():
        raise PrivilegeError(
            "reading or writing the kernel's rules needs CAP_NET_ADMIN: run as root (sudo)"
        )
