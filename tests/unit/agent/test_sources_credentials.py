"""Who an API server sees: tokens, certificates, plugins; and what never leaves for elsewhere."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from netplane.agent.api.exec_plugin import run_plugin
from netplane.agent.api.kubeconfig import Access, ExecPlugin, Pem
from netplane.agent.api.pacing import Pacing
from netplane.agent.api.source import ApiSource
from netplane.agent.changes import Source
from netplane.errors import WatchError
from tests.support import certificates
from tests.support.api_server import ApiServer, Fault
from tests.support.eventually import eventually
from tests.support.following import CLOCKS, HASTY, Follower, following, rng
from tests.support.manifests import node, service

V1 = "client.authentication.k8s.io/v1"
TOKEN = "correct-horse"


@pytest.fixture(scope="module")
def server_pair(tmp_path_factory: pytest.TempPathFactory) -> certificates.Pair:
    return certificates.make(tmp_path_factory.mktemp("tls"), "api", san="IP:127.0.0.1,DNS:api.lab")


def serving(pair: certificates.Pair, *, clients: Path | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients)
    return context


def source_of(access: Access, pacing: Pacing = HASTY) -> ApiSource:
    return ApiSource(access, node_name="node-1", clocks=CLOCKS, rng=rng(), pacing=pacing)


async def until_watched(server: ApiServer, source: Source) -> None:
    """Until all three watches tell something: asyncio leaks TLS connections cut short before."""
    now = time.monotonic()
    await until(lambda: server.watches == 3 and source.last_heard > now)


async def until(condition: Callable[[], bool]) -> None:
    """Until something holds that is in the server's thread."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def follow(access: Access, server: ApiServer) -> None:
    """Follow until in sync."""
    server.store.put(node("node-1", ip="192.0.2.1"))

    async def story(follower: Follower) -> None:
        await follower.until(lambda: follower.source.in_sync)
        await until_watched(server, follower.source)
        assert follower.source.fault == ""

    async def run() -> None:
        await until(lambda: server.watches == 0)
        await following(source_of(access), story)

    asyncio.run(run())


def fault_of(access: Access) -> str:
    """What keeps all three resources from being heard."""
    faults: list[str] = []

    async def story(follower: Follower) -> None:
        await follower.until(lambda: follower.source.fault.count(";") == 2)
        faults.append(follower.source.fault)

    patient = Pacing(first=1000, longest=1000)  # one attempt each
    asyncio.run(following(source_of(access, patient), story))
    return faults[0]


def test_a_token_goes_to_a_server_that_is_who_it_should_be(
    server_pair: certificates.Pair,
) -> None:
    with ApiServer(tls=serving(server_pair), token=TOKEN) as server:
        ca = Pem(path=server_pair.certificate)
        follow(Access(server=server.url, ca=ca, token=TOKEN), server)
        named = Access(server=server.url, ca=ca, token=TOKEN, tls_server_name="api.lab")
        follow(named, server)
        asked = len(server.requests)
        misnamed = Access(server=server.url, ca=ca, token=TOKEN, tls_server_name="evil.lab")
        assert "not trusted: Hostname mismatch, certificate is not valid for 'evil.lab'" in (
            fault_of(misnamed)
        )
        untrusted = Access(server=server.url, token=TOKEN)
        assert "certificate is not trusted" in fault_of(untrusted)
        assert len(server.requests) == asked
        follow(Access(server=server.url, insecure=True, token=TOKEN), server)


def test_a_file_without_a_ca_means_nobody_and_not_everybody(tmp_path: Path) -> None:
    nobody = tmp_path / "ca.crt"
    nobody.write_text("\n")
    access = Access(server="https://127.0.0.1:9", ca=Pem(path=nobody), token=TOKEN)
    assert f"{nobody}: there is no certificate in this file" in fault_of(access)


def test_a_ca_may_have_a_comment_in_any_encoding(
    server_pair: certificates.Pair, tmp_path: Path
) -> None:
    bundle = tmp_path / "ca.crt"
    with ApiServer(tls=serving(server_pair)) as server:
        for comment in ("# Főtanúsítvány\n".encode(), b"# caf\xe9\n"):
            bundle.write_bytes(comment + server_pair.certificate.read_bytes())
            follow(Access(server=server.url, ca=Pem(path=bundle)), server)


