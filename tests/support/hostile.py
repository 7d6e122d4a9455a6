"""Somebody who writes to nftables all the time, in a process of its own.

``python -m tests.support.hostile NETNS TABLE SET RATE`` adds and deletes elements of one IPv4 set
of addresses, a transaction each, until its stdin ends; then it prints how many it has committed.
"""

from __future__ import annotations

import itertools
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink.socket import NfnetlinkSocket
from netplane.core.model.address import Family
from netplane.core.nftables.wire import Message, MessageFlag, MessageType, attribute, nested, text
from netplane.errors import ApplyError

_SECONDS = 20
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS, _ELEMENT, _KEY, _VALUE = 1, 2, 3, 1, 1, 1
# Those that the Services web-0 and so on have, and as many that nobody has.
_ADDRESSES = [bytes([172, 30, 0, n]) for n in range(1, 9)]
_ADDRESSES += [bytes([203, 0, 113, n]) for n in range(1, 9)]


class Writer(NamedTuple):
    """A hostile writer that runs."""

    process: subprocess.Popen[str]

    def stop(self) -> int:
        """Let it end; returns how many transactions it has committed."""
        said, _ = self.process.communicate("", timeout=_SECONDS)
        return int(said)


@contextmanager
def hostile(netns: Namespace, table: str, name: str, *, rate: int = 200) -> Iterator[Writer]:
    """A writer to one set of one table of the family ip; it has begun, and ends with the block."""
    argv = [sys.executable, "-m", "tests.support.hostile", str(netns), table, name, str(rate)]
    top = Path(__file__).parents[2]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=top
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            yield Writer(process)
        finally:
            process.kill()


def _main(netns: str, table: str, name: str, rate: int) -> None:
    committed = 0
    with Namespace(netns) as namespace, NfnetlinkSocket(namespace) as link:
        print("begun", flush=True)
        due = time.monotonic()
        for address in itertools.cycle(_ADDRESSES):
            for kind in (MessageType.NFT_MSG_DELSETELEM, MessageType.NFT_MSG_NEWSETELEM):
                due = max(due + 1 / rate, time.monotonic() - 1)
                ended, _, _ = select.select([0], [], [], max(0, due - time.monotonic()))
                if ended:
                    print(committed)
                    return
                try:
                    link.commit([_message(kind, table, name, address)], generation=None)
                except ApplyError:
                    continue  # it is gone, or there already
                committed += 1


def _message(kind: MessageType, table: str, name: str, address: bytes) -> Message:
    element = nested(_ELEMENT, nested(_KEY, attribute(_VALUE, address)))
    where = text(_LIST_TABLE, table) + text(_LIST_SET, name)
    flags = MessageFlag.NLM_F_CREATE if kind is MessageType.NFT_MSG_NEWSETELEM else 0
    return Message(kind, flags, Family.IPV4, where + nested(_LIST_ELEMENTS, element))


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
