"""GET requests to one API server: TLS, credentials and timeouts, errors translated.

Nothing but GET is ever sent, so that the right to get, list and watch is all an agent needs.
Redirects are not followed and proxies of the environment not used: the credentials go to the
server that the user named, over TLS (a token is never sent in clear, as in ``kubectl``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self, TypeAlias

import aiohttp
from yarl import URL

from netplane import __version__
from netplane.agent.api.credentials import Credential, Credentials
from netplane.agent.api.kubeconfig import Access
from netplane.agent.clocks import Clocks
from netplane.core.model.address import join_host_port
from netplane.core.model.problem import shown
from netplane.errors import WatchError

#: Told a server and the status of its answer.
OnAnswer: TypeAlias = Callable[[str, str], object]

OK = 200
_CONNECT = 10.0  # seconds
_UNAUTHORIZED = 401
_MOST_COMPLAINT = 1 << 16
_COMPLAINING = 5.0  # seconds
_LONGEST_LIST = 600.0  # seconds for a page, which may be a whole list over a slow line
_SLACK = 30.0  # seconds after which a watch that the server was to end is ended here


class SilenceError(WatchError):
    """An answer that has begun says nothing any more."""


class Answer:
    """An answer whose head has arrived."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.retry_after = response.headers.get("Retry-After", "")

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it arrives.

        Raises:
            SilenceError: It stopped arriving.
            WatchError: It broke off.
        """
        with _translated():
            async for chunk in self._response.content.iter_any():
                yield chunk

    async def complaint(self) -> bytes:
        """The beginning of a body that tells what is wrong, as far as it comes.

        That the answer breaks off, or does not go on, is no matter: its status counts.
        """
        said = bytearray()
        with contextlib.suppress(TimeoutError, WatchError):
            async with asyncio.timeout(_COMPLAINING), contextlib.aclosing(self.chunks()) as chunks:
                async for chunk in chunks:
                    said += chunk
                    if len(said) >= _MOST_COMPLAINT:
                        break
        return bytes(said[:_MOST_COMPLAINT])


class Client:
    """One API server; to be used as an asynchronous context manager.

    Args:
        silence: Seconds without a byte after which an answer is given up.
        on_answer: Told the server, ``HOST:PORT``, and the status of each answer; "<error>" of a
            request that was not answered.
    """

    def __init__(
        self,
        access: Access,
        clocks: Clocks,
        *,
        silence: float,
        on_answer: OnAnswer | None = None,
    ) -> None:
        self._access = access
        self._credentials = Credentials(access, clocks)
        self._silence = silence
        self._on_answer = on_answer
        self._tls: tuple[Credential, ssl.SSLContext] | None = None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            headers={
                "Accept": "application/json",
                "User-Agent": f"netplane/{__version__}",
            },
            # One object of a watch is one read; a page of a list is as large as it is.
            read_bufsize=1 << 18,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @asynccontextmanager
    async def get(
        self, path: str, query: Mapping[str, str], *, lasts: float = 0.0
    ) -> AsyncIterator[Answer]:
        """Send a GET; the body is read inside the context, and what is left of it thrown away.

        Args:
            path: Below the server's URL.
            query: Parameters, not yet escaped.
            lasts: Seconds after which the server ends a watch; 0 for what is no watch.

        Raises:
            SilenceError: The head did not arrive in time.
            WatchError: The server was not reached, or the credentials cannot be had.
        """
        assert self._session is not None
        credential = await self._credentials.current()
        secure = self._access.server.startswith("https:")
        authorization = {}
        if secure and credential.token:
            authorization = {"Authorization": f"Bearer {credential.token}"}
        timeout = aiohttp.ClientTimeout(
            total=lasts + _SLACK if lasts else _LONGEST_LIST,
            connect=_CONNECT,
            sock_read=self._silence,
        )
        request = self._session.get(
            URL(self._access.server + path).with_query(query),
            headers=authorization,
            allow_redirects=False,
            timeout=timeout,
            ssl=self._tls_for(credential) if secure else True,
            server_hostname=(self._access.tls_server_name or None) if secure else None,
        )
        try:
            with _translated():
                response = await request
        except WatchError as exc:
            self._answered("<error>")
            if isinstance(exc.__cause__, aiohttp.ClientSSLError):
                self._credentials.refused(credential)  # an old certificate, or an old CA
            raise
        try:
            self._answered(str(response.status))
            if response.status == _UNAUTHORIZED:
                self._credentials.refused(credential)
            _watch_the_peer(response)
            yield Answer(response)
        finally:
            _abandon(response)

    def _answered(self, code: str) -> None:
        if self._on_answer is not None:
            url = URL(self._access.server)
            self._on_answer(join_host_port(url.host or "", url.port or 0), code)

    def _tls_for(self, credential: Credential) -> ssl.SSLContext:
        if self._tls is None or self._tls[0] != credential:
            try:
                self._tls = credential, tls_context(credential, insecure=self._access.insecure)
            except WatchError:
                # Most likely a certificate and a key of which one was renewed between two looks.
                self._credentials.refused(credential)
                raise
        return self._tls[1]


def tls_context(credential: Credential, *, insecure: bool = False) -> ssl.SSLContext:
    """What to trust, and our certificate if there is one.

    Raises:
        WatchError: The PEM is none.
    """
    try:
        # What is not ASCII stands between the certificates: the owners' names, as a comment.
        authorities = credential.ca.decode("ascii", errors="ignore")
        context = ssl.create_default_context(cadata=authorities if credential.ca else None)
        # Python 3.13 asks of a CA what Go does not, and what many clusters' CAs do not have.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if credential.certificate:
            _load_certificate(context, credential)
    except (ssl.SSLError, ValueError, OSError) as exc:
        raise WatchError(f"the certificates or the key cannot be used: {exc}") from exc
    return context


def _load_certificate(context: ssl.SSLContext, credential: Credential) -> None:
    """OpenSSL's interface wants a file: one in memory, so that the key meets no disk."""
    descriptor = os.memfd_create("netplane-client-certificate", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(credential.certificate + b"\n" + credential.key)
        file.flush()
        # Nobody is there to be asked for a password: without one OpenSSL would ask, and wait.
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password="")


