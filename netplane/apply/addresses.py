"""The addresses a node owns, read from its interfaces."""

from __future__ import annotations

import errno

from netplane.apply.netns import Namespace
from netplane.core.model.address import canonical_address
from netplane.errors import ApplyError, PrivilegeError


def local_addresses(namespace: Namespace) -> tuple[str, ...]:
    """Canonical addresses on the namespace's interfaces, loopback included, sorted.

    Raises:
        ApplyError: The kernel does not tell.
    """
    return namespace.call(_read)


def _read() -> tuple[str, ...]:
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as route:
            messages = list(route.get_addr())
    except (NetlinkError, OSError) as exc:
        code = exc.code if isinstance(exc, NetlinkError) else exc.errno
        kind = PrivilegeError if code == errno.EPERM else ApplyError
        raise kind(f"cannot read the interfaces' addresses: {exc}") from exc
    # IFA_LOCAL is the own address of a point-to-point link; IFA_ADDRESS is then the peer's.
    texts = (m.get("IFA_LOCAL") or m.get("IFA_ADDRESS") for m in messages)
    return tuple(sorted({a for a in (canonical_address(str(t)) for t in texts if t) if a}))
