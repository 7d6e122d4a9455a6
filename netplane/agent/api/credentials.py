"""Who we are to the API server now: tokens and certificates that are renewed under our feet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from netplane.agent.api.exec_plugin import PluginCredential, run_plugin
from netplane.agent.api.kubeconfig import Access, Pem
from netplane.agent.clocks import Clocks
from netplane.errors import WatchError

#: Seconds between looks at files; the kubelet renews a Pod's token long before it expires.
REREAD = 60.0
#: Seconds before a plugin's credential expires in which it is not begun with any more.
_MARGIN = 10.0


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """A token or "", and PEM: whom to trust, our certificate, its key, or b""."""

    token: str = ""
    ca: bytes = b""
    certificate: bytes = b""
    key: bytes = b""


class Credentials:
    """Keeps what an ``Access`` stands for up to date.

    Files are read again once a minute and when the server refuses us, a plugin is run again when
    its credential expires or is refused.
    """

    def __init__(self, access: Access, clocks: Clocks) -> None:
        self._access = access
        self._clocks = clocks
        self._read_at: float | None = None
        self._files = Credential(token=access.token)
        self._given: PluginCredential | None = None
        self._lock = asyncio.Lock()

    async def current(self) -> Credential:
        """The credential to use now.

        Raises:
            WatchError: A file is not readable, or the plugin gives nothing.
        """
        async with self._lock:
            now = self._clocks.monotonic()
            if self._read_at is None or now - self._read_at >= REREAD:
                self._files = self._read_files()
                self._read_at = now
            plugin = self._access.plugin
            if plugin is None:
                return self._files
            if self._given is None or self._has_expired(self._given):
                self._given = await run_plugin(plugin, self._access)
            return msgspec.structs.replace(
                self._files,
                token=self._given.token or self._files.token,
                certificate=self._given.certificate or self._files.certificate,
                key=self._given.key or self._files.key,
            )

    def refused(self, credential: Credential) -> None:
        """The server does not take this one: get another, unless that has happened already."""
        given = self._given
        self._read_at = None
        if given is not None and (given.token or given.certificate) in {
            credential.token,
            credential.certificate,
        }:
            self._given = None

    def _has_expired(self, given: PluginCredential) -> bool:
        return given.expires is not None and self._clocks.wall() >= given.expires - _MARGIN

    def _read_files(self) -> Credential:
        access = self._access
        token = access.token
        if access.token_file is not None:
            content = _read(access.token_file.read_bytes, str(access.token_file))
            token = content.decode("ascii", errors="replace").strip()
            if not token or not token.isascii() or not token.isprintable():
                raise WatchError(f"{access.token_file}: there is no token in this file")
        return Credential(
            token=token,
            ca=_ca(access.ca),
            certificate=_pem(access.certificate),
            key=_pem(access.key),
        )


def _pem(pem: Pem | None) -> bytes:
    return _read(pem.read, str(pem.path)) if pem is not None else b""


def _ca(pem: Pem | None) -> bytes:
    """Whom to trust; a file without anybody in it must not mean all whom the system trusts."""
    content = _pem(pem)
    if pem is not None and not content.strip():
        raise WatchError(f"{pem.path}: there is no certificate in this file")
    return content


def _read(read: Callable[[], bytes], name: str) -> bytes:
    try:
        return read()
    except OSError as exc:
        raise WatchError(f"{name}: {exc.strerror}") from exc
