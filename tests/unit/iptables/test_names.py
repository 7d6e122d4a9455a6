from __future__ import annotations

import hashlib
from base64 import b32encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netplane.core.iptables.names import PREFIXES, endpoint_chain, service_hash


@pytest.mark.parametrize(
    ("label", "protocol", "hashed"),
    [
        pytest.param("ns1/svc1:p80", "tcp", "XPGD46QRK7WJZT7O", id="named port"),
        pytest.param("default/kubernetes:https", "tcp", "NPX46M4PTMTKRN6Y", id="a real cluster"),
        pytest.param("kube-system/kube-dns:dns", "udp", "TCOU7JCQXEZGVUNU", id="udp"),
        pytest.param("default/hostnames", "tcp", "YN5D6RYVEVZOH44Q", id="unnamed port, no colon"),
        pytest.param("default/hostnames:", "tcp", "NWV5X2332I4OT4T3", id="old kube-proxy's colon"),
    ],
)
def test_service_hash_is_kube_proxys(label: str, protocol: str, hashed: str) -> None:
    assert service_hash(label, protocol) == hashed


@pytest.mark.parametrize(
    ("label", "endpoint", "chain"),
    [
        pytest.param("ns1/svc1:p80", "10.180.0.1:80", "KUBE-SEP-SXIVWICOYRO3J4NJ", id="ipv4"),
        pytest.param("ns4/svc4:p80", "10.180.0.5:80", "KUBE-SEP-C6EBXVWJJZMIWKLZ", id="other"),
        pytest.param("ns1/svc1:p80", "[fd00:10::1]:80", "KUBE-SEP-RT5VHSJR44ZNF7G5", id="ipv6"),
    ],
)
def test_endpoint_chain_is_kube_proxys(label: str, endpoint: str, chain: str) -> None:
    assert endpoint_chain(label, "tcp", endpoint) == chain


def test_the_longest_name_fits_the_kernel() -> None:
    longest = max(len(prefix) + len(service_hash("a/b", "tcp")) for prefix in PREFIXES)
    assert longest <= 28  # XT_EXTENSION_MAXNAMELEN, with its terminating NUL


@given(st.text(st.characters(codec="ascii"), max_size=80))
def test_the_hash_is_base32_of_sha256(label: str) -> None:
    digest = hashlib.sha256(f"{label}tcp".encode()).digest()
    assert service_hash(label, "tcp") == b32encode(digest)[:16].decode()
