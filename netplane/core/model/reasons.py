"""Every reason for which an object, or a part of one, is refused; and the collector of refusals.

The reasons are in one place so that they read alike and so that a test can hold that each of them
is given by some input. Each says what is wrong and, where that is not obvious, what would be
right; a detail (the accepted values, the other claimant) may follow it.
"""

from __future__ import annotations

import enum

from netplane.core.model.problem import Problem, shown


class Reason(enum.Enum):
    """Why something was refused, in words for the person who has to mend it."""

    MISSING = "is missing"
    WRONG_TYPE = "wrong type:"
    NOT_AN_OBJECT = "an item of a list that is not an object"
    UNKNOWN_VERSION = "this version of the kind is not known here; expected"
    NOT_A_LABEL = "not a DNS label: at most 63 of a-z, 0-9 and '-', no '-' at either end"
    NOT_A_SUBDOMAIN = "not a DNS name: at most 253 of a-z, 0-9, '-' and '.', labels joined by '.'"
    NOT_A_LABEL_VALUE = "not a label value: at most 63 of A-Z, a-z, 0-9, '-', '_' and '.'"
    NOT_A_PORT_NAME = "not a port name: at most 15 of a-z, 0-9 and '-', at least one a letter"
    NOT_A_TIME = "not an RFC 3339 time such as 2026-01-02T03:04:05Z"
    NOT_AN_ADDRESS = "not an IP address"
    NOT_A_NETWORK = "not a network in CIDR form such as 192.0.2.0/24"
    MAPPED = "an IPv4-mapped IPv6 address: write it as plain IPv4"
    UNSPECIFIED = "the unspecified address is no destination"
    LOOPBACK = "in the loopback range (127.0.0.0/8, ::1)"
    LINK_LOCAL = "in the link-local range (169.254.0.0/16, fe80::/10)"
    MULTICAST = "in the multicast range (224.0.0.0/4, ff00::/8)"
    WRONG_FAMILY = "of the wrong address family; expected"
    NO_ADDRESS = "must contain at least one address"
    NOT_ALLOCATED = (
        "no clusterIP is allocated: an API server does that (kubectl apply, then kubectl get -o"
        " yaml); in a file without a cluster, write an address of the service range here"
    )
    UNEQUAL_CLUSTER_IPS = "the first of clusterIPs must equal clusterIP"
    TOO_MANY_CLUSTER_IPS = "at most one address of each family"
    UNKNOWN_VALUE = "unknown value; expected"
    PORT_RANGE = "must be between 1 and 65535"
    TIMEOUT_RANGE = "must be between 1 and 86400 seconds"
    NO_PORTS = "a Service with a clusterIP needs at least one port"
    NAME_NEEDED = "each port needs a name when there are several"
    DUPLICATE_NAME = "another port of this object has this name already"
    DUPLICATE_PORT = "another port of this Service has this protocol and number already"
    DUPLICATE_NODE_PORT = "another port of this Service has this protocol and nodePort already"
    DUPLICATE_FAMILY = "this family is listed already"


class Refusals:
    """The refusals found in one object so far.

    Attributes:
        problems: What was found, in order of finding.
    """

    __slots__ = ("_kind", "_name", "_namespace", "problems")

    def __init__(self, kind: str, namespace: str, name: str) -> None:
        self._kind = kind
        self._namespace = namespace
        self._name = name
        self.problems: list[Problem] = []

    def add(self, field: str, value: object, reason: Reason, detail: str = "") -> None:
        """Records one refusal; ``value`` is foreign and made safe here, ``detail`` is ours."""
        text = f"{reason.value} {detail}" if detail else reason.value
        self.problems.append(
            Problem(
                kind=shown(self._kind),
                namespace=shown(self._namespace),
                name=shown(self._name),
                field=field,
                value="" if value is None else shown(value),
                reason=text,
            )
        )
