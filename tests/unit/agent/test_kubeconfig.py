"""What a kubeconfig and a Pod's files say, and what is refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from netplane.agent.api.kubeconfig import Access, ExecPlugin, Pem, in_cluster, parse_kubeconfig
from netplane.errors import InputError, MalformedError, UnsupportedError, UsageError

WHERE = Path("/etc/kubernetes/agent.conf")


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def kubeconfig(
    cluster: Mapping[str, object], user: Mapping[str, object] | None = None, **rest: object
) -> bytes:
    """As JSON, which is YAML too."""
    whole = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user or {}}],
        "contexts": [
            {"name": "one", "context": {"cluster": "c", "user": "u"}},
            {"name": "lost", "context": {"cluster": "nowhere", "user": "u"}},
            {"name": "nobody", "context": {"cluster": "c", "user": "ghost"}},
        ],
        "current-context": "one",
        **rest,
    }
    return json.dumps(whole).encode()


def read(content: bytes, context: str = "") -> Access:
    return parse_kubeconfig(content, path=WHERE, context=context)


YAML = b"""
apiVersion: v1
kind: Config
current-context: admin@lab
preferences: {}
clusters:
- name: lab
  cluster:
    server: https://192.0.2.1:6443/
    certificate-authority: pki/ca.crt
    tls-server-name: api.example
- name: other
  cluster: {server: "https://[2001:db8::1]:6443/k8s", insecure-skip-tls-verify: true}
users:
- name: admin
  user:
    client-certificate: /var/lib/kubelet/pki/current.pem
    client-key: /var/lib/kubelet/pki/current.pem
- name: robot
  user: {tokenFile: token, token: old}
contexts:
- name: admin@lab
  context: {cluster: lab, user: admin, namespace: x}
- name: robot@other
  context: {cluster: other, user: robot}
