"""The configuration: precedence, origins, what the file may say, and what is refused."""

from __future__ import annotations

import msgspec
import pytest

from netplane.config import Config, Setting, decode, resolve
from netplane.config.resolve import _CHECKS
from netplane.errors import UsageError

_HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"


def _resolve(text: str = "", /, **flags: object) -> Config:
    file = decode((_HEAD + text).encode(), path="proxy.yaml")
    overrides = {field: Setting(value, f"flag --{field}") for field, value in flags.items()}
    return resolve(file, overrides, host_name="Host-1")


def test_an_empty_file_means_the_defaults_of_kube_proxy() -> None:
    config = _resolve()
    assert config == Config(node_name="host-1", origins={"node_name": "default"})
    assert config.origin("mode") == "default"


def test_without_a_file_too() -> None:
    assert resolve(None, {}, host_name="n").node_name == "n"


def test_a_flag_beats_the_file_and_each_value_knows_its_origin() -> None:
    config = _resolve("clusterCIDR: 10.0.0.0/16\nmode: nftables\n", cluster_cidrs="10.9.0.0/16")
    assert config.cluster_cidrs == ("10.9.0.0/16",)
    assert config.mode == "nftables"
    assert config.origin("cluster_cidrs") == "flag --cluster_cidrs"
    assert config.origin("mode") == "file proxy.yaml"


def test_a_file_as_kubeadm_writes_it() -> None:
    config = _resolve(
        """
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection: {acceptContentTypes: "", burst: 0, contentType: "", kubeconfig: /k, qps: 0}
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack: {maxPerCore: null, min: null, tcpBeLiberal: false, tcpCloseWaitTimeout: null,
  tcpEstablishedTimeout: null, udpStreamTimeout: 0s, udpTimeout: 0s}
detectLocal: {bridgeInterface: "", interfaceNamePrefix: ""}
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables: {localhostNodePorts: null, masqueradeAll: false, masqueradeBit: null,
  minSyncPeriod: 0s, syncPeriod: 0s}
ipvs: {excludeCIDRs: null, minSyncPeriod: 0s, scheduler: "", strictARP: false}
logging: {flushFrequency: 0, options: {json: {infoBufferSize: "0"}}, verbosity: 0}
metricsBindAddress: ""
mode: ""
nftables: {masqueradeAll: false, masqueradeBit: null, minSyncPeriod: 0s, syncPeriod: 0s}
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel: {enableDSR: false, networkName: "", sourceVip: ""}
"""
    )
    wanted = Config(cluster_cidrs=("10.244.0.0/16",), kubeconfig="/k", node_name="host-1")
    assert msgspec.structs.replace(config, origins={}) == wanted, "zeros stand for defaults"
    assert config.origin("sync_period") == "default"
    assert config.origin("conntrack_max_per_core") == "default"


def test_the_section_of_the_mode_in_use_counts() -> None:
    text = """
iptables: {masqueradeAll: true, masqueradeBit: 3, syncPeriod: 1m30s}
nftables: {masqueradeAll: false, masqueradeBit: 5, minSyncPeriod: 500ms}
"""
    iptables, nftables = _resolve(text), _resolve(text, mode="nftables")
    assert (iptables.masquerade_all, iptables.masquerade_bit) == (True, 3)
    assert (iptables.sync_period, iptables.min_sync_period) == (90.0, 0.0)
    assert (nftables.masquerade_all, nftables.masquerade_bit) == (False, 5)
    assert (nftables.sync_period, nftables.min_sync_period) == (30.0, 0.5)


