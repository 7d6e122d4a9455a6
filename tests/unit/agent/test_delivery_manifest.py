"""The DaemonSet, its rights, the dashboard and the image."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from netplane.agent.manifest import dashboard, manifest
from netplane.agent.telling.health import PATIENCE
from netplane.agent.telling.metrics import Metrics
from netplane.config import Config
from netplane.core.model.address import Family
from netplane.core.model.problem import Problem
from tests.support.command import run_netplane

_KUBECTL = shutil.which("kubectl")
_TOP = Path(__file__).parents[3]


def _objects(text: str) -> dict[str, dict[str, Any]]:
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


@pytest.mark.skipif(_KUBECTL is None, reason="kubectl is not installed")
@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_kubectl_understands_it(mode: str, tmp_path: Path) -> None:
    ran = run_netplane("manifest", "--mode", mode, "--api-server", "192.0.2.7:6443")
    assert (ran.status, ran.stderr) == (0, "")
    path = tmp_path / "netplane.yaml"
    path.write_text(ran.stdout, encoding="utf-8")
    done = subprocess.run(
        [_KUBECTL or "", "label", "--local", "-f", str(path), "a=b", "-o", "json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    decoder = json.JSONDecoder()
    kinds, rest = [], done.stdout.lstrip()
    while rest:
        document, end = decoder.raw_decode(rest)
        kinds.append(document["kind"])
        rest = rest[end:].lstrip()
    assert kinds == ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "DaemonSet"]


def test_the_rights_are_to_read_what_is_needed() -> None:
    role = _objects(manifest(mode="iptables"))["ClusterRole"]
    rights = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    wanted = {("", "services"), ("", "nodes"), ("discovery.k8s.io", "endpointslices")}
    assert rights == {(*kind, verb) for kind in wanted for verb in ("get", "list", "watch")}


def _container(text: str) -> dict[str, Any]:
    (container,) = _objects(text)["DaemonSet"]["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def test_the_agent_may_do_little() -> None:
    context = _container(manifest(mode="nftables"))["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN"]}
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True


def test_only_iptables_mode_needs_a_privileged_start() -> None:
    pod = _objects(manifest(mode="nftables"))["DaemonSet"]["spec"]["template"]["spec"]
    assert "initContainers" not in pod
    pod = _objects(manifest(mode="iptables"))["DaemonSet"]["spec"]["template"]["spec"]
    assert [c["securityContext"] for c in pod["initContainers"]] == [{"privileged": True}]


def test_an_update_waits_until_an_agent_that_cannot_write_is_told_apart() -> None:
    """From its start it has two periods, and only then the probes begin to fail."""
    daemonset = _objects(manifest(mode="nftables"))["DaemonSet"]["spec"]
    probe = _container(manifest(mode="nftables"))["readinessProbe"]
    failures = probe.get("failureThreshold", 3)  # Kubernetes' default
    seconds = PATIENCE * Config().sync_period + failures * probe["periodSeconds"]
    assert probe["httpGet"]["path"] == "/livez"
    assert daemonset["minReadySeconds"] > seconds


def test_the_agents_are_told_what_the_cluster_is() -> None:
    options = ["--cluster-cidr", "10.244.0.0/16,fd00:244::/56", "--nodeport-addresses=primary"]
    options += ["--localhost-nodeports=false", "--masquerade-all", "--masquerade-bit", "15"]
    ran = run_netplane("manifest", *options, "--take-over", "--image", "a", "--api-server", "b")
    assert (ran.status, ran.stderr) == (0, "")
    assert _container(ran.stdout)["args"] == [
        "agent",
        "--mode=iptables",
        "--cluster-cidr=10.244.0.0/16,fd00:244::/56",
        "--nodeport-addresses=primary",
        "--masquerade-all=true",
        "--localhost-nodeports=false",
        "--masquerade-bit=15",
        "--take-over",
    ]
    pod = _objects(ran.stdout)["DaemonSet"]["spec"]["template"]["spec"]
    assert "initContainers" not in pod, "nothing is to be routed to localhost"


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("192.0.2.7:6443", "192.0.2.7", "6443"),
        ("https://api.example.com", "api.example.com", "443"),
        ("[2001:db8::1]:6443", "2001:db8::1", "6443"),
        ("2001:db8::1", "2001:db8::1", "443"),
    ],
)
def test_the_api_server(text: str, host: str, port: str) -> None:
    environment = {
        e["name"]: e for e in _container(manifest(mode="iptables", api_server=text))["env"]
    }
    assert environment["KUBERNETES_SERVICE_HOST"]["value"] == host
    assert environment["KUBERNETES_SERVICE_PORT"]["value"] == port


@pytest.mark.parametrize(
    "options",
    [
        ("--api-server", "http://192.0.2.7"),
        ("--api-server", "192.0.2.7:0"),
        ("--api-server", "a b:6443"),
        ("--image", 'x"\nkind: Secret'),
        ("--image", "-x"),
        ("--namespace", "Kube System"),
        ("--cluster-cidr", '10.0.0.0/8", "--x'),
        ("--detect-local-mode", "Guess"),
    ],
)
def test_usage_errors(options: tuple[str, str]) -> None:
    ran = run_netplane("manifest", *options)
    assert (ran.status, ran.stdout) == (2, "")
    assert options[0] in ran.stderr


@pytest.mark.parametrize(
    "image",
    [
        "netplane",
        "netplane:0.1.0",
        "registry.example:5000/a/netplane:0.1",
        f"a/b@sha256:{'0' * 64}",
    ],
)
def test_images(image: str) -> None:
    text = manifest(mode="iptables", image=image, namespace="123")
    assert _container(text)["image"] == image
    assert _objects(text)["DaemonSet"]["metadata"]["namespace"] == "123"


def test_without_an_api_server_it_warns() -> None:
    ran = run_netplane("manifest")
    assert ran.status == 0
    assert "--api-server" in ran.stderr
    assert "DaemonSet" in ran.stdout


def _exposed() -> set[str]:
    """The names of all samples the agent can expose."""
    metrics = Metrics("nftables", watch_age=lambda: 0.0, top_services=1)
    metrics.connections({"default/web": 1})
    metrics.refused([Problem("Service", "default", "a", "f", "v", "is missing")])
    family = Family.IPV4
    metrics.synced(family, seconds=0.1, full=True, at=0.0)
    names = set()
    for metric in metrics.registry.collect():
        names.add(metric.name)
        names |= {sample.name for sample in metric.samples}
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
        names |= {metric.name + suffix for suffix in suffixes.get(metric.type, [])}
    return names


def test_every_metric_of_the_dashboard_exists() -> None:
    ran = run_netplane("manifest", "--dashboard")
    assert ran.status == 0
    document = json.loads(ran.stdout)
    expressions = [target["expr"] for panel in document["panels"] for target in panel["targets"]]
    expressions += [variable["query"] for variable in document["templating"]["list"]]
    asked = {
        n for e in expressions for n in re.findall(r"\b(?:kubeproxy|netplane|process)_\w+", e)
    }
    assert len(asked) > 20
    assert asked <= _exposed()


def test_the_dashboards_expressions_are_whole() -> None:
    for panel in json.loads(dashboard())["panels"]:
        for target in panel["targets"]:
            expression = target["expr"]
            for opening, closing in ("()", "[]", "{}"):
                assert expression.count(opening) == expression.count(closing), expression
            assert '{instance=~"$instance"}' in expression


def test_the_image_has_the_programs_that_setup_installs() -> None:
    setup = (_TOP / "script/setup").read_text(encoding="utf-8")
    containerfile = (_TOP / "Containerfile").read_text(encoding="utf-8")
    needed = set(re.findall(r"^need \S+ (\S+)$", setup, re.MULTILINE))
    assert needed, "script/setup names what is needed"
    assert needed <= set(containerfile.split())
    assert "templates /source/templates" in containerfile