"""


def test_the_current_context_counts() -> None:
    assert read(YAML) == Access(
        server="https://192.0.2.1:6443",
        ca=Pem(path=Path("/etc/kubernetes/pki/ca.crt")),
        tls_server_name="api.example",
        certificate=Pem(path=Path("/var/lib/kubelet/pki/current.pem")),
        key=Pem(path=Path("/var/lib/kubelet/pki/current.pem")),
    )


def test_another_context_can_be_named_and_a_token_file_wins() -> None:
    assert read(YAML, "robot@other") == Access(
        server="https://[2001:db8::1]:6443/k8s",
        insecure=True,
        token_file=Path("/etc/kubernetes/token"),
    )


def test_data_wins_over_files() -> None:
    cluster = {
        "server": "https://a",
        "certificate-authority": "ca.crt",
        "certificate-authority-data": b64("CA"),
    }
    user = {"client-certificate-data": b64("CRT"), "client-key-data": b64("KEY"), "token": "t"}
    access = read(kubeconfig(cluster, user))
    assert (access.ca, access.certificate, access.key) == (
        Pem(content=b"CA"),
        Pem(content=b"CRT"),
        Pem(content=b"KEY"),
    )
    assert access.token == "t"


def test_an_exec_plugin_is_run_from_beside_the_kubeconfig_or_from_the_path() -> None:
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1beta1",
        "command": "bin/login",
        "args": ["--cluster", "a b"],
        "env": [{"name": "PROFILE", "value": "x"}],
        "provideClusterInfo": True,
        "interactiveMode": "Never",
    }
    assert read(kubeconfig({"server": "https://a"}, {"exec": plugin})).plugin == ExecPlugin(
        command="/etc/kubernetes/bin/login",
        args=("--cluster", "a b"),
        env={"PROFILE": "x"},
        api_version="client.authentication.k8s.io/v1beta1",
        cluster_info=True,
    )
    bare = {**plugin, "command": "login"}
    found = read(kubeconfig({"server": "https://a"}, {"exec": bare})).plugin
    assert found is not None
    assert found.command == "login"


@pytest.mark.parametrize(
    ("content", "context", "error", "words"),
    [
        pytest.param(kubeconfig({}), "", MalformedError, "server", id="no-server"),
        pytest.param(kubeconfig({"server": "ftp://a"}), "", MalformedError, "URL", id="scheme"),
        pytest.param(
            kubeconfig({"server": "https://u:p@a"}), "", MalformedError, "URL", id="user-in-url"
        ),
        pytest.param(
            kubeconfig({"server": "https://a:99999"}), "", MalformedError, "URL", id="port"
        ),
        pytest.param(
            kubeconfig({"server": "https://a..b:1"}), "", MalformedError, "a..b", id="host"
        ),
        pytest.param(
            kubeconfig({"server": "https://a", "tls-server-name": ".b"}),
            "",
            MalformedError,
            "tls-server-name .b",
            id="tls-server-name",
        ),
        pytest.param(
            kubeconfig({"server": "https://a", "tls-server-name": "b\0"}),
            "",
            MalformedError,
            "tls-server-name",
            id="tls-server-name-with-nul",
        ),
        pytest.param(kubeconfig({"server": "https://a"}), "two", UsageError, "one", id="context"),
        pytest.param(
            kubeconfig({"server": "https://a"}).replace(b'"current-context": "one"', b'"x": 1'),
            "",
            UsageError,
            "no current-context; it has: lost, nobody, one",
            id="no-current-context",
        ),
        pytest.param(
            kubeconfig({"server": "https://a"}), "lost", MalformedError, "nowhere", id="cluster"
        ),
        pytest.param(
            kubeconfig({"server": "https://a"}), "nobody", MalformedError, "ghost", id="user"
        ),
        pytest.param(
            kubeconfig({"server": "https://a", "proxy-url": "http://p"}),
            "",
            UnsupportedError,
            "proxy-url",
            id="proxy",
        ),
        pytest.param(
            kubeconfig({"server": "https://a"}, {"username": "u", "password": "p"}),
            "",
            UnsupportedError,
            "username",
            id="password",
        ),
        pytest.param(
            kubeconfig({"server": "https://a"}, {"as": "root"}),
            "",
            UnsupportedError,
            "as",
            id="impersonation",
        ),
        pytest.param(
            kubeconfig({"server": "https://a"}, {"auth-provider": {"name": "gcp"}}),
            "",
            UnsupportedError,
            "auth-provider",
            id="auth-provider",
        ),
        pytest.param(
            kubeconfig({"server": "https://a"}, {"client-certificate": "c"}),
            "",
            MalformedError,
            "belong together",
            id="no-key",
        ),
        pytest.param(
            kubeconfig({"server": "https://a", "certificate-authority-data": "?"}),
            "",
            MalformedError,
            "base64",
            id="base64",
        ),
        pytest.param(
            kubeconfig(
                {
                    "server": "https://a",
                    "insecure-skip-tls-verify": True,
                    "certificate-authority": "ca",
                }
            ),
            "",
            MalformedError,
            "contradict",
            id="insecure-with-ca",
        ),
        pytest.param(
            kubeconfig({"server": "https://a"}, {"token": "a\r\nX-Evil: 1"}),
            "",
            MalformedError,
            "token",
            id="token-of-two-lines",
        ),
        pytest.param(
            kubeconfig(
                {"server": "https://a"},
                {"exec": {"apiVersion": "client.authentication.k8s.io/v1alpha1", "command": "x"}},
            ),
            "",
            UnsupportedError,
            "v1alpha1",
            id="old-plugin",
        ),
        pytest.param(b"", "", MalformedError, "0 documents", id="empty"),
        pytest.param(b"clusters: 7", "", MalformedError, "clusters", id="wrong-type"),
        pytest.param(b"- a\n- b", "", MalformedError, "agent.conf", id="no-object"),
        pytest.param(b"a: [", "", MalformedError, "agent.conf", id="no-yaml"),
    ],
)
def test_what_cannot_be_used_is_refused_in_words(
    content: bytes, context: str, error: type[InputError], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        read(content, context)
    assert str(WHERE) in str(caught.value)
    assert str(caught.value).isprintable()


def test_the_scheme_is_read_without_regard_to_case() -> None:
    """Else the token would be kept back, and the CA not be used, as on a way without TLS."""
    assert read(kubeconfig({"server": "HTTPS://A:6443/x/"})).server == "https://A:6443/x"


def test_a_password_in_a_url_is_refused_without_being_told() -> None:
    with pytest.raises(MalformedError, match="server a:1: not") as caught:
        read(kubeconfig({"server": "https://me:hidden@a:1"}))
    assert "hidden" not in str(caught.value)


def test_a_pod_is_given_a_token_and_a_ca(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    (tmp_path / "ca.crt").write_text("CA")
    env = {"KUBERNETES_SERVICE_HOST": "2001:db8::1", "KUBERNETES_SERVICE_PORT": "443"}
    assert in_cluster(env, tmp_path) == Access(
        server="https://[2001:db8::1]:443",
        ca=Pem(path=tmp_path / "ca.crt"),
        token_file=tmp_path / "token",
    )


@pytest.mark.parametrize("missing", ["host", "token"])
def test_elsewhere_the_ways_out_are_named(tmp_path: Path, missing: str) -> None:
    env = {"KUBERNETES_SERVICE_HOST": "192.0.2.1", "KUBERNETES_SERVICE_PORT": "443"}
    if missing == "host":
        (tmp_path / "token").write_text("t")
        env = {}
    with pytest.raises(UsageError, match="--kubeconfig"):
        in_cluster(env, tmp_path)
