"""The client's side of one flow: a socket that starts it and recognises what becomes of it."""

from __future__ import annotations

import abc
import contextlib
import errno
import secrets
import socket
import struct
from collections.abc import Iterator

from netplane.core.model.service import Protocol
from tests.support.flow import Flow, Outcome, Verdict
from tests.support.listeners import decode_answer
from tests.support.sctp import Init, encode_init

_IP_RECVERR = 11  # linux/in.h
_IPV6_RECVERR = 25  # linux/in6.h
_EXTENDED_ERROR = struct.Struct("=IBBBBII")  # struct sock_extended_err, linux/errqueue.h
_UNREACHABLE = {(2, 3), (3, 1)}  # (origin, type): ICMP and ICMPv6 destination unreachable
_RST_ON_CLOSE = struct.pack("=ii", 1, 0)  # struct linger: no TIME_WAIT, and the port is free again


class Attempt(abc.ABC):
    """One flow under way; make it in the thread of the namespace it starts in.

    ICMP errors are asked for (``IP_RECVERR``): without that, a refusal in the OUTPUT hook reaches
    a local TCP client only after its first retransmission, a second later (tcp_v4_err() drops it,
    because connect(2) still holds the socket).
    """

    kind: socket.SocketKind
    protocol = 0

    def __init__(self, flow: Flow, source_port: int) -> None:
        self.flow = flow
        self.source_port = source_port
        family = socket.AF_INET6 if ":" in flow.source else socket.AF_INET
        self.socket = socket.socket(family, self.kind | socket.SOCK_NONBLOCK, self.protocol)
        if family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        else:
            self.socket.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        try:
            self.begin()
        except BaseException:
            self.socket.close()
            raise

    @abc.abstractmethod
    def begin(self) -> None:
        """Bind the source and send the first packet."""

    @abc.abstractmethod
    def outcome(self) -> Outcome | None:
        """What has become of the flow, after an event on the socket; None while it is open."""

    def errors(self) -> Iterator[bytes]:
        """Take the ICMP unreachables off the error queue; yields what they quote of the packet."""
        with contextlib.suppress(BlockingIOError):
            while True:
                quoted, ancillary, _, _ = self.socket.recvmsg(512, 512, socket.MSG_ERRQUEUE)
                for _level, _type, octets in ancillary:
                    _, origin, kind, *_ = _EXTENDED_ERROR.unpack_from(octets)
                    if (origin, kind) in _UNREACHABLE:
                        yield quoted


class _Answered(Attempt):
    """A flow whose server answers through a socket of the kernel's own protocol."""

    def outcome(self) -> Outcome | None:
        if any(True for _ in self.errors()):
            return Outcome(Verdict.REJECT)
        try:
            answer = self.socket.recv(512)
        except BlockingIOError:
            return None
        except ConnectionRefusedError:
            return Outcome(Verdict.REJECT)
        return decode_answer(answer)


class TcpAttempt(_Answered):
    kind = socket.SOCK_STREAM

    def begin(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
        self.socket.bind((self.flow.source, self.source_port))
        failed = self.socket.connect_ex((self.flow.destination, self.flow.port))
        # A refusal so early shows as an error on the socket like any other.
        assert failed in {errno.EINPROGRESS, errno.ECONNREFUSED}, errno.errorcode[failed]


class UdpAttempt(_Answered):
    kind = socket.SOCK_DGRAM

    def begin(self) -> None:
        self.socket.bind((self.flow.source, self.source_port))
        self.socket.connect((self.flow.destination, self.flow.port))
        # EPERM: a rule in OUTPUT dropped or refused it; which of them, the error queue will tell.
        with contextlib.suppress(PermissionError):
            self.socket.send(b"?")


class SctpAttempt(Attempt):
    """An INIT; whether it arrives is seen by the listeners, from its tag."""

    kind = socket.SOCK_RAW
    protocol = socket.IPPROTO_SCTP

    def begin(self) -> None:
        self.tag = secrets.randbits(32) | 1  # 0 is not a tag
        self.socket.bind((self.flow.source, 0))
        self.socket.connect((self.flow.destination, 0))
        packet = encode_init(Init(self.source_port, self.flow.port, self.tag))
        with contextlib.suppress(PermissionError):
            self.socket.send(packet)

    def outcome(self) -> Outcome | None:
        self.socket.getsockopt(
            socket.SOL_SOCKET, socket.SO_ERROR
        )  # clears it; it is not ours alone
        ours = struct.pack("!H", self.source_port)
        refused = [quoted for quoted in self.errors() if quoted[:2] == ours]
        return Outcome(Verdict.REJECT) if refused else None


ATTEMPTS: dict[Protocol, type[Attempt]] = {
    Protocol.TCP: TcpAttempt,
    Protocol.UDP: UdpAttempt,
    Protocol.SCTP: SctpAttempt,
}