_WITH_KEY = """
import fcntl, pathlib, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from netplane.agent.api.client import tls_context
from netplane.agent.api.credentials import Credential
certificate, key = (pathlib.Path(p).read_bytes() for p in ({certificate!r}, {key!r}))
tls_context(Credential(certificate=certificate, key=key))
"""
"""Reads a certificate and its key with a terminal at hand, where OpenSSL could ask."""


def test_a_key_with_a_password_is_refused_and_nobody_asked_for_it(
    server_pair: certificates.Pair, tmp_path: Path
) -> None:
    locked = tmp_path / "locked.key"
    argv = ["openssl", "pkcs8", "-topk8", "-in", str(server_pair.key), "-out", str(locked)]
    subprocess.run([*argv, "-passout", "pass:x"], check=True, capture_output=True, timeout=30)
    master, terminal = os.openpty()
    code = _WITH_KEY.format(certificate=str(server_pair.certificate), key=str(locked))
    with os.fdopen(master, "rb"), os.fdopen(terminal, "rb") as stdin:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdin=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
            start_new_session=True,
        )
    assert "WatchError: the certificates or the key cannot be used" in done.stderr


def test_an_address_that_cannot_be_reached_is_told_as_it_is_written() -> None:
    with ApiServer() as server:
        port = server.port
    assert f"not reached at [::1]:{port}: " in fault_of(Access(server=f"http://[::1]:{port}"))


def test_a_key_that_does_not_fit_yet_is_read_again_at_once(
    server_pair: certificates.Pair, tmp_path: Path
) -> None:
    """Two files are never renewed at the same moment; a minute of not being heard is too long."""
    ours = certificates.make(tmp_path, "agent")
    key = tmp_path / "key.pem"
    key.write_bytes(server_pair.key.read_bytes())
    with ApiServer(tls=serving(server_pair, clients=ours.certificate)) as server:
        server.store.put(node("node-1", ip="192.0.2.1"))
        access = Access(
            server=server.url,
            ca=Pem(path=server_pair.certificate),
            certificate=Pem(path=ours.certificate),
            key=Pem(path=key),
        )

        async def story(follower: Follower) -> None:
            await follower.until(lambda: "cannot be used" in follower.source.fault)
            key.write_bytes(ours.key.read_bytes())
            await follower.until(lambda: follower.source.in_sync)
            await until_watched(server, follower.source)

        asyncio.run(following(source_of(access), story))


def test_a_certificate_of_ours_is_shown(server_pair: certificates.Pair, tmp_path: Path) -> None:
    ours = certificates.make(tmp_path, "agent")
    tls = serving(server_pair, clients=ours.certificate)
    with ApiServer(tls=tls) as server:
        access = Access(
            server=server.url,
            ca=Pem(path=server_pair.certificate),
            certificate=Pem(path=ours.certificate),
            key=Pem(content=ours.key.read_bytes()),
        )
        follow(access, server)


def test_a_token_is_never_sent_in_clear_nor_to_where_a_redirect_leads(
    server_pair: certificates.Pair,
) -> None:
    with ApiServer() as elsewhere:
        follow(Access(server=elsewhere.url, token=TOKEN), elsewhere)
        assert not any("authorization" in request.headers for request in elsewhere.requests)
        before = len(elsewhere.requests)
        with ApiServer(tls=serving(server_pair), elsewhere=elsewhere.url) as server:
            server.script("Service", Fault.REDIRECT, Fault.REDIRECT)
            access = Access(server=server.url, ca=Pem(path=server_pair.certificate), token=TOKEN)
            follow(access, server)
            assert server.happened == [Fault.REDIRECT] * 2
            assert all(TOKEN in r.headers["authorization"] for r in server.requests)
        assert len(elsewhere.requests) == before


