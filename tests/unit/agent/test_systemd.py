"""What the service manager hears."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from netplane.agent.telling.systemd import Notifier


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        yield sock


def _speak(notifier: Notifier) -> None:
    notifier.ready()
    notifier.alive()
    notifier.status("3 Services\nREADY=1")
    notifier.stopping()


_SAID = [b"READY=1", b"WATCHDOG=1", b"STATUS=3 Services READY=1", b"STOPPING=1"]


def test_over_a_path(manager: socket.socket, tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    manager.bind(path)
    _speak(Notifier({"NOTIFY_SOCKET": path}))
    assert [manager.recv(100) for _ in _SAID] == _SAID


def test_over_an_abstract_name(manager: socket.socket) -> None:
    name = f"netplane-{secrets.token_hex(8)}"
    manager.bind(f"\0{name}")
    _speak(Notifier({"NOTIFY_SOCKET": f"@{name}"}))
    assert [manager.recv(100) for _ in _SAID] == _SAID


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "/nowhere/notify", "@"])
def test_nobody_there(address: str) -> None:
    _speak(Notifier({"NOTIFY_SOCKET": address}))
    _speak(Notifier({}))


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog(environment: dict[str, str], seconds: float | None) -> None:
    assert Notifier(environment).watchdog == seconds
