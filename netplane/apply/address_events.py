"""That an address came to, or left, an interface of one namespace (rtnetlink(7), RTMGRP_*_IFADDR).

A notice says only that there is something to read; ``addresses`` reads it.
"""

from __future__ import annotations

import socket
from typing import Final

from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink.notice_socket import NoticeSocket

_RTMGRP_IPV4_IFADDR: Final = 0x10
_RTMGRP_IPV6_IFADDR: Final = 0x100


class AddressEvents(NoticeSocket):
    """The notices of one namespace; see ``NoticeSocket``."""

    def __init__(self, namespace: Namespace) -> None:
        super().__init__(namespace, "addresses", socket.NETLINK_ROUTE, _join)

    def moved(self) -> bool:
        """Whether addresses may have come or gone since the last call; returns at once."""
        return bool(list(self.read()))  # that some were lost says as much


def _join(opened: socket.socket) -> None:
    opened.bind((0, _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))