def _abandon(response: aiohttp.ClientResponse) -> None:
    """Close the connection of an answer that was not read to its end.

    One that was is back in the pool already. No farewell is said (TLS has one): the peer may be
    the very reason why we go, and would be waited for.
    """
    if response.connection is not None and response.connection.transport is not None:
        response.connection.transport.abort()
    response.close()


def _watch_the_peer(response: aiohttp.ClientResponse) -> None:
    """Let the kernel find out within half a minute that the other end is gone without a word."""
    transport = response.connection.transport if response.connection else None
    sock = transport.get_extra_info("socket") if transport else None
    if sock is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)


class _translated:  # noqa: N801 (reads as a statement)
    """Turns aiohttp's errors into ours, at the edge."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        match error:
            case aiohttp.ConnectionTimeoutError():
                raise WatchError("the API server is not reached in time") from error
            case aiohttp.SocketTimeoutError() | asyncio.TimeoutError():
                raise SilenceError("the API server says nothing any more") from error
            case aiohttp.ClientConnectorCertificateError():
                # Which name was wanted, or who signed it; the whole text would be cut before that.
                reason = error.certificate_error
                words = shown(getattr(reason, "verify_message", "") or str(reason))
                raise WatchError(
                    f"the API server's certificate is not trusted: {words}"
                ) from error
            case aiohttp.ClientConnectorError():
                where = join_host_port(error.host, error.port or 0)
                words = f"at {where}: {_reason(error.os_error)}"
                raise WatchError(f"the API server is not reached {words}") from error
            case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError():
                raise WatchError("the API server broke the connection off") from error
            case aiohttp.ClientError() | OSError() | asyncio.IncompleteReadError():
                words = shown(str(error) or type(error).__name__)
                raise WatchError(f"the API server is not reached: {words}") from error
            case _:
                return


def _reason(error: OSError) -> str:
    """Why a connection could not be made: in aiohttp's words, and asyncio's, it is cut off."""
    number = error.errno if type(error).__module__ == "builtins" else None
    return os.strerror(number) if number else shown(error.strerror or str(error))
