"""Faults at single system calls of a sync: errors in their place, SIGKILL before them.

Whatever happens, the kernel holds the old state, the new one, or one between two transactions in
which no Service is there by half; what is not ours is as it was; an error is told in words; and
the next sync makes it good, without anything left open. The whole sweep takes many minutes; the
normal run takes a few faults of each kind.
"""

from __future__ import annotations

import pytest

from tests.support.fault_sweep import ERRORS, Stage, Sweep, Undisturbed, Verdict, spread
from tests.support.strace import Call, Fault

pytestmark = pytest.mark.kernel

NFTABLES_STAGES = (
    Stage("engine-nftables", "", "new"),
    Stage("engine-nftables", "old", "new"),
    Stage("engine-nftables", "old", "sticky"),
)
IPTABLES_STAGES = (
    Stage("engine-iptables", "", "new"),
    Stage("engine-iptables", "old", "new"),
)
COMMAND_STAGES = (
    Stage("nftables", "", "new"),
    Stage("nftables", "old", "new"),
    Stage("iptables", "", "new"),
    Stage("iptables", "old", "new"),
)
SOCKET_CALLS = (
    "socket",
    "setsockopt",
    "bind",
    "connect",
    "sendto",
    "sendmsg",
    "recvfrom",
    "recvmsg",
    "recvmmsg",
)
PROCESS_CALLS = ("setns", "clone3", "clone", "vfork", "execve", "pipe2", "poll", "wait4")
# These say nothing to the kernel's rules and are made by the hundred; between two of them there is
# nothing to meet that the calls around them do not meet as well.
FILE_CALLS = frozenset(
    {"access", "brk", "close", "futex", "getdents64", "ioctl", "lseek", "madvise", "mmap"}
    | {"mprotect", "munmap", "newfstatat", "openat", "pread64", "read", "readlink"}
    | {"rt_sigaction", "rt_sigprocmask"}
)
# How often a thread waits is another number in each run: of a few samples, one might never come.
WAITS = frozenset({"futex", "poll", "wait4"})
KILL = "SIGKILL"
ENOUGH = 40  # faults of one kind and stage, spread over the hundreds of calls that commands make


def errors(calls: Undisturbed, error: str, *, tree: bool) -> list[Fault]:
    """The error at every call that talks to the kernel's rules or starts something.

    iptables-nft takes an interrupted call for the end of what it was told, and ends well: who can
    only ask iptables-nft cannot know better. The kernel interrupts these calls for signals alone,
    which that program does not get; so EINTR meets the engine's own calls, in its own stages.
    """
    most = calls.most()
    names: tuple[str, ...] = (*SOCKET_CALLS, *PROCESS_CALLS)
    if tree and error == "EINTR":
        names = PROCESS_CALLS
    return [
        Fault(Call(name, number), error, tree)
        for name in names
        for number in range(1, most.get(name, 0) + 1)
    ]


def kills(calls: Undisturbed, *, tree: bool) -> list[Fault]:
    """SIGKILL at every call of an engine; at those of a command which matter."""
    return [
        Fault(Call(name, number), tree=tree)
        for name, most in calls.most().items()
        if not tree or name not in FILE_CALLS
        for number in range(1, most + 1)
    ]


def disturb(sweep: Sweep, faults: list[Fault]) -> None:
    """Let them all happen, one per run, and tell all that went wrong."""
    verdicts: list[Verdict] = [sweep.disturb(fault) for fault in faults]
    fired = sum(verdict.fired for verdict in verdicts)
    print(f"{sweep.stage}: {len(verdicts)} faults, {fired} of them met")
    wrong = [str(verdict) for verdict in verdicts if verdict.problems]
    assert not wrong, "\n".join([f"{len(wrong)} of {len(verdicts)}:", *wrong])
    # Calls that wait are made more or less often in each run; the last may never come.
    assert fired >= 0.8 * len(verdicts), [str(v.fault) for v in verdicts if not v.fired]


@pytest.mark.soak
@pytest.mark.parametrize("what", [*ERRORS, KILL])
@pytest.mark.parametrize("stage", NFTABLES_STAGES, ids=str)
def test_every_call_of_the_nftables_engine(stage: Stage, what: str) -> None:
    with Sweep(stage) as sweep:
        calls = sweep.undisturbed()
        faults = kills(calls, tree=False) if what == KILL else errors(calls, what, tree=False)
        disturb(sweep, faults)


@pytest.mark.soak
@pytest.mark.parametrize("what", [*ERRORS, KILL])
@pytest.mark.parametrize("stage", [*IPTABLES_STAGES, *COMMAND_STAGES], ids=str)
def test_calls_of_what_starts_programs(stage: Stage, what: str) -> None:
    with Sweep(stage) as sweep:
        calls = sweep.undisturbed(tree=True)
        faults = kills(calls, tree=True) if what == KILL else errors(calls, what, tree=True)
        disturb(sweep, spread(faults, ENOUGH))


@pytest.mark.parametrize("stage", NFTABLES_STAGES[:2], ids=str)
def test_some_errors(stage: Stage) -> None:
    with Sweep(stage) as sweep:
        most = sweep.undisturbed().most()
        # Another place for each error, so that together they are spread over the whole sync.
        faults = []
        for position, error in enumerate(ERRORS):
            name = ("sendto", "recvmsg")[position % 2]
            number = 1 + position * (most[name] - 1) // (len(ERRORS) - 1)
            faults.append(Fault(Call(name, number), error))
        disturb(sweep, faults)


@pytest.mark.parametrize(
    ("stage", "count"),
    [(NFTABLES_STAGES[0], 5), (NFTABLES_STAGES[1], 2), (COMMAND_STAGES[3], 3)],
    ids=str,
)
def test_some_kills(stage: Stage, count: int) -> None:
    tree = not stage.is_engine
    with Sweep(stage) as sweep:
        faults = kills(sweep.undisturbed(tree=tree), tree=tree)
        disturb(sweep, spread([f for f in faults if f.call.name not in WAITS], count))
