"""Kernel parameters a mode depends on (reference section 5)."""

from __future__ import annotations

from pathlib import Path

from netplane.apply.netns import Namespace
from netplane.core.plan.node import FamilyView
from netplane.errors import ApplyError, PrivilegeError

_ROOT = Path("/proc/sys")
ROUTE_LOCALNET = "net/ipv4/conf/all/route_localnet"


def read(namespace: Namespace, name: str) -> str | None:
    """The value of a parameter (``net/ipv4/ip_forward``), None where the kernel has no such."""

    def call() -> str | None:
        try:
            return (_ROOT / name).read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return None

    try:
        return namespace.call(call)
    except OSError as exc:
        raise ApplyError(f"cannot read /proc/sys/{name}: {exc.strerror}") from exc


def write(namespace: Namespace, name: str, value: str) -> None:
    """Set a parameter.

    Raises:
        ApplyError: The kernel refuses; /proc/sys may be mounted read-only (in a container).
    """
    try:
        namespace.call(lambda: (_ROOT / name).write_text(f"{value}\n", encoding="ascii"))
    except PermissionError as exc:
        raise PrivilegeError(f"cannot set /proc/sys/{name}: {exc.strerror}; run as root") from exc
    except OSError as exc:
        raise ApplyError(f"cannot set /proc/sys/{name} to {value}: {exc.strerror}") from exc


def wants_route_localnet(view: FamilyView) -> bool:
    """Whether NodePorts answer on 127.0.0.0/8, which the kernel routes nowhere by default."""
    addresses = view.node_port_addresses
    return view.localhost_node_ports and (
        addresses is None or any(address.startswith("127.") for address in addresses)
    )


def lacks_route_localnet(namespace: Namespace, view: FamilyView) -> bool:
    """Whether ``route_localnet`` must be set for this view and is not."""
    return wants_route_localnet(view) and read(namespace, ROUTE_LOCALNET) == "0"
