"""Where the API server is and who we are there: a kubeconfig, or what a Pod is given.

Only what a node's agent needs. What would change who we are or where we go, and is not known
here (a proxy, a password, impersonation), is refused, never passed over.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from netplane.core.model import yaml_tree
from netplane.core.model.problem import shown
from netplane.errors import MalformedError, UnsupportedError, UsageError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
EXEC_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")


class Pem(msgspec.Struct, frozen=True, kw_only=True):
    """Certificates or a key in PEM: in the kubeconfig itself, or in a file that may change."""

    content: bytes = b""
    path: Path | None = None

    def read(self) -> bytes:
        """The PEM as it is now.

        Raises:
            OSError: The file is not readable.
        """
        return self.path.read_bytes() if self.path is not None else self.content


class ExecPlugin(msgspec.Struct, frozen=True, kw_only=True):
    """A program that gives credentials (client.authentication.k8s.io); no shell is involved."""

    command: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    api_version: str = EXEC_VERSIONS[0]
    cluster_info: bool = False
    hint: str = ""


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach an API server.

    Attributes:
        server: ``https://host:port`` or with a path, without a slash at its end.
        ca: Whom to trust; None: whom the system trusts.
        insecure: Trust anybody: the user said so.
        tls_server_name: The name that the certificate must have, "" for the server's own.
        certificate: Ours, and ``key`` its key.
        token: "" where there is none, or ``token_file`` has it.
    """

    server: str
    ca: Pem | None = None
    insecure: bool = False
    tls_server_name: str = ""
    certificate: Pem | None = None
    key: Pem | None = None
    token: str = ""
    token_file: Path | None = None
    plugin: ExecPlugin | None = None


class _Struct(msgspec.Struct, rename="kebab"):
    """The cluster's and the user's fields are in kebab case, with exceptions."""


class _Cluster(_Struct):
    server: str | None = None
    certificate_authority: str | None = None
    certificate_authority_data: str | None = None
    insecure_skip_tls_verify: bool | None = None
    tls_server_name: str | None = None
    proxy_url: str | None = None


class _EnvVar(msgspec.Struct):
    name: str
    value: str = ""


class _Exec(msgspec.Struct, rename="camel"):
    command: str
    args: list[str] | None = None
    env: list[_EnvVar] | None = None
    api_version: str | None = None
    install_hint: str | None = None
    provide_cluster_info: bool | None = None


class _User(_Struct):
    client_certificate: str | None = None
    client_certificate_data: str | None = None
    client_key: str | None = None
    client_key_data: str | None = None
    token: str | None = None
    token_file: str | None = msgspec.field(name="tokenFile", default=None)
    exec: _Exec | None = None
    username: str | None = None
    auth_provider: object = None
    impersonate: str | None = msgspec.field(name="as", default=None)


class _NamedCluster(msgspec.Struct):
    name: str
    cluster: _Cluster | None = None


class _NamedUser(msgspec.Struct):
    name: str
    user: _User | None = None


class _Context(msgspec.Struct):
    cluster: str | None = None
    user: str | None = None


class _NamedContext(msgspec.Struct):
    name: str
    context: _Context | None = None


class _Kubeconfig(_Struct):
    clusters: list[_NamedCluster] | None = None
    users: list[_NamedUser] | None = None
    contexts: list[_NamedContext] | None = None
    current_context: str | None = None


_N = TypeVar("_N", _NamedCluster, _NamedUser, _NamedContext)


def read_kubeconfig(path: Path, *, context: str = "") -> Access:
    """What a kubeconfig says of its current context, or of the one named.

    Raises:
        UsageError: The file is not readable, or has no such context.
        MalformedError: It is no kubeconfig, or something in it refers to nothing.
        UnsupportedError: It asks for something that netplane does not do.
    """
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise UsageError(f"--kubeconfig {path}: {exc.strerror}") from exc
    return parse_kubeconfig(content, path=path, context=context)


def parse_kubeconfig(content: bytes, *, path: Path, context: str = "") -> Access:
    """As ``read_kubeconfig``, of content that was read; paths in it are relative to its own."""
    where = str(path)
    trees = [tree for _, tree in yaml_tree.load(content, origin=where) if tree is not None]
    if len(trees) != 1:
        raise MalformedError(f"{where}: {len(trees)} documents instead of one kubeconfig")
    try:
        config = msgspec.convert(trees[0], _Kubeconfig)
    except msgspec.ValidationError as exc:
        raise MalformedError(f"{where}: {shown(str(exc))}") from exc
    wanted = context or config.current_context or ""
    chosen = _named(config.contexts, wanted)
    if chosen is None:
        asked = f"no context {shown(wanted)!r}" if wanted else "it says no current-context"
        known = ", ".join(sorted(c.name for c in config.contexts or ())) or "none"
        raise UsageError(f"{where}: {asked}; it has: {shown(known)}")
    names = chosen.context or _Context()
    cluster = _named(config.clusters, names.cluster or "")
    user = _named(config.users, names.user or "")
    if cluster is None or cluster.cluster is None:
        raise MalformedError(f"{where}: no cluster {shown(names.cluster)} is described in it")
    if user is None and names.user:
        raise MalformedError(f"{where}: no user {shown(names.user)} is described in it")
    return _access(cluster.cluster, (user.user if user else None) or _User(), path)


