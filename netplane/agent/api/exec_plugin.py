"""Running an exec credential plugin, as client-go does (client.authentication.k8s.io).

The program is started directly, never through a shell, with nothing to read, and has a bounded
time; what it prints is bounded, and only its ExecCredential is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import signal
import subprocess

import msgspec

from netplane.agent.api.kubeconfig import Access, ExecPlugin
from netplane.core.model.problem import shown
from netplane.errors import WatchError

TIMEOUT = 60.0  # seconds; some ask a cloud's API, which may be slow
_MOST_OUTPUT = 1 << 20


class PluginCredential(msgspec.Struct, frozen=True, kw_only=True):
    """What a plugin gave; ``expires`` in seconds since the epoch, None: until it is refused."""

    token: str = ""
    certificate: bytes = b""
    key: bytes = b""
    expires: float | None = None


class _Status(msgspec.Struct, rename="camel"):
    token: str | None = None
    client_certificate_data: str | None = None
    client_key_data: str | None = None
    expiration_timestamp: dt.datetime | None = None


class _ExecCredential(msgspec.Struct, rename="camel"):
    kind: str
    api_version: str
    status: _Status


async def run_plugin(
    plugin: ExecPlugin,
    access: Access,
    *,
    timeout: float = TIMEOUT,  # noqa: ASYNC109 (the caller does not care which part takes long)
) -> PluginCredential:
    """The credential that the plugin gives now.

    Raises:
        WatchError: It could not be started, failed, took too long, or gave something else.
    """
    name = shown(plugin.command)
    try:
        transport, run = await asyncio.get_running_loop().subprocess_exec(
            _Run,
            plugin.command,
            *plugin.args,
            env={**os.environ, **plugin.env, "KUBERNETES_EXEC_INFO": _exec_info(plugin, access)},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError) as exc:
        hint = f"; {plugin.hint}" if plugin.hint else ""
        raise WatchError(f"exec plugin {name}: cannot be started: {exc}{hint}") from exc
    try:
        async with asyncio.timeout(timeout):
            await run.over.wait()
    except TimeoutError as exc:
        raise WatchError(f"exec plugin {name}: no answer within {timeout:g} s") from exc
    finally:
        if not run.over.is_set():
            await _end(transport, run)
    status = transport.get_returncode()
    transport.close()
    if status != 0:
        said = shown(run.complaint.decode(errors="replace").strip())
        raise WatchError(f"exec plugin {name}: exit status {status}: {said}")
    return _decode(bytes(run.output), plugin, name)


class _Run(asyncio.SubprocessProtocol):
    """What a program prints, bounded; ``over`` when it has ended and closed its outputs."""

    def __init__(self) -> None:
        self.output = bytearray()
        self.complaint = bytearray()
        self.over = asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        kept = self.output if fd == 1 else self.complaint
        kept += data[: max(_MOST_OUTPUT - len(kept), 0)]

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.over.set()


def _decode(output: bytes, plugin: ExecPlugin, name: str) -> PluginCredential:
    try:
        given = msgspec.json.decode(output, type=_ExecCredential)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise WatchError(f"exec plugin {name}: no ExecCredential: {shown(str(exc))}") from exc
    if given.kind != "ExecCredential" or given.api_version != plugin.api_version:
        got = shown(f"{given.kind} of {given.api_version}")
        raise WatchError(f"exec plugin {name}: a {got}, not of {plugin.api_version}")
    status = given.status
    token, certificate, key = (
        status.token or "",
        status.client_certificate_data or "",
        status.client_key_data or "",
    )
    if bool(certificate) != bool(key) or not (token or certificate):
        raise WatchError(f"exec plugin {name}: neither a token nor a certificate with its key")
    if not (token.isascii() and token.isprintable()):
        raise WatchError(f"exec plugin {name}: the token has characters that no token has")
    expires = status.expiration_timestamp
    if expires is not None and expires.tzinfo is None:
        expires = expires.replace(tzinfo=dt.UTC)
    return PluginCredential(
        token=token,
        certificate=certificate.encode(),
        key=key.encode(),
        expires=expires.timestamp() if expires else None,
    )


def _exec_info(plugin: ExecPlugin, access: Access) -> str:
    """``KUBERNETES_EXEC_INFO``: nobody is there to be asked; the cluster where it is wanted."""
    spec: dict[str, object] = {"interactive": False}
    if plugin.cluster_info:
        cluster: dict[str, object] = {"server": access.server}
        if access.tls_server_name:
            cluster["tls-server-name"] = access.tls_server_name
        if access.insecure:
            cluster["insecure-skip-tls-verify"] = True
        if access.ca is not None:
            cluster["certificate-authority-data"] = access.ca.read()
        spec["cluster"] = cluster
    document = {"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec}
    return msgspec.json.encode(document).decode()


async def _end(transport: asyncio.SubprocessTransport, run: _Run) -> None:
    """End a plugin that goes on, and what it started: they are a session of their own.

    It may have ended itself, and left behind somebody who holds its outputs.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(transport.get_pid(), signal.SIGKILL)
    transport.close()
    await run.over.wait()