def test_unknown_fields_are_named_wherever_they_are() -> None:
    file = decode((_HEAD + "colour: red\niptables: {masquerade: true}").encode(), path="p")
    assert file.unknown == ("colour", "iptables.masquerade")


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        pytest.param("cluster_cidrs", "10.244.3.7/16", ("10.244.0.0/16",), id="host bits go"),
        pytest.param(
            "cluster_cidrs", ("10.0.0.0/8, fd00::/56",), ("10.0.0.0/8", "fd00::/56"), id="list"
        ),
        pytest.param(
            "service_cidrs",
            ("10.96.0.0/12", "10.96.0.0/12"),
            ("10.96.0.0/12",),
            id="same network twice",
        ),
        pytest.param("node_port_addresses", "primary", ("primary",), id="keyword"),
        pytest.param("node_ips", "192.0.2.1,2001:DB8::1", ("192.0.2.1", "2001:db8::1"), id="IPs"),
        pytest.param("masquerade_bit", 0, 0, id="bit 0"),
    ],
)
def test_values_become_canonical(field: str, value: object, wanted: object) -> None:
    assert getattr(_resolve(**{field: value}), field) == wanted


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param("cluster_cidrs", "10.0.0.0", id="no length"),
        pytest.param("cluster_cidrs", "10.0.0.0/33", id="length"),
        pytest.param("cluster_cidrs", "10.0.0.0/8,11.0.0.0/8", id="two of a family"),
        pytest.param("service_cidrs", "pods", id="a word"),
        pytest.param("node_port_addresses", "primary,10.0.0.0/8", id="keyword and network"),
        pytest.param("node_ips", "10.0.0.256", id="address"),
        pytest.param("mode", "ipvs", id="mode"),
        pytest.param("detect_local_mode", "Guess", id="detector"),
        pytest.param("detect_local_mode", "BridgeInterface", id="detector without its bridge"),
        pytest.param("bridge_interface", 'eth0" accept', id="interface"),
        pytest.param("interface_prefix", "a" * 16, id="long interface"),
        pytest.param("masquerade_bit", 32, id="bit"),
        pytest.param("node_name", "", id="no name"),
        pytest.param("sync_period", "0", id="no period"),
        pytest.param("sync_period", "0h0.0s", id="no period, spelt out"),
        pytest.param("min_sync_period", "31s", id="longer than the period"),
    ],
)
def test_impossible_values_are_refused_by_origin(field: str, value: str) -> None:
    with pytest.raises(UsageError) as caught:
        _resolve(**{field: value})
    assert f"flag --{field}" in str(caught.value) or "--node" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        pytest.param("clusterCIDR: pods", "file proxy.yaml, clusterCIDR", id="value"),
        pytest.param("clusterCIDR: 7", "clusterCIDR", id="type"),
        pytest.param("configSyncPeriod: soon", "configSyncPeriod", id="duration"),
        pytest.param("iptables: {syncPeriod: h0s}", "syncPeriod", id="no duration"),
        pytest.param("mode: ipvs", "file proxy.yaml, mode", id="mode"),
        pytest.param("mode: nftables\nmode: iptables", "twice", id="duplicate key"),
        pytest.param("iptables: {a: 1, a: 2}", "twice", id="duplicate key inside"),
        pytest.param("mode: &a iptables\ndetectLocalMode: *a", "aliases", id="alias"),
        pytest.param("logging: " + "[" * 40 + "]" * 40, "deeper", id="deep"),
        pytest.param("mode: [", "not readable", id="cut off"),
        pytest.param("---\nkind: Other", "not readable", id="two documents"),
    ],
)
def test_a_bad_file_is_refused_by_path_and_field(text: str, part: str) -> None:
    with pytest.raises(UsageError, match=part) as caught:
        _resolve(text)
    assert "proxy.yaml" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"- a", b"kind: ConfigMap", b"\xff\xfe\x00", b"7"])
def test_something_else_is_no_configuration(content: bytes) -> None:
    with pytest.raises(UsageError, match=r"^p: "):
        decode(content, path="p")


def test_bind_address_is_the_primary_address_unless_unspecified() -> None:
    assert _resolve("bindAddress: 192.0.2.7").node_ips == ("192.0.2.7",)
    assert _resolve("bindAddress: '::'").node_ips == ()


def test_every_check_is_of_a_field() -> None:
    assert set(_CHECKS) <= {field.name for field in msgspec.structs.fields(Config)}