def in_cluster(env: Mapping[str, str], mounted: Path = SERVICE_ACCOUNT) -> Access:
    """What a Pod is given: the ServiceAccount's token and CA, the API server's address.

    Raises:
        UsageError: This is no Pod, or one without a ServiceAccount's token.
    """
    host, port = env.get("KUBERNETES_SERVICE_HOST"), env.get("KUBERNETES_SERVICE_PORT")
    token, ca = mounted / "token", mounted / "ca.crt"
    if not host or not port or not token.is_file():
        raise UsageError(
            "not in a Pod with a ServiceAccount (KUBERNETES_SERVICE_HOST, KUBERNETES_SERVICE_PORT"
            f" and {token}); name an API server by --kubeconfig FILE, or manifests by -f DIR"
        )
    host = f"[{host}]" if ":" in host else host
    return Access(
        server=_server(f"https://{host}:{port}", "KUBERNETES_SERVICE_HOST"),
        ca=Pem(path=ca) if ca.is_file() else None,
        token_file=token,
    )


def _access(cluster: _Cluster, user: _User, path: Path) -> Access:
    where = str(path)
    if cluster.proxy_url:
        raise UnsupportedError(f"{where}: proxy-url: netplane connects to API servers directly")
    if user.username or user.auth_provider is not None or user.impersonate:
        raise UnsupportedError(
            f"{where}: username, auth-provider and as are not supported; give the user a token, "
            "a tokenFile, a client-certificate or an exec plugin"
        )
    certificate = _pem(
        user.client_certificate_data, user.client_certificate, path, "client-certificate"
    )
    key = _pem(user.client_key_data, user.client_key, path, "client-key")
    if (certificate is None) != (key is None):
        raise MalformedError(f"{where}: client-certificate and client-key belong together")
    insecure = cluster.insecure_skip_tls_verify or False
    ca = _pem(
        cluster.certificate_authority_data,
        cluster.certificate_authority,
        path,
        "certificate-authority",
    )
    if insecure and ca is not None:
        raise MalformedError(
            f"{where}: insecure-skip-tls-verify and a certificate-authority contradict each other"
        )
    return Access(
        server=_server(cluster.server or "", where),
        ca=ca,
        insecure=insecure,
        tls_server_name=_tls_server_name(cluster.tls_server_name or "", where),
        certificate=certificate,
        key=key,
        # As client-go: the file is what is kept up to date, so it counts where both are given.
        token="" if user.token_file else _token(user.token or "", where),
        token_file=path.parent / user.token_file if user.token_file else None,
        plugin=_plugin(user.exec, path) if user.exec else None,
    )


def _server(url: str, where: str) -> str:
    scheme = ""
    try:
        parts = urlsplit(url)
        scheme = parts.scheme
        usable = parts.scheme in {"http", "https"} and _is_host(parts.hostname or "")
        usable = usable and parts.port != 0
        usable = usable and not (parts.username or parts.query or parts.fragment)
    except ValueError:
        usable = False
    if not usable:
        bare = url.rpartition("@")[2]  # before it would be a password, which no log must have
        raise MalformedError(f"{where}: server {shown(bare)}: not an http or https URL")
    return f"{scheme}:{url.partition(':')[2]}".rstrip("/")  # HTTPS: is https:


def _tls_server_name(name: str, where: str) -> str:
    if name and not _is_host(name):
        raise MalformedError(f"{where}: tls-server-name {shown(name)}: not a name of a host")
    return name


def _is_host(name: str) -> bool:
    """Whether it can be asked for; what cannot would be no fault of the server's later on."""
    try:
        return name.isprintable() and bool(name.encode("idna"))
    except UnicodeError:
        return False


def _token(text: str, where: str) -> str:
    if not (text.isascii() and text.isprintable()):
        raise MalformedError(f"{where}: the token has characters that no token has")
    return text


def _pem(inline: str | None, file: str | None, path: Path, field: str) -> Pem | None:
    """As in client-go: data counts where both are given; relative to the kubeconfig."""
    if inline:
        try:
            return Pem(content=base64.b64decode("".join(inline.split()), validate=True))
        except binascii.Error as exc:
            raise MalformedError(f"{path}: {field}-data is not base64") from exc
    return Pem(path=path.parent / file) if file else None


def _plugin(plugin: _Exec, path: Path) -> ExecPlugin:
    version = plugin.api_version or ""
    if version not in EXEC_VERSIONS:
        expected = " or ".join(EXEC_VERSIONS)
        raise UnsupportedError(f"{path}: exec: apiVersion {shown(version)}; expected {expected}")
    # A path is relative to the kubeconfig, a mere name is looked up in PATH.
    command = str(path.parent / plugin.command) if "/" in plugin.command else plugin.command
    return ExecPlugin(
        command=command,
        args=tuple(plugin.args or ()),
        env={variable.name: variable.value for variable in plugin.env or ()},
        api_version=version,
        cluster_info=plugin.provide_cluster_info or False,
        hint=shown(plugin.install_hint or ""),
    )


def _named(entries: Sequence[_N] | None, name: str) -> _N | None:
    return next((entry for entry in entries or () if entry.name == name), None)
