"""Other people's rules survive apply and cleanup, byte for byte, counters included.

A rule that is written anew loses its counters, so equal counters say that nobody touched it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from netplane.apply.netns import Namespace
from netplane.apply.tools import find
from netplane.core.iptables.names import PREFIXES
from tests.support.command import run_netplane
from tests.support.host_iptables import VARIANTS, require_iptables, use_iptables
from tests.support.manifests import endpoint_slice, kube_list, node, service
from tests.support.netns import run_tool

pytestmark = pytest.mark.kernel

FOREIGN = Path(__file__).parent / "foreign"
FAMILIES = {"ipv4": "iptables", "ipv6": "ip6tables"}
# The chains that `netplane apply` makes (reference section 1.2).
OUR_CHAINS = (
    "KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-EXTERNAL-SERVICES", "KUBE-PROXY-FIREWALL",
    "KUBE-FORWARD", "KUBE-POSTROUTING", "KUBE-MARK-MASQ",
    *(rf"{prefix}\S+" for prefix in PREFIXES),
)  # fmt: skip
SHARED_CHAIN = "KUBE-FIREWALL"  # the kubelet's, where there is one
OUR_TABLES = re.compile(r"^table ip6? netplane \{.*?^\}\n", re.DOTALL | re.MULTILINE)
POLICY_COUNTERS = re.compile(r"(?<=ACCEPT|. DROP) \[\d+:\d+\]$", re.MULTILINE)
REMAINS = re.compile(r"-A |:\S+ - ")


class Rules(NamedTuple):
    """What a namespace holds: a save of each family of each variant, and the native tables."""

    saves: dict[str, tuple[str, ...]]
    native: str

    def without_ours(self, before: Rules) -> Rules:
        """The same without what netplane owns where there was ``before``."""
        saves = {}
        for name, lines in self.saves.items():
            shared = any(line.startswith(f":{SHARED_CHAIN} ") for line in before.saves[name])
            chains = "|".join([*OUR_CHAINS, *([] if shared else [SHARED_CHAIN])])
            ours = re.compile(rf"^(:({chains}) |\[\d+:\d+\] -A (({chains}) |.*-[jg] ({chains})$))")
            saves[name] = tuple(line for line in lines if not ours.match(line))
        return Rules(saves, OUR_TABLES.sub("", self.native))


def _observe(netns: Namespace) -> Rules:
    saves = {}
    for tool in FAMILIES.values():
        for variant in VARIANTS:
            if find(f"{tool}-{variant}-save") is None:
                continue
            text = run_tool([f"{tool}-{variant}-save", "-c"], inside=netns)
            if variant == "legacy":  # libiptc zeroes a policy's counters when a rule goes in front
                text = POLICY_COUNTERS.sub("", text)
            saves[f"{tool}-{variant}"] = tuple(x for x in text.splitlines() if x[:1] != "#")
    tables = run_tool(["nft", "list", "tables"], inside=netns).splitlines()
    native = [
        run_tool(["nft", "-a", "list", *table.split()], inside=netns)
        for table in tables
        if table.split()[2] not in {"filter", "nat", "mangle"}
    ]
    # Handles: a table or rule that was made anew has another one.
    return Rules(saves, re.sub(r" \{ # handle", " {\n# handle", "".join(native)))


def _install(netns: Namespace, origin: str) -> None:
    name, variant = origin.split("-")
    script = FOREIGN / f"{name}.nft"
    if variant == "nft" and script.exists():
        run_tool(["nft", "-f", str(script)], inside=netns)
        return
    require_iptables("legacy" if variant == "legacy" else "nft")
    for family, tool in FAMILIES.items():
        rules = (FOREIGN / f"{name}.{family}").read_text(encoding="utf-8")
        run_tool([f"{tool}-{variant}-restore", "-c"], stdin=rules, inside=netns)


def _manifest(path: Path, endpoints: list[str]) -> Path:
    path.write_bytes(
        kube_list(
            node("node-1", ip="192.0.2.1"),
            service(
                "web",
                cluster_ips=["172.30.0.10", "fd00:30::10"],
                type="LoadBalancer",
                ports=[{"name": "http", "port": 80, "nodePort": 30080}],
                ingress=[{"ip": "198.51.100.7"}],
                loadBalancerSourceRanges=["203.0.113.0/24"],
            ),
            service("idle", cluster_ips=["172.30.0.11"]),
            endpoint_slice("web", endpoints),
            endpoint_slice("web", ["fd00:244:1::7"], family="IPv6"),
        )
    )
    return path


@pytest.mark.parametrize("writer", ["iptables-nft", "iptables-legacy", "nftables"])
@pytest.mark.parametrize(
    "origin", ["docker-nft", "docker-legacy", "firewalld-nft", "firewalld-legacy"]
)
def test_foreign_rules_survive(
    netns: Namespace,
    origin: str,
    writer: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mode = writer.split("-", maxsplit=1)[0]
    use_iptables("legacy" if writer == "iptables-legacy" else "nft", tmp_path, monkeypatch)
    _install(netns, origin)
    before = _observe(netns)
    assert before.without_ours(before) == before
    target = ["--netns", str(netns), "--mode", mode, "--node", "node-1"]

    for endpoints in (["10.244.1.7", "10.244.2.8"], ["10.244.1.9"]):
        manifest = _manifest(tmp_path / "state.json", endpoints)
        ran = run_netplane("apply", "-f", str(manifest), *target)
        assert ran.status == 0, str(ran)
        applied = _observe(netns)
        assert applied != before
        _assert_same(applied.without_ours(before), before)

    ran = run_netplane("cleanup", "--netns", str(netns))
    assert ran.status == 0, str(ran)
    _assert_same(_observe(netns), before)


def _assert_same(now: Rules, before: Rules) -> None:
    """Equal, but for the empty built-in chains that a table has once it was used."""
    assert now.native == before.native
    for name, lines in now.saves.items():
        if before.saves[name]:
            assert lines == before.saves[name], name
        else:
            assert not [line for line in lines if REMAINS.search(line)], name
