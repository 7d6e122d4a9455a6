"""The layout of our nft table: which sets and maps it has, and the typed elements they hold.

A ruleset is a program of fixed size plus elements (``docs/dataplane.md``). In memory a set or map
is a plain dict from key to value, because diffs and packers walk hundreds of thousands of them:

    Keys.FRONTEND   (address, protocol number, port)          a frontend with an address
    Keys.PORT       (protocol number, port)                   a NodePort
    Keys.ADDRESS    (address,)
    Keys.FLOW       (source, destination, protocol number, port)
    Keys.SOURCE     (address, protocol number, port, network) an allowed source range

    Values.NONE     None                                      a set
    Values.VERDICT  Verdict                                   a verdict map
    Values.SLOTS    tuple[Backend, ...]                       slots 0..N-1 of a frontend

A SLOTS map holds in the kernel one element per slot, its key the frontend's key and the slot
(``numgen random mod N``); here it is one entry per frontend.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, TypeAlias

import msgspec

from netplane.core.model.address import Family
from netplane.core.plan.port import Backend

LAYOUT_VERSION = 2
TABLE = "netplane"


class Keys(enum.Enum):
    """The shape of a key; see the module's docstring."""

    FRONTEND = "frontend"
    PORT = "port"
    ADDRESS = "address"
    FLOW = "flow"
    SOURCE = "source"


class Values(enum.Enum):
    """The shape of a value; see the module's docstring."""

    NONE = "none"
    VERDICT = "verdict"
    SLOTS = "slots"


class Verdict(NamedTuple):
    """Where a verdict map sends a packet: ``goto CHAIN``, or "drop" as the chain's name.

    ``comment`` is the service port's label (at most 127 bytes), so that people reading
    ``nft list`` and a fresh netplane process know whose element it is.
    """

    chain: str
    comment: str = ""


Key: TypeAlias = tuple[str | int, ...]
Value: TypeAlias = Verdict | tuple[Backend, ...] | None
Elements: TypeAlias = dict[str, dict[Key, Value]]


class SetLayout(msgspec.Struct, frozen=True):
    """One named set or map of the table.

    Attributes:
        counter: Each element counts packets and bytes.
        interval: Its keys end with a range.
        asked_first: A packet has looked into it before it finds the way to an endpoint: who may
            come in, and who is masqueraded.
        led_to: A packet looks into it because of what it has found in another one, or has not.
    """

    name: str
    keys: Keys
    values: Values = Values.NONE
    counter: bool = False
    interval: bool = False
    asked_first: bool = False
    led_to: bool = False


#: In the order they are written: data before the verdicts that make it reachable.
SETS: tuple[SetLayout, ...] = (
    SetLayout("cluster-ips", Keys.ADDRESS, asked_first=True),
    SetLayout("nodeport-ips", Keys.ADDRESS),
    SetLayout("hairpin", Keys.FLOW),
    SetLayout("allowed-sources", Keys.SOURCE, interval=True, asked_first=True, led_to=True),
    SetLayout("restricted", Keys.FRONTEND, asked_first=True),
    SetLayout("endpoints", Keys.FRONTEND, Values.SLOTS, counter=True, led_to=True),
    SetLayout("local-endpoints", Keys.FRONTEND, Values.SLOTS, counter=True, led_to=True),
    SetLayout("nodeport-endpoints", Keys.PORT, Values.SLOTS, counter=True, led_to=True),
    SetLayout("nodeport-local-endpoints", Keys.PORT, Values.SLOTS, counter=True, led_to=True),
    SetLayout("cluster-choice", Keys.FRONTEND, Values.VERDICT, led_to=True),
    SetLayout("local-choice", Keys.FRONTEND, Values.VERDICT, led_to=True),
    SetLayout("nodeport-cluster-choice", Keys.PORT, Values.VERDICT, led_to=True),
    SetLayout("nodeport-local-choice", Keys.PORT, Values.VERDICT, led_to=True),
    SetLayout("no-endpoints", Keys.FRONTEND, Values.VERDICT, led_to=True),
    SetLayout("no-endpoint-nodeports", Keys.PORT, Values.VERDICT, led_to=True),
    SetLayout("services", Keys.FRONTEND, Values.VERDICT, counter=True),
    SetLayout("nodeports", Keys.PORT, Values.VERDICT, counter=True),
)


class Ruleset(msgspec.Struct, frozen=True, kw_only=True):
    """Everything netplane wants in one family's table.

    Attributes:
        program: The fixed part, as ``templates/nftables/`` renders it from the node's view.
        chains: Chains that follow the Services, by name, each its rules in nft's listed form:
            pick chains, see ``program.with_room``, and the sticky chains.
        affinity_sets: The names of dynamic sets of remembered clients.
        elements: By set name; every set of SETS is present, empty ones too.
    """

    family: Family
    program: str
    chains: dict[str, tuple[str, ...]]
    affinity_sets: frozenset[str]
    elements: Elements