def test_a_token_file_is_read_again_when_its_token_is_refused(
    server_pair: certificates.Pair, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("old\n")
    with ApiServer(tls=serving(server_pair), token="old") as server:
        server.store.put(node("node-1", ip="192.0.2.1"))
        access = Access(server=server.url, ca=Pem(path=server_pair.certificate), token_file=file)

        async def story(follower: Follower) -> None:
            await follower.until(lambda: follower.source.in_sync)
            server.token = TOKEN
            server.store.compact()
            server.script("Service", Fault.RESET_IN_OBJECT)
            server.store.put(service("web"))
            await follower.until(lambda: "401" in follower.source.fault)
            file.write_text(f"{TOKEN}\n")
            await follower.until(lambda: len(follower.services) == 1)
            await until_watched(server, follower.source)

        asyncio.run(following(source_of(access), story))


def script(tmp_path: Path, text: str) -> ExecPlugin:
    path = tmp_path / "plugin"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return ExecPlugin(command=str(path), api_version=V1, args=("$(id)",), env={"WHO": "me"})


def given(status: str) -> str:
    return f"""echo '{{"kind": "ExecCredential", "apiVersion": "{V1}", "status": {status}}}'"""


def test_a_plugin_is_run_once_until_its_credential_is_refused(
    server_pair: certificates.Pair, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    token = tmp_path / "given"
    token.write_text("old")
    said = given(
        f"""{{"token": "'$(cat {token})'", "expirationTimestamp": "2999-01-01T00:00:00Z"}}"""
    )
    plugin = script(tmp_path, f"echo x >> {runs}\n{said}")
    with ApiServer(tls=serving(server_pair), token="old") as server:
        server.store.put(node("node-1", ip="192.0.2.1"))
        access = Access(server=server.url, ca=Pem(path=server_pair.certificate), plugin=plugin)

        async def story(follower: Follower) -> None:
            await follower.until(lambda: follower.source.in_sync)
            assert len(runs.read_text().split()) == 1
            token.write_text(TOKEN)
            server.token = TOKEN
            server.script("Service", Fault.RESET_IN_OBJECT)
            server.store.put(service("web"))
            await follower.until(lambda: len(follower.services) == 1)
            await until_watched(server, follower.source)

        asyncio.run(following(source_of(access), story))
    assert len(runs.read_text().split()) == 2


def run(plugin: ExecPlugin, *, timeout: float = 10) -> object:
    access = Access(server="https://api.lab", plugin=plugin)
    return asyncio.run(run_plugin(plugin, access, timeout=timeout))


def test_a_plugin_is_told_who_asks_and_no_shell_reads_its_arguments(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    plugin = script(
        tmp_path,
        f'printf "%s\\n" "$1" "$WHO" "$KUBERNETES_EXEC_INFO" > {seen}\n{given("{}")}',
    )
    with pytest.raises(WatchError, match="neither a token"):
        run(plugin)
    argument, who, told = seen.read_text().splitlines()
    assert (argument, who) == ("$(id)", "me")
    assert '"interactive":false' in told
    assert "api.lab" not in told


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("echo wrong >&2; exit 3", "exit status 3: wrong", id="fails"),
        pytest.param("echo hello", "no ExecCredential", id="says-something"),
        pytest.param(given('{"clientCertificateData": "x"}'), "neither a token", id="half"),
        pytest.param(given('{"token": "a\\\\nb"}'), "no token has", id="two-lines"),
        pytest.param("yes", "no answer within", id="never-ends"),
        pytest.param(given("{}").replace("/v1", "/v9"), "of client", id="another-version"),
    ],
)
def test_plugins_that_fail_are_told_of(tmp_path: Path, text: str, words: str) -> None:
    start = time.monotonic()
    with pytest.raises(WatchError, match=words):
        run(script(tmp_path, text), timeout=0.5 if text == "yes" else 10)
    assert time.monotonic() - start < 5


def test_what_a_plugin_leaves_running_is_ended_with_it(tmp_path: Path) -> None:
    """Whoever holds its outputs keeps its answer from being complete, each time anew."""
    left = tmp_path / "left"
    text = f"sleep 1000 & echo $! > {left}; {given('{}')}"
    with pytest.raises(WatchError, match="no answer within"):
        run(script(tmp_path, text), timeout=0.5)
    process = Path(f"/proc/{left.read_text().strip()}/stat")
    eventually(lambda: not process.exists() or ") Z " in process.read_text())


def test_a_plugin_that_is_not_there_is_named_with_its_hint() -> None:
    with pytest.raises(WatchError, match=r"no-such-plugin.*apt install it"):
        run(ExecPlugin(command="no-such-plugin", hint="apt install it"))
