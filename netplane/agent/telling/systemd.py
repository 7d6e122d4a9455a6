"""What a service of Type=notify says to systemd (sd_notify(3)); nothing where it is none."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

_MICROSECONDS = 1e6


class Notifier:
    """The way to the service manager that started this process, if one did.

    Attributes:
        watchdog: Seconds within which it wants to hear ``alive``; None: it does not ask for it.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        asked = environment.get("WATCHDOG_USEC", "")
        for_us = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog = int(asked) / _MICROSECONDS if asked.isdigit() and for_us else None

    def ready(self) -> None:
        """The rules are there for the first time."""
        self._send("READY=1")

    def alive(self) -> None:
        """The loop turns; to be said twice in each ``watchdog`` seconds."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line about what is going on, for ``systemctl status``."""
        self._send(f"STATUS={' '.join(text.split())}")

    def stopping(self) -> None:
        """The agent ends; the rules stay."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if self._address[:1] not in {"/", "@"}:
            return
        address = self._address.replace("@", "\0", 1) if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                sock.sendto(message.encode(errors="replace"), address)
        except OSError:
            return  # a manager that does not listen must not stop a node's traffic
