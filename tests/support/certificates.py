"""Self-signed certificates for TLS on loopback, made by openssl(1)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest


class Pair(NamedTuple):
    """A certificate that is its own CA, and its key."""

    certificate: Path
    key: Path


def make(directory: Path, name: str, *, san: str = "") -> Pair:
    """A pair; ``san`` as openssl writes it, ``IP:127.0.0.1``."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl(1) is not installed: no certificates to test TLS with")
    pair = Pair(directory / f"{name}.crt", directory / f"{name}.key")
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    argv += ["-nodes", "-days", "2", "-subj", f"/CN={name}"]
    argv += ["-keyout", str(pair.key), "-out", str(pair.certificate)]
    if san:
        argv += ["-addext", f"subjectAltName={san}"]
    subprocess.run(argv, check=True, capture_output=True, timeout=30)
    return pair
