"""Servers in a namespace: they answer a new flow with what they saw of it.

The answer is ``local-address:port|peer-address``, one for a TCP connection or a UDP datagram. SCTP
packets are only noticed.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import ExitStack

from netplane.core.model.address import join_host_port
from tests.support.flow import Outcome, Verdict
from tests.support.sctp import Init, decode_init

Watch = Callable[[socket.socket, int, Callable[[int], None]], None]
Arrived = Callable[[Init, Outcome], None]

_BACKLOG = 4096
_RECEIVE_BUFFER = 4 << 20
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_IP_PKTINFO = 8  # linux/in.h
_IPV6_RECVPKTINFO = 49  # linux/in6.h
_IPV6_PKTINFO = 50
_V4_PKTINFO = struct.Struct("=i4s4s")  # interface, local address, destination in the header
_V6_PKTINFO = struct.Struct("=16si")
_ANCILLARY_BYTES = 128


def encode_answer(endpoint: str, source: str) -> bytes:
    """What a server answers."""
    return f"{endpoint}|{source}".encode()


def decode_answer(octets: bytes) -> Outcome:
    """What a client learns from an answer."""
    endpoint, _, source = octets.decode().partition("|")
    return Outcome(Verdict.ACCEPT, endpoint, source)


class Listeners:
    """The servers of one namespace; make and use it in the namespace's thread, poll anywhere.

    Args:
        ports: Where TCP and UDP servers listen, on every address of both families.
        watch: Called with each socket, the epoll events it waits for, and what to call on them.
        arrived: Called with each SCTP INIT that ends here.
        closing: Closes the sockets in the end.
    """

    def __init__(
        self, ports: Iterable[int], watch: Watch, arrived: Arrived, closing: ExitStack
    ) -> None:
        self._watch = watch
        self._arrived = arrived
        self._closing = closing
        for family in (socket.AF_INET, socket.AF_INET6):
            for port in ports:
                stream = self._open(family, socket.SOCK_STREAM, port)
                stream.listen(_BACKLOG)
                self._watch(stream, select.EPOLLIN, self._on_connection(stream))
                datagram = self._open(family, socket.SOCK_DGRAM, port)
                self._watch(datagram, select.EPOLLIN, self._on_datagram(datagram))
            raw = self._open(family, socket.SOCK_RAW, 0, socket.IPPROTO_SCTP)
            self._watch(raw, select.EPOLLIN, self._on_sctp(raw))

    def _open(
        self, family: socket.AddressFamily, kind: socket.SocketKind, port: int, protocol: int = 0
    ) -> socket.socket:
        sock = self._closing.enter_context(
            socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
        )
        if kind != socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        if family == socket.AF_INET6:
            if kind != socket.SOCK_RAW:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        sock.bind(("", port))
        return sock

    def _on_connection(self, listener: socket.socket) -> Callable[[int], None]:
        def answer(_events: int) -> None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    connection, peer = listener.accept()
                    with connection:
                        host, port = connection.getsockname()[:2]
                        connection.send(encode_answer(join_host_port(host, port), peer[0]))

        return answer

    def _on_datagram(self, sock: socket.socket) -> Callable[[int], None]:
        port = sock.getsockname()[1]

        def answer(_events: int) -> None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    _, ancillary, _, peer = sock.recvmsg(512, _ANCILLARY_BYTES)
                    local = _destination(ancillary)
                    text = encode_answer(join_host_port(local, port), peer[0])
                    # A rule that drops the answer is a finding: the client will meet silence.
                    with contextlib.suppress(PermissionError):
                        sock.sendmsg([text], [_from(local)], 0, peer)

        return answer

    def _on_sctp(self, sock: socket.socket) -> Callable[[int], None]:
        def notice(_events: int) -> None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    packet, ancillary, _, peer = sock.recvmsg(512, _ANCILLARY_BYTES)
                    if sock.family == socket.AF_INET:  # a raw IPv4 socket delivers the IP header
                        packet = packet[(packet[0] & 0x0F) * 4 :]
                    init = decode_init(packet)
                    if init is not None:
                        endpoint = join_host_port(_destination(ancillary), init.port)
                        self._arrived(init, Outcome(Verdict.ACCEPT, endpoint, peer[0]))

        return notice


def _destination(ancillary: list[tuple[int, int, bytes]]) -> str:
    """The destination address a packet carried, from its PKTINFO."""
    for level, kind, octets in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            return socket.inet_ntop(socket.AF_INET, _V4_PKTINFO.unpack(octets)[2])
        if (level, kind) == (socket.IPPROTO_IPV6, _IPV6_PKTINFO):
            return socket.inet_ntop(socket.AF_INET6, _V6_PKTINFO.unpack(octets)[0])
    raise AssertionError("the kernel sent no PKTINFO although asked to")


def _from(local: str) -> tuple[int, int, bytes]:
    """The ancillary item that makes a datagram leave with this source address."""
    if ":" in local:
        packed = socket.inet_pton(socket.AF_INET6, local)
        return socket.IPPROTO_IPV6, _IPV6_PKTINFO, _V6_PKTINFO.pack(packed, 0)
    packed = socket.inet_pton(socket.AF_INET, local)
    return socket.IPPROTO_IP, _IP_PKTINFO, _V4_PKTINFO.pack(0, packed, bytes(4))
