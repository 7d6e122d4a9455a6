"""The agent as a workload of Kubernetes, and its dashboard."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from netplane.config import Mode
from netplane.core.model.names import is_label, is_subdomain
from netplane.errors import UsageError
from netplane.rendering import template

DEFAULT_IMAGE = "netplane:latest"
DEFAULT_NAMESPACE = "kube-system"
# A reference as a container runtime reads it, name:tag or name@digest, as far as it is plain YAML.
_IMAGE = re.compile(
    r"[a-z0-9][\w./-]*(?::[0-9]+/[\w./-]+)?(?::[\w.-]+)?(?:@\w+:[0-9a-f]+)?", re.ASCII
)
_HIGHEST_PORT = 65535


def manifest(  # noqa: PLR0913 (all but one have a default)
    *,
    mode: Mode,
    options: Sequence[str] = (),
    localhost: bool = True,
    image: str = DEFAULT_IMAGE,
    namespace: str = DEFAULT_NAMESPACE,
    api_server: str = "",
) -> str:
    """ServiceAccount, ClusterRole, its binding and the DaemonSet, as YAML documents.

    Args:
        mode: How the agent writes rules.
        options: What else its command line says.
        localhost: Whether NodePorts answer on 127.0.0.0/8, in iptables mode.
        image: The container image, whose entry point is ``netplane``.
        namespace: Where the ServiceAccount and the DaemonSet are.
        api_server: ``HOST:PORT`` where nodes reach the API server without any Service; "" leaves
            it at the ClusterIP of the Service ``kubernetes``, which somebody must serve already.

    Raises:
        UsageError: One of them is not what its name says.
    """
    if not _IMAGE.fullmatch(image):
        raise UsageError(f"--image {image!r:.200}: not a name of a container image")
    if not is_label(namespace):
        raise UsageError(f"--namespace {namespace!r:.80}: not a name of a namespace")
    host, port = _api_server(api_server) if api_server else ("", 0)
    return template("agent/daemonset.yaml.j2").render(
        mode=mode,
        options=tuple(options),
        routes_localhost=mode == "iptables" and localhost,
        image=image,
        namespace=namespace,
        api_host=host,
        api_port=port,
    )


def dashboard() -> str:
    """The Grafana dashboard, as JSON to import."""
    return template("agent/dashboard.json.j2").render()


def _api_server(text: str) -> tuple[str, int]:
    """The host, without brackets, and the port of ``[https://]HOST[:PORT]``."""
    bare = text.removeprefix("https://").rstrip("/")
    host, colon, port = bare.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")) or bare.endswith("]"):
        host, port = bare, "443"
    host = host.removeprefix("[").removesuffix("]")
    number = int(port) if port.isascii() and port.isdigit() else 0
    if 0 < number <= _HIGHEST_PORT and (_is_address(host) or is_subdomain(host)):
        return host, number
    raise UsageError(f"--api-server {text!r:.200}: not HOST:PORT")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text
