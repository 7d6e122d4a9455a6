"""The exception tree: each class says whose fault it was, and its message what to do next.

    NetplaneError                  abstract; never raised itself
    ├── UsageError                 the command line or the configuration; exit status 2
    ├── InputError                 the cluster or the user sent it
    │   ├── MalformedError         violates the API or is not parseable at all
    │   └── UnsupportedError       valid, but not by us
    ├── WireError                  bytes that are not netlink: offset, expectation
    ├── WatchError                 the API server did not answer as it should; try again
    │   ├── ExpiredError           what was to be continued is too old: list again
    │   └── DeniedError            401, 403
    └── ApplyError                 the kernel or its tools; ``retryable`` is a class attribute
        ├── ToolError              a program is absent, too old, or answered something unexpected
        ├── PrivilegeError         EPERM
        ├── ConflictError          somebody else (kube-proxy) programs the same rules
        ├── BusyError (retry)      ENOBUFS
        │   └── LockedError        the xtables lock, which has been waited for
        ├── StaleError (retry)     the generation moved; observe again
        └── RefusedError           the kernel refused an operation: errno, its words, the line

A fault in *one* object is data (``netplane.core.model.problem.Problem``), never an exception:
exceptions mean that the whole operation failed. Foreign errors (``OSError``, a tool's exit status)
are translated once, at the edge. Nothing is classified by the text of a message.
"""

from __future__ import annotations


class NetplaneError(Exception):
    """The root of everything netplane raises on purpose; abstract, never raised itself."""

    exit_status = 1
    retryable = False


class UsageError(NetplaneError):
    """The command line, an environment variable or the configuration file is wrong."""

    exit_status = 2


class InputError(NetplaneError):
    """What the cluster or the user sent cannot be used as a whole; nothing was written."""


class MalformedError(InputError):
    """Violates the API, or is not parseable at all: truncated, duplicate keys, too deep."""


class UnsupportedError(InputError):
    """Valid, but not something netplane supports."""


class WireError(NetplaneError):
    """Bytes that are not the netlink we expect.

    Attributes:
        offset: Where in the buffer it went wrong, in bytes.
    """

    def __init__(self, message: str, offset: int = 0) -> None:
        super().__init__(f"{message} (at byte {offset})")
        self.offset = offset


class WatchError(NetplaneError):
    """The API server, or the way to it, did not do what was asked.

    Attributes:
        retry_after: Seconds that the server wants to be left alone for, 0 where it says none.
    """

    retryable = True

    def __init__(self, message: str, *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ExpiredError(WatchError):
    """The resourceVersion or the continue token is too old (410): list again from the start."""


class DeniedError(WatchError):
    """401 or 403: the credentials are not, or no longer, good enough.

    Attributes:
        unknown: 401, the server does not know who asks: newer credentials may help.
    """

    def __init__(self, message: str, *, unknown: bool) -> None:
        super().__init__(message)
        self.unknown = unknown


class ApplyError(NetplaneError):
    """The kernel or one of its tools did not do what was asked."""


class ToolError(ApplyError):
    """A program (nft, iptables-restore) is absent, too old, or answered something unexpected."""


class PrivilegeError(ApplyError):
    """EPERM: CAP_NET_ADMIN is missing in the namespace acted on."""


class ConflictError(ApplyError):
    """Somebody else, a kube-proxy, programs the same rules."""


class BusyError(ApplyError):
    """The xtables lock is held, or the kernel ran out of buffers for a moment; try again."""

    retryable = True


class LockedError(BusyError):
    """Somebody holds the xtables lock, and did for as long as we were told to wait."""


class StaleError(ApplyError):
    """Another process committed between our observe and our commit; observe again.

    Attributes:
        doubtful: The kernel's answer was lost: it may have been our own commit.
    """

    retryable = True

    def __init__(self, message: str, *, doubtful: bool = False) -> None:
        super().__init__(message)
        self.doubtful = doubtful


class RefusedError(ApplyError):
    """The kernel refused an operation.

    Attributes:
        errno: The kernel's error number, 0 where a tool did not pass it on.
        line: The line of the tool's input it complained of (1-based), 0 where unknown.
        written: What had been committed before the refusal, for the reader at 3 a.m.
    """

    def __init__(self, message: str, *, errno: int = 0, line: int = 0, written: str = "") -> None:
        super().__init__(message)
        self.errno = errno
        self.line = line
        self.written = written
