"""A NETLINK_NETFILTER socket: dumps of sets, and transactions.

The socket is Python's own. pyroute2's would run an event loop and decode every message into
dictionaries; here one ``sendmsg`` carries thousands of elements packed by
``netplane.core.nftables.wire_elements``, and a dump is read by ``wire_dump`` as it comes. What is
left is a socket with two buffers and a sequence number.

nfnetlink works within ``sendmsg``: when it returns, the transaction has been committed or refused
and the answers wait in our receive queue. The deadline guards against a kernel that does not.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Final, Self, TypeVar

from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink import own_hands
from netplane.apply.nfnetlink.errors import (
    batch_error,
    describe,
    question_error,
    socket_error,
    transaction_error,
)
from netplane.core.model.address import Family
from netplane.core.nftables.layout import TABLE, Key, Keys, SetLayout, Value
from netplane.core.nftables.observed import Counts
from netplane.core.nftables.record import Record
from netplane.core.nftables.record import read_request as record_request
from netplane.core.nftables.wire import (
    NFGEN_SIZE,
    PROTOCOL_FAMILY,
    TABLE_ATTRIBUTE,
    Answer,
    Message,
    MessageFlag,
    MessageType,
    Reply,
    answer,
    attributes,
    batch,
    frame,
    read_number,
    replies,
    text,
)
from netplane.core.nftables.wire_compare import Comparison
from netplane.core.nftables.wire_dump import Dump, DumpReader, read_counts
from netplane.core.nftables.wire_elements import dump_request, get_request
from netplane.core.nftables.wire_structure import (
    Replies,
    Structure,
    anonymous_sets,
    chain_of,
    read_structure,
    record_in,
    table_of_body,
)
from netplane.errors import ApplyError, BusyError, RefusedError, StaleError, WireError

# Linux's numbers; the socket module has none of them (linux/netlink.h, asm-generic/socket.h).
_SOL_NETLINK: Final = 270
_NETLINK_CAP_ACK: Final = 10
_NETLINK_EXT_ACK: Final = 11
_NETLINK_NETFILTER: Final = 12
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33

# Large enough for a transaction of 100,000 elements, and for an error for each message of it. It
# is a limit, not memory: the kernel charges what is queued.
_BUFFER = 64 << 20
_DATAGRAM = 1 << 16  # the kernel's dumps come in at most 32 KiB
_KERNEL_PORT = 0
_DUMP_ATTEMPTS = 10
_ASK_ATTEMPTS = 3
_ASKED_TOGETHER = 256  # elements, each of which is answered by a message of its own
_SEQUENCE_LIMIT = 1 << 31
_NFTA_GEN_ID = 1
_NFTA_TABLE_NAME = 1
_NFTA_CHAIN_TABLE = 1
_NFTA_CHAIN_NAME = 3
_ABSENT = frozenset({errno.ENOENT, errno.EAFNOSUPPORT})
_T = TypeVar("_T")


class NfnetlinkSocket:
    """nftables of one namespace, through one socket; a context manager, used by one thread.

    The socket is opened by the namespace's thread and belongs to it from then on; the methods may
    be called by any thread.

    Attributes:
        conflicts: How many transactions were not committed since somebody else had come before.

    Every method raises PrivilegeError without CAP_NET_ADMIN, BusyError when the kernel does not
    answer within ``timeout`` seconds or is short of memory again and again, RefusedError when the
    socket fails in some other way, and WireError when it answers something unexpected.
    """

    def __init__(
        self,
        namespace: Namespace,
        *,
        timeout: float = 60.0,
        receive_buffer: int = _BUFFER,
        vouch: Callable[[int], int | None] | None = None,
    ) -> None:
        self._namespace = namespace
        self._vouch = vouch
        self._timeout = timeout
        self._receive_buffer = receive_buffer
        self.conflicts = 0
        self._sequence = 0
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        try:
            self._socket = self._namespace.call(self._open)
        except OSError as exc:
            raise socket_error(exc, "no netlink socket could be opened") from exc
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._socket is not None:
            own_hands.closed(_port_of(self._socket))
            self._socket.close()
            self._socket = None

    def generation(self) -> int:
        """The ruleset's generation id: it moves with every transaction of anybody's."""
        request = Message(MessageType.NFT_MSG_GETGEN, 0, Family.IPV4, b"")
        for reply in self._told(request):
            for kind, start, end in attributes(reply.body, NFGEN_SIZE, len(reply.body)):
                if kind == _NFTA_GEN_ID:
                    return read_number(reply.body, start, end)
        raise WireError("no generation id in the kernel's answer")

    def dump_elements(self, family: Family, layout: SetLayout) -> Dump:
        """The elements of one set.

        Raises:
            RefusedError: There is no such table or set (errno ENOENT).
            StaleError: The set changed each time while it was being read.
        """

        def read(bodies: Iterator[bytes]) -> Dump | None:
            reader = DumpReader(layout, family)
            for body in bodies:
                reader.feed(body)
            return None if reader.repeated else reader.finish()

        return self._consistently(dump_request(layout, family), read)

    def compare_elements(
        self, family: Family, layout: SetLayout, wanted: dict[Key, Value]
    ) -> dict[Key, Value] | None:
        """The elements of one set, told by how they differ; None where some are none of ours.

        Raises:
            RefusedError: There is no such table or set (errno ENOENT).
            StaleError: The set changed each time while it was being read.
        """

        def read(bodies: Iterator[bytes]) -> Comparison | None:
            comparison = Comparison(layout, family, wanted)
            for body in bodies:
                comparison.feed(body)
            return None if comparison.repeated else comparison

        comparison = self._consistently(dump_request(layout, family), read)
        return None if comparison.foreign else comparison.finish()

    def counts(
        self, family: Family, layout: SetLayout, places: Sequence[tuple[Key, int]]
    ) -> Counts:
        """What single elements have counted, by key and slot (-1 where there are none).

        Raises:
            RefusedError: One of them is not there (errno ENOENT).
        """
        found: Counts = {}
        for first in range(0, len(places), _ASKED_TOGETHER):
            some = places[first : first + _ASKED_TOGETHER]
            for reply in self._told(get_request(layout, family, some)):
                found |= read_counts(reply.body, layout, family)
        return found

    def chains(self, family: Family) -> frozenset[str]:
        """The names of our table's chains; empty where there is no table."""
        return frozenset(map(chain_of, self._ours(MessageType.NFT_MSG_GETCHAIN, family)))

    def structure(self, family: Family) -> Structure | None:
        """What our table is besides its elements; None where there is no table.

        Raises:
            StaleError: It changed each time while it was being read.
        """
        name = Message(MessageType.NFT_MSG_GETTABLE, 0, family, TABLE_ATTRIBUTE)
        try:
            (table,) = [reply.body for reply in self._told(name)]
        except RefusedError as exc:
            if exc.errno in _ABSENT:
                return None
            raise
        sets = self._ours(MessageType.NFT_MSG_GETSET, family)
        anonymous = {}
        for nameless in anonymous_sets(sets):
            request = dump_request(SetLayout(nameless, Keys.ADDRESS), family)
            anonymous[nameless] = self._consistently(request, list)
        chains = self._ours(MessageType.NFT_MSG_GETCHAIN, family)
        rules = self._ours(MessageType.NFT_MSG_GETRULE, family)
        return read_structure(Replies(table, chains, rules, sets, anonymous))

    def record(self, family: Family) -> Record | None:
        """What netplane has noted in our table; None where it has not."""
        for body in self._consistently(record_request(family), list):
            record = record_in(body)
            if record is not None:
                return record
        return None

    def _ours(self, kind: MessageType, family: Family) -> list[bytes]:
        """The objects of one kind in our table; newer kernels leave others' out themselves."""
        request = Message(kind, MessageFlag.NLM_F_DUMP, family, TABLE_ATTRIBUTE)

        def read(bodies: Iterator[bytes]) -> list[bytes]:
            return [body for body in bodies if table_of_body(body) == TABLE_ATTRIBUTE]

        return self._consistently(request, read)

    def _consistently(self, request: Message, read: Callable[[Iterator[bytes]], _T | None]) -> _T:
        """Read a dump until it is of one moment, and ``read`` says it is whole (not None)."""
        busy: BusyError | None = None
        for _ in range(_DUMP_ATTEMPTS):
            interrupted = False
            # The kernel calls a dump interrupted whatever table was written to meanwhile.
            before = self.generation() if self._vouch is not None else 0

            def bodies() -> Iterator[bytes]:
                nonlocal interrupted
                for reply in self._ask(request):
                    interrupted |= bool(reply.flags & MessageFlag.NLM_F_DUMP_INTR)
                    if reply.kind >= MessageType.NFT_MSG_NEWTABLE:
                        yield reply.body

            try:
                found = read(bodies())
            except BusyError as exc:
                if _was_silence(exc):
                    raise
                busy = exc
                continue
            if found is not None and not (interrupted and self._is_harmed_since(before)):
                return found
        if busy is not None:
            raise busy
        what = f"the set {request.layout.name}" if request.layout is not None else "the table"
        raise StaleError(f"{what} kept changing while it was read; observe again")

    def _is_harmed_since(self, generation: int) -> bool:
        """Whether what was committed since may have changed what was read, as far as is known."""
        return self._vouch is None or self._vouch(generation) is None

    def has_chain(self, family: Family, table: str, chain: str) -> bool:
        """Whether anybody's table has this chain: asked for by name, however many there are."""
        names = text(_NFTA_CHAIN_TABLE, table) + text(_NFTA_CHAIN_NAME, chain)
        return self._exists(Message(MessageType.NFT_MSG_GETCHAIN, 0, family, names))

    def has_table(self, family: Family, table: str) -> bool:
        """Whether there is a table of this name, anybody's."""
        name = text(_NFTA_TABLE_NAME, table)
        return self._exists(Message(MessageType.NFT_MSG_GETTABLE, 0, family, name))

    def _exists(self, request: Message) -> bool:
        """Whether the kernel has what a request names."""
        try:
            return bool(self._told(request))
        except RefusedError as exc:
            if exc.errno in _ABSENT:
                return False
            raise

    def commit(self, messages: Sequence[Message], *, generation: int | None) -> None:
        """Apply all of the messages at once, or nothing.

        Args:
            messages: In the order the kernel is to check them; none means nothing to do.
            generation: What was observed; None commits onto whatever is there.

        Raises:
            StaleError: The ruleset is no longer of that generation, nothing was written; or the
                kernel's answer was lost and the generation has moved, so it may have been.
            TransactionRefusedError: Messages were refused, each is told; nothing was written.
            BusyError: The kernel is short of memory; nothing was written.
        """
        if not messages:
            return
        before = self.generation() if generation is None else generation
        first = self._next(len(messages) + 2)
        try:
            self._drain()
            self._send(b"".join(batch(messages, first, generation)))
        except OSError as exc:
            raise self._failure(exc, "the transaction was not sent") from exc
        try:
            failed, refused = self._outcome(first, len(messages))
        except OSError as exc:
            raise self._lost_answer(before) from exc
        if failed is not None:
            error = batch_error(failed)
            self.conflicts += isinstance(error, StaleError)
            raise error
        if refused:
            raise transaction_error(messages, refused)

    def _outcome(self, first: int, count: int) -> tuple[Answer | None, list[tuple[int, Answer]]]:
        """The answer to BATCH_BEGIN if there is one, and the errors by index of their message.

        BATCH_BEGIN is answered only where the transaction failed as a whole; else the last
        message's answer is the last of all.
        """
        refused: list[tuple[int, Answer]] = []
        for reply in self._receive():
            index = reply.sequence - first - 1
            if reply.kind != MessageType.NLMSG_ERROR or not -1 <= index < count:
                continue
            said = answer(reply)
            if index == -1:
                return said, refused
            if said.errno:
                refused.append((index, said))
            if index == count - 1:
                break
        return None, refused

    def _lost_answer(self, before: int) -> ApplyError:
        """What to tell when the answer cannot be had, as when it overflowed the receive buffer.

        The transaction was committed or refused before ``send`` returned: the generation knows.
        """
        if self.generation() == before:
            return BusyError("the kernel's answer was lost; nothing was written")
        return StaleError(
            "the kernel's answer was lost, the ruleset has moved; observe again", doubtful=True
        )

    def _told(self, request: Message) -> list[Reply]:
        """All the answers to a question, which is asked again where the kernel is busy."""
        for _ in range(_ASK_ATTEMPTS - 1):
            try:
                return list(self._ask(request))
            except BusyError as exc:
                if _was_silence(exc):
                    raise
        return list(self._ask(request))

    def _ask(self, request: Message) -> Iterator[Reply]:
        """Send one message; its answers, up to the end of the dump or the single answer."""
        number = self._next(1)
        flags = MessageFlag.NLM_F_REQUEST | request.flags
        family = PROTOCOL_FAMILY[request.family]
        many = request.flags & (MessageFlag.NLM_F_DUMP | MessageFlag.NLM_F_ACK)
        try:
            self._drain()
            self._send(frame(request.kind, flags, family, request.attributes, number))
            for reply in self._receive():
                if reply.sequence != number:
                    continue
                if reply.kind in {MessageType.NLMSG_ERROR, MessageType.NLMSG_DONE}:
                    said = answer(reply)
                    if said.errno:
                        raise _ask_error(said, request)
                    return
                yield reply
                if not many:
                    return
        except OSError as exc:
            raise self._failure(exc, "the kernel could not be asked") from exc

    def _next(self, count: int) -> int:
        """The first of so many sequence numbers."""
        if self._sequence + count > _SEQUENCE_LIMIT:
            self._sequence = 0
        first = self._sequence + 1
        self._sequence += count
        return first

    def _open(self) -> socket.socket:
        opened = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
        )
        try:
            for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
                opened.setsockopt(_SOL_NETLINK, option, 1)
            for forced, asked, size in (
                (_SO_SNDBUFFORCE, socket.SO_SNDBUF, _BUFFER),
                (_SO_RCVBUFFORCE, socket.SO_RCVBUF, self._receive_buffer),
            ):
                # In a user namespace only the system's limit can be had.
                try:
                    opened.setsockopt(socket.SOL_SOCKET, forced, size)
                except PermissionError:
                    opened.setsockopt(socket.SOL_SOCKET, asked, size)
            opened.bind((0, 0))
            # Connected to the kernel, nobody else can send to us.
            opened.connect((_KERNEL_PORT, 0))
            own_hands.opened(_port_of(opened))
        except BaseException:
            opened.close()
            raise
        return opened

    def _send(self, datagram: bytes) -> None:
        assert self._socket is not None, "use NfnetlinkSocket as a context manager"
        self._socket.settimeout(self._timeout)
        self._socket.send(datagram)

    def _receive(self) -> Iterator[Reply]:
        """The kernel's messages as they come, until nobody asks for more."""
        assert self._socket is not None, "use NfnetlinkSocket as a context manager"
        deadline = time.monotonic() + self._timeout
        while True:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            datagram, _, flags, sender = self._socket.recvmsg(_DATAGRAM)
            if sender[0] != _KERNEL_PORT:
                continue
            if flags & socket.MSG_TRUNC:
                raise WireError("a datagram larger than the kernel sends", len(datagram))
            yield from replies(datagram)

    def _failure(self, exc: OSError, failure: str) -> ApplyError:
        """Translate what the socket itself raised."""
        if isinstance(exc, TimeoutError):
            return BusyError(f"{failure}: no answer within {self._timeout:.0f} s; try again")
        return socket_error(exc, failure)

    def _drain(self) -> None:
        """Throw away what an abandoned dump or transaction left in the queue."""
        assert self._socket is not None, "use NfnetlinkSocket as a context manager"
        self._socket.settimeout(0)
        while True:
            try:
                self._socket.recv(_DATAGRAM)
            except BlockingIOError:
                return
            except OSError as exc:
                # Some of it overflowed the buffer: the kernel says so once.
                if exc.errno != errno.ENOBUFS:
                    raise


def _was_silence(error: BusyError) -> bool:
    """Whether the kernel did not answer in time: it has been waited for long enough."""
    return isinstance(error.__cause__, TimeoutError)


def _ask_error(said: Answer, request: Message) -> ApplyError:
    """What an error that answers a question means."""
    if said.errno in _ABSENT:
        name = f"set {request.layout.name}" if request.layout is not None else "table"
        words = describe(said.errno, said.words)
        return RefusedError(f"no {name} in the table {TABLE}: {words}", errno=said.errno)
    return question_error(said)


def _port_of(opened: socket.socket) -> int:
    """A netlink socket's own port, which notices name as the source of what it committed."""
    port, _ = opened.getsockname()
    assert isinstance(port, int)
    return port
