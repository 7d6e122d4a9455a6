"""Options, their environment variables, and what they make of the input."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from netplane.cli.inputs import read_config, read_snapshot
from netplane.cli.options import Call
from netplane.cli.render import command
from netplane.config import Setting
from netplane.errors import InputError
from tests.support.command import run_netplane


def _service(name: str, address: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "default", "name": name},
        "spec": {"clusterIP": address, "ports": [{"port": 80}]},
    }


def _call(arguments: list[str]) -> Call:
    from netplane.cli import options

    with command.make_context("render", arguments) as ctx:
        return options.read(ctx)


def test_flags_and_variables_are_settings_with_their_origin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NETPLANE_NODE", "from-environment")
    monkeypatch.setenv("NETPLANE_MASQUERADE_ALL", "true")
    call = _call(["--mode", "nftables", "--cluster-cidr", "10.0.0.0/8", "--masquerade-bit", "3"])
    assert call.settings == {
        "mode": Setting("nftables", "flag --mode"),
        "node_name": Setting("from-environment", "environment NETPLANE_NODE"),
        "cluster_cidrs": Setting(("10.0.0.0/8",), "flag --cluster-cidr"),
        "masquerade_all": Setting(value=True, origin="environment NETPLANE_MASQUERADE_ALL"),
        "masquerade_bit": Setting(3, "flag --masquerade-bit"),
    }


def test_a_flag_beats_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETPLANE_NODE", "from-environment")
    assert _call(["--node", "b"]).settings == {"node_name": Setting("b", "flag --node")}


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--localhost-nodeports"], True),
        (["--localhost-nodeports=true"], True),
        (["--localhost-nodeports=false"], False),
        (["--localhost-nodeports", "false", "-f", "x"], False),
        (["--localhost-nodeports", "-f", "x"], True),
    ],
)
def test_switches_take_a_value_as_those_of_kube_proxy(arguments: list[str], wanted: bool) -> None:
    (setting,) = _call(arguments).settings.values()
    assert setting == Setting(wanted, "flag --localhost-nodeports")


def test_lists_are_repeated_or_comma_separated() -> None:
    flags = ["--service-cidr", "10.96.0.0/16,fd00::/108", "--service-cidr", "10.97.0.0/16"]
    config = read_config(_call([*flags, "--node", "n"]))
    assert config.service_cidrs == ("10.96.0.0/16", "fd00::/108", "10.97.0.0/16")


def test_the_node_is_the_host_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Host.Example")
    assert read_config(_call([])).node_name == "host.example"


def test_unknown_fields_of_the_configuration_are_warned_of(tmp_path: Path) -> None:
    config = tmp_path / "proxy.yaml"
    config.write_text(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
        "mode: nftables\ncolour: red\n",
        encoding="utf-8",
    )
    manifest = tmp_path / "a.json"
    manifest.write_text(json.dumps(_service("a", "10.96.0.1")), encoding="utf-8")
    ran = run_netplane("render", "-f", str(manifest), "--config", str(config), "-o", "json")
    assert ran.status == 0, ran
    assert ran.document()["mode"] == "nftables"
    assert "unknown field colour" in ran.stderr


def test_a_directory_is_read_as_kubectl_reads_it(tmp_path: Path) -> None:
    for name in ("b.json", "a.yaml", "c.yml"):
        content = json.dumps(_service(name[0], f"10.96.0.{ord(name[0]) - 96}"))
        (tmp_path / name).write_text(content, encoding="utf-8")
    (tmp_path / "notes.txt").write_text("{", encoding="utf-8")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "d.json").write_text("{", encoding="utf-8")
    snapshot = read_snapshot([str(tmp_path)])
    assert [key.name for key in sorted(snapshot.services)] == ["a", "b", "c"]


def test_a_file_in_a_directory_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").symlink_to(tmp_path / "a.json")
    with pytest.raises(InputError, match=r"a\.json"):
        read_snapshot([str(tmp_path / "a.json")])


def test_dash_is_the_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BytesIO(json.dumps(_service("a", "10.96.0.1")).encode())

    monkeypatch.setattr("sys.stdin", Stdin)
    assert len(read_snapshot(["-"]).services) == 1
