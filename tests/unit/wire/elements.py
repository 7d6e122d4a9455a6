"""Elements of every set of the layout, as examples and as strategies."""

from __future__ import annotations

import ipaddress

from hypothesis import strategies as st

from netplane.core.model.address import Family
from netplane.core.nftables.layout import SETS, Key, Keys, SetLayout, Value, Values, Verdict
from netplane.core.plan.port import Backend

LAYOUTS = {layout.name: layout for layout in SETS}
FAMILIES = [Family.IPV4, Family.IPV6]
#: One set of each shape: sets with the same key, value and counter are the same bytes.
SHAPES = {(s.keys, s.values, s.counter): s for s in SETS}
EVERY_SHAPE = [(family, layout) for family in FAMILIES for layout in SHAPES.values()]


def identify(value: object) -> str:
    return value.name if isinstance(value, (Family, SetLayout)) else ""


def addresses(family: Family) -> st.SearchStrategy[str]:
    if family is Family.IPV4:
        return st.integers(0, 2**32 - 1).map(lambda n: str(ipaddress.IPv4Address(n)))
    return (
        st.integers(0, 2**128 - 1)
        .map(ipaddress.IPv6Address)
        .filter(lambda a: a.ipv4_mapped is None)
        .map(str)
    )


def networks(family: Family) -> st.SearchStrategy[str]:
    bits = 32 if family is Family.IPV4 else 128
    return st.tuples(addresses(family), st.integers(0, bits)).map(
        lambda pair: str(ipaddress.ip_network(f"{pair[0]}/{pair[1]}", strict=False))
    )


def keys(layout: SetLayout, family: Family) -> st.SearchStrategy[Key]:
    address, protocol, port = (
        addresses(family),
        st.sampled_from([6, 17, 132]),
        st.integers(1, 65535),
    )
    match layout.keys:
        case Keys.FRONTEND:
            return st.tuples(address, protocol, port)
        case Keys.PORT:
            return st.tuples(protocol, port)
        case Keys.ADDRESS:
            return st.tuples(address)
        case Keys.FLOW:
            return st.tuples(address, address, protocol, port)
        case Keys.SOURCE:
            return st.tuples(address, protocol, port, networks(family))


def values(layout: SetLayout, family: Family) -> st.SearchStrategy[Value]:
    match layout.values:
        case Values.NONE:
            return st.none()
        case Values.VERDICT:
            chains = st.sampled_from(["drop", "refuse", "pick-1", "nodeport-masquerade-pick-12"])
            # nft's limit on comments is in bytes.
            comments = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=31)
            return st.builds(Verdict, chains, comments)
        case Values.SLOTS:
            backend = st.builds(Backend, addresses(family), st.integers(1, 65535))
            return st.lists(backend, min_size=1, max_size=8).map(tuple)


def entries(layout: SetLayout, family: Family) -> st.SearchStrategy[dict[Key, Value]]:
    return st.dictionaries(keys(layout, family), values(layout, family), max_size=12)
