"""A change cut into transactions: all of it, in an order in which every step serves."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from netplane.core.model.address import Family
from netplane.core.nftables.diff import WHOLE, ElementDelta, diff
from netplane.core.nftables.layout import SETS, Elements, Key, Ruleset, Value, Values, Verdict
from netplane.core.nftables.observed import Observed
from netplane.core.nftables.wire import Message, MessageType
from netplane.core.nftables.wire_elements import add_elements
from netplane.core.nftables.wire_places import Place, locate, read_places
from netplane.core.nftables.wire_rules import delete_chain, new_chain
from netplane.core.nftables.wire_transactions import transactions
from netplane.core.plan.port import Backend
from tests.unit.wire.elements import LAYOUTS

FAMILY = Family.IPV4
PROGRAM = "table ip netplane {\n\tchain program {\n\t}\n}\n"

Kernel = dict[str, dict[tuple[Key, int], object]]  # per set, element by element


class Refused(Exception):  # noqa: N818 (a refusal, not an error)
    """The kernel would refuse this transaction."""


def commit(kernel: Kernel, messages: list[Message]) -> Kernel:
    """What the kernel makes of a transaction, in terms of which elements there are."""
    after = {name: dict(elements) for name, elements in kernel.items()}
    for message in messages:
        if message.layout is None:
            continue
        elements = after.setdefault(message.layout.name, {})
        if message.kind == MessageType.NFT_MSG_DELSETELEM and not message.elements:
            elements.clear()
        for place, value in read_places(message):
            at = (place.key, place.slot)
            if message.kind == MessageType.NFT_MSG_NEWSETELEM:
                if at in elements and elements[at] != value:
                    raise Refused(place)
                elements[at] = value
            elif elements.pop(at, Refused) is Refused:
                raise Refused(place)
    return after


def flat(elements: Elements) -> Kernel:
    """Typed elements as the kernel has them."""
    kernel: Kernel = {}
    for layout in SETS:
        messages = list(add_elements(layout, FAMILY, elements[layout.name].items()))
        kernel |= commit({layout.name: {}}, messages)
    return kernel


def served(kernel: Kernel) -> dict[Key, list[object]]:
    """Per frontend in `services`, what its pick chain can choose; a hole is a lost connection."""
    chosen = {}
    for (key, _), value in kernel.get("services", {}).items():
        assert isinstance(value, Verdict)
        slots = int(value.chain.removeprefix("pick-"))
        chosen[key] = [kernel["endpoints"].get((key, slot)) for slot in range(slots)]
    return chosen


backends = st.lists(
    st.integers(1, 9).map(lambda n: Backend(f"10.0.0.{n}", 80)),
    min_size=1,
    max_size=6,
    unique=True,
).map(tuple)
clusters = st.dictionaries(st.integers(1, 40), backends, max_size=30)


def elements(cluster: dict[int, tuple[Backend, ...]]) -> Elements:
    found: Elements = {layout.name: {} for layout in SETS}
    for number, value in cluster.items():
        key: Key = (f"10.96.0.{number}", 6, 80)
        found["endpoints"][key] = value
        found["services"][key] = Verdict(f"pick-{len(value)}", f"default/s{number}")
        for backend in value[:3]:
            # Ranges come and go with the backends; one-address ones never overlap.
            found["allowed-sources"][*key, f"{backend.address}/32"] = None
        found["restricted"][key] = None
        found["cluster-ips"][key[:1]] = None
    return found


def change(old: Elements, new: Elements) -> dict[str, ElementDelta]:
    desired = Ruleset(
        family=FAMILY, program=PROGRAM, chains={}, affinity_sets=frozenset(), elements=new
    )
    observed = Observed(family=FAMILY, exists=True, chains={"program": ()}, elements=old)
    return diff(desired, observed).elements


@given(old=clusters, new=clusters, limit=st.integers(1, 50))
@settings(max_examples=60, deadline=None)
def test_every_transaction_leaves_every_frontend_whole(
    old: dict[int, tuple[Backend, ...]], new: dict[int, tuple[Backend, ...]], limit: int
) -> None:
    before, wanted = elements(old), elements(new)
    kernel = flat(before)
    for messages in transactions(FAMILY, change(before, wanted), limit=limit):
        past, kernel = kernel, commit(kernel, messages)
        for key, slots in served(kernel).items():
            assert None not in slots, key
        for key, _ in kernel["services"].keys() - past["services"].keys():
            # A packet that has been asked in the past may find the way now.
            assert (key, WHOLE) in past["restricted"]
            assert (key[:1], WHOLE) in past["cluster-ips"]
        for key, _ in kernel["restricted"]:
            assert any(source[:3] == key for source, _ in kernel["allowed-sources"]), key
    reached = {key: set(slots) for key, slots in served(kernel).items()}
    assert reached == {
        key: set(value) for key, value in wanted["endpoints"].items() if isinstance(value, tuple)
    }
    assert {name: set(found) for name, found in kernel.items() if name != "endpoints"} == {
        name: set(found) for name, found in flat(wanted).items() if name != "endpoints"
    }


def test_a_small_change_is_one_transaction() -> None:
    delta = ElementDelta(add=[(("10.96.0.1", 6, 80), Verdict("drop"))])
    (messages,) = transactions(FAMILY, {"services": delta})
    assert [message.elements for message in messages] == [1]


def test_chains_come_before_what_leads_to_them_and_go_after() -> None:
    delta = ElementDelta(add=[(("10.96.0.1", 6, 80), Verdict("drop"))])
    before, after = [new_chain(FAMILY, "pick-1")], delete_chain(FAMILY, "pick-2")
    come, lead, go = transactions(FAMILY, {"services": delta}, before=before, after=after)
    assert [message.chain for message in come] == ["pick-1"]
    assert [message.layout and message.layout.name for message in lead] == ["services"]
    assert [message.chain for message in go] == ["pick-2", "pick-2"]


def test_what_packets_are_led_to_goes_when_nothing_leads_there() -> None:
    """One endpoint less: the last one moves into its slot, and its own goes afterwards."""
    key = ("10.96.0.1", 6, 80)
    deltas = {
        "allowed-sources": ElementDelta(delete=[((*key, "10.0.0.0/8"), None)]),
        "restricted": ElementDelta(delete=[(key, None)]),
        "endpoints": ElementDelta(
            delete_slots=[(key, 0), (key, 2)], add_slots=[(key, 0, Backend("10.0.0.3", 80))]
        ),
        "services": ElementDelta(
            delete=[(key, Verdict("goto", "pick-3"))], add=[(key, Verdict("goto", "pick-2"))]
        ),
    }
    first, second = transactions(FAMILY, deltas)
    assert [(m.layout and m.layout.name, m.kind.name[8:11]) for m in first] == [
        ("restricted", "DEL"),
        ("endpoints", "DEL"),
        ("endpoints", "NEW"),
        ("services", "DEL"),
        ("services", "NEW"),
    ]
    assert [(m.layout and m.layout.name, m.kind.name[8:11], m.elements) for m in second] == [
        ("allowed-sources", "DEL", 1),
        ("endpoints", "DEL", 1),
    ]


def test_what_is_asked_before_the_way_to_an_endpoint_comes_before_it() -> None:
    key: Key = ("10.96.0.1", 6, 80)
    deltas = {
        "cluster-ips": ElementDelta(add=[(("10.96.0.1",), None)]),
        "allowed-sources": ElementDelta(add=[((*key, "10.0.0.0/8"), None)]),
        "restricted": ElementDelta(add=[(key, None)]),
        "endpoints": ElementDelta(add=[(key, (Backend("10.0.0.3", 80),))]),
        "no-endpoints": ElementDelta(delete=[(key, Verdict("refuse"))]),
        "services": ElementDelta(add=[(key, Verdict("pick-1"))]),
    }
    come = [new_chain(FAMILY, "pick-1")]
    ahead, first, second = transactions(FAMILY, deltas, before=come)
    assert [m.layout and m.layout.name for m in ahead] == [
        None,
        "cluster-ips",
        "allowed-sources",
        "restricted",
    ]
    assert [m.layout and m.layout.name for m in first] == ["endpoints", "services"]
    assert [m.layout and m.layout.name for m in second] == ["no-endpoints"]
    # Ranges that replace others of their frontend cannot come before these go.
    old: Key = (*key, "10.0.0.0/9")
    deltas["allowed-sources"].delete.append((old, None))
    ahead, first, _ = transactions(FAMILY, deltas)
    assert [m.layout and m.layout.name for m in ahead] == ["cluster-ips", "restricted"]
    assert [m.layout and m.layout.name for m in first] == [
        "allowed-sources",
        "allowed-sources",
        "endpoints",
        "services",
    ]


def test_no_change_is_no_transaction() -> None:
    assert list(transactions(FAMILY, {})) == []
    assert list(transactions(FAMILY, {"services": ElementDelta()})) == []


def test_data_comes_before_the_verdicts_that_reach_it() -> None:
    new = elements({n: (Backend("10.0.0.1", 80),) * 3 for n in range(1, 101)})
    deltas = {name: ElementDelta(add=list(found.items())) for name, found in new.items() if found}
    series = list(transactions(FAMILY, deltas, limit=100))
    order = [m.layout.name for messages in series for m in messages if m.layout is not None]
    assert len(series) > 3
    assert order == sorted(order, key=[layout.name for layout in SETS].index)


def test_a_set_that_is_emptied_first_travels_with_everything() -> None:
    deltas = {
        "services": ElementDelta(
            flush=True,
            add=[((f"10.96.0.{n}", 6, 80), Verdict("drop")) for n in range(100)],
        )
    }
    (messages,) = transactions(FAMILY, deltas, limit=10)
    assert [message.elements for message in messages] == [0, 100]


def test_messages_stay_below_the_limit_of_an_attribute() -> None:
    long = Verdict("pick-" + "1" * 100, "c" * 127)
    items: dict[Key, Value] = {(f"10.96.{n >> 8}.{n & 255}", 6, 80): long for n in range(2000)}
    messages = list(add_elements(LAYOUTS["services"], FAMILY, items.items()))
    assert sum(message.elements for message in messages) == 2000
    assert max(len(message.attributes) for message in messages) < 0xFFFF
    one: dict[Key, Value] = {
        ("10.96.0.1", 6, 80): tuple(Backend("10.0.0.1", 1 + n) for n in range(5000))
    }
    cut = list(add_elements(LAYOUTS["endpoints"], FAMILY, one.items()))
    assert sum(message.elements for message in cut) == 5000
    assert [place.slot for m in cut for place, _ in read_places(m)] == list(range(5000))


def test_an_offset_is_resolved_to_its_element() -> None:
    items: dict[Key, Value] = {
        (f"10.96.0.{n}", 6, 80): Verdict("pick-1", "x" * n) for n in range(5)
    }
    (message,) = add_elements(LAYOUTS["services"], FAMILY, items.items())
    found = {
        place.key
        for offset in range(20 + len(message.attributes))
        if (place := locate(message, offset)) is not None
    }
    assert found == set(items)
    assert locate(message, 0) is None
    assert locate(message, 20) is None
    chain = new_chain(FAMILY, "pick-1")
    assert locate(chain, 36) == Place(None, chain="pick-1")


def test_every_shape_of_delta_is_covered() -> None:
    """The random changes above know these kinds of set; a new kind needs a new case."""
    assert {layout.values for layout in SETS} == set(Values)
