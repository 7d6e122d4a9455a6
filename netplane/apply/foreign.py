"""Telling that somebody else, a kube-proxy, programs the same node, and taking over from it.

Both would rewrite the same chains for ever. What gives a kube-proxy away: its process in this
network namespace, the table ``kube-proxy`` of its nftables mode, and the canary chains of its
iptables mode (reference section 1.9), which netplane never makes.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink.socket import NfnetlinkSocket
from netplane.apply.tools import find, run
from netplane.core.model.address import Family
from netplane.errors import ApplyError, ConflictError, PrivilegeError, ToolError

_CANARY = "KUBE-PROXY-CANARY"
_TABLE = "kube-proxy"
_COMM = "kube-proxy"
_TABLES = ("mangle", "nat", "filter")
# Under /proc/self the directory "net" is the main thread's namespace, not the caller's.
_PROC_NET = Path("/proc/thread-self/net")
_LEGACY = (("iptables-legacy", "ip_tables_names"), ("ip6tables-legacy", "ip6_tables_names"))
_NFT_NAMES = {Family.IPV4: ("ip", "iptables-nft"), Family.IPV6: ("ip6", "ip6tables-nft")}


class Canary(msgspec.Struct, frozen=True):
    """A canary chain: the program that sees it (``iptables-nft``...), and its table."""

    program: str
    table: str


class KubeProxy(msgspec.Struct, frozen=True, kw_only=True):
    """The traces of a kube-proxy in a namespace; false where there is none.

    Attributes:
        pids: Its processes.
        canaries: Its canary chains.
        nft_families: Families (``ip``, ``ip6``) in which its nft table exists.
    """

    pids: tuple[int, ...] = ()
    canaries: tuple[Canary, ...] = ()
    nft_families: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.pids or self.canaries or self.nft_families)

    @property
    def holds_chains(self) -> bool:
        """Whether chains of our names may be its own: it makes its canaries before any other.

        Of one whose process alone is seen nobody knows what it is about to do.
        """
        return bool(self.canaries) or bool(self.pids and not self.nft_families)

    def __str__(self) -> str:
        parts = [f"process {pid}" for pid in self.pids]
        parts += [f"chain {_CANARY} in {c.table} ({c.program})" for c in self.canaries]
        parts += [f"nft table {family} {_TABLE}" for family in self.nft_families]
        return ", ".join(parts)


def find_kube_proxy(namespace: Namespace) -> KubeProxy:
    """Look for a kube-proxy that programs this namespace; changes nothing.

    Raises:
        PrivilegeError: We may not look.
    """
    # The kernel is asked by name. nft would read every chain there is first: a second or two where
    # iptables mode has 2,000 Services.
    with NfnetlinkSocket(namespace) as link:
        canaries = _nft_canaries(link)
        tables = [name for f, (name, _) in _NFT_NAMES.items() if link.has_table(f, _TABLE)]
    return KubeProxy(
        pids=_processes(namespace),
        canaries=(*canaries, *_legacy_canaries(namespace)),
        nft_families=tuple(tables),
    )


def refuse(found: KubeProxy, namespace: Namespace) -> None:
    """Raise ConflictError where a kube-proxy was found."""
    if found:
        raise ConflictError(
            f"a kube-proxy programs {namespace}: {found}. Nothing was written. Stop it, then run "
            "again with --take-over, which also removes what it left behind"
        )


def take_over(namespace: Namespace, found: KubeProxy) -> tuple[str, ...]:
    """Remove the canary chains and the nft tables of a kube-proxy; returns what was removed.

    Its other chains are the same as ours: the sync before this has rewritten or removed them.

    Raises:
        ToolError: One of the tools failed; the message has its words.
    """
    removed = []
    # A cleanup of the other mode may have removed some by now.
    for canary in find_kube_proxy(namespace).canaries if found.canaries else ():
        for verb in ("-F", "-X"):
            _must(namespace, [canary.program, "-w", "5", "-t", canary.table, verb, _CANARY])
        removed.append(f"removed the chain {_CANARY} in {canary.table} ({canary.program})")
    for family in found.nft_families:
        _must(namespace, ["nft", "delete", "table", family, _TABLE])
        removed.append(f"removed the nft table {family} {_TABLE}")
    return tuple(removed)


def _must(namespace: Namespace, argv: list[str]) -> None:
    done = run(namespace, argv)
    if done.status != 0:
        raise ToolError(f"{' '.join(argv)}: {done.stderr.strip():.300}")


def _nft_canaries(link: NfnetlinkSocket) -> list[Canary]:
    """Canaries among the chains of iptables-nft, which are plain nft chains."""
    return [
        Canary(program, table)
        for family, (_, program) in _NFT_NAMES.items()
        for table in _TABLES
        if link.has_chain(family, table, _CANARY)
    ]


def _legacy_canaries(namespace: Namespace) -> list[Canary]:
    """Canaries in legacy tables, asking only for tables that exist: asking creates the others."""
    return [
        Canary(program, table)
        for program, listing in _LEGACY
        if find(program) is not None
        for table in legacy_tables(namespace, listing)
        if table in _TABLES
        and run(namespace, [program, "-w", "5", "-t", table, "-S", _CANARY]).status == 0
    ]


def legacy_tables(namespace: Namespace, listing: str = "ip_tables_names") -> tuple[str, ...]:
    """The legacy tables instantiated in a namespace; ``ip6_tables_names`` for IPv6.

    Raises:
        PrivilegeError: We may not look.
        ApplyError: It cannot be read.
    """

    def call() -> tuple[str, ...]:
        try:
            return tuple((_PROC_NET / listing).read_text(encoding="ascii").split())
        except FileNotFoundError:
            return ()  # the module ip_tables is not loaded

    try:
        return namespace.call(call)
    except PermissionError as exc:
        raise PrivilegeError(f"cannot read {listing}: {exc.strerror}; run as root") from exc
    except OSError as exc:
        raise ApplyError(f"cannot read {listing}: {exc.strerror}") from exc


def _processes(namespace: Namespace) -> tuple[int, ...]:
    """Processes named kube-proxy whose network namespace is this one."""
    ours = namespace.call(lambda: Path("/proc/thread-self/ns/net").stat())
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if (entry / "comm").read_text(encoding="utf-8", errors="replace").strip() != _COMM:
                continue
            theirs = (entry / "ns/net").stat()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended meanwhile, or is somebody else's
        if (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino):
            found.append(int(entry.name))
    return tuple(sorted(found))
