"""The command line that a unit gets is the one that was given."""

from __future__ import annotations

from pathlib import Path

import pytest

from netplane.cli import options
from netplane.cli.agent import command, words_of
from netplane.cli.inputs import read_config

_HERE = Path.cwd()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([], []),
        (
            ["-f", "manifests", "-f", "/etc/more"],
            [f"--filename={_HERE}/manifests", "--filename=/etc/more"],
        ),
        (["--kubeconfig", "kube.conf"], [f"--kubeconfig={_HERE}/kube.conf"]),
        (
            ["--kubeconfig", "/kube.conf", "--context", "blue"],
            ["--kubeconfig=/kube.conf", "--context=blue"],
        ),
        (["--metrics-bind-address", ""], ["--metrics-bind-address="]),
        (["--metrics-top-services", "0"], ["--metrics-top-services=0"]),
        (["--masquerade-all"], ["--masquerade-all=true"]),
        (["--localhost-nodeports=false"], ["--localhost-nodeports=false"]),
        (["--nodeport-addresses", "primary"], ["--nodeport-addresses=primary"]),
        (["--cluster-cidr", "10.244.0.0/16"], ["--cluster-cidr=10.244.0.0/16"]),
        (["--sync-period", "10s", "--take-over"], ["--sync-period=10s", "--take-over"]),
        (["--netns", "blue", "-v", "-v"], ["--netns=blue", "--verbose", "--verbose"]),
        (["--log-format", "json", "-o", "text"], ["--log-format=json"]),
    ],
)
def test_what_was_asked_for_is_said(given: list[str], wanted: list[str]) -> None:
    words = _words([*given, "--mode", "nftables", "--node", "node-1", "--install-systemd"])
    assert words[:2] == ["--mode=nftables", "--node=node-1"]
    assert sorted(words[2:]) == sorted(wanted)


def test_the_environment_is_not_the_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETPLANE_MASQUERADE_BIT", "12")
    assert "--masquerade-bit=12" in _words(["--node", "node-1"])


def _words(arguments: list[str]) -> list[str]:
    with command.make_context("agent", arguments) as ctx:
        return words_of(ctx, read_config(options.read(ctx)))
