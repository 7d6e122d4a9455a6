"""What is sent through the socket is what the kernel has, by dump and by nft's own listing."""

from __future__ import annotations

import errno
import json
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from netplane.apply.netns import Namespace
from netplane.apply.nfnetlink.commit import commit_all, following
from netplane.apply.nfnetlink.errors import TransactionRefusedError
from netplane.apply.nfnetlink.socket import NfnetlinkSocket
from netplane.core.model.address import Family
from netplane.core.nftables.diff import ElementDelta
from netplane.core.nftables.layout import SETS, Elements, Key, SetLayout, Value, Values, Verdict
from netplane.core.nftables.program import render_program
from netplane.core.nftables.wire import Message
from netplane.core.nftables.wire_elements import (
    add_elements,
    delete_elements,
    delete_slots,
    dump_request,
)
from netplane.core.nftables.wire_places import Place, read_places
from netplane.core.nftables.wire_rules import delete_chain, new_chain, new_chains
from netplane.core.nftables.wire_transactions import transactions
from netplane.core.plan.node import FamilyView
from netplane.core.plan.port import Backend
from netplane.errors import BusyError, RefusedError, StaleError
from netplane.rendering import environment
from tests.support.netns import run_tool

pytestmark = pytest.mark.kernel

LAYOUTS = {layout.name: layout for layout in SETS}
FAMILIES = [Family.IPV4, Family.IPV6]
TAKEN = {errno.EBUSY, errno.EEXIST}  # by the kernel's version: the key is there, otherwise
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}


def word(family: Family) -> str:
    return "ip" if family is Family.IPV4 else "ip6"


@pytest.fixture
def link(netns: Namespace) -> Iterator[NfnetlinkSocket]:
    """A socket in a namespace with the empty program of both families."""
    for family in FAMILIES:
        text = render_program(FamilyView(family=family), environment())
        run_tool(["nft", "-f", "-"], stdin=text, inside=netns)
    with NfnetlinkSocket(netns, timeout=20.0) as opened:
        yield opened


def example(family: Family, count: int = 40) -> Elements:
    """Something in every set."""
    v4 = family is Family.IPV4
    vip = "10.96.0.{}" if v4 else "fd00:96::{}"
    pod = "10.244.0.{}" if v4 else "fd00:244::{}"
    source = "203.0.113.0/24" if v4 else "2001:db8::/33"
    elements: Elements = {layout.name: {} for layout in SETS}
    for n in range(1, count + 1):
        backends = tuple(Backend(pod.format(n + i), 8080 + i) for i in range(n % 5 + 1))
        keys: dict[str, Key] = {"": (vip.format(n), 6, 80), "nodeport-": (17, 30000 + n)}
        elements["cluster-ips"][vip.format(n),] = None
        elements["nodeport-ips"][pod.format(n),] = None
        elements["hairpin"][pod.format(n), pod.format(n), 132, 8080] = None
        elements["allowed-sources"][vip.format(n), 6, 80, source] = None
        elements["restricted"][keys[""]] = None
        for prefix, key in keys.items():
            elements[f"{prefix}endpoints"][key] = backends
            elements[f"{prefix}local-endpoints"][key] = backends[:1]
            elements[f"{prefix}cluster-choice"][key] = Verdict("refuse", f"default/s{n}:http")
            elements[f"{prefix}local-choice"][key] = Verdict("refuse")
        elements["no-endpoints"][vip.format(n), 17, 53] = Verdict("refuse", f"default/s{n}")
        elements["no-endpoint-nodeports"][6, 31000 + n] = Verdict("drop", f"default/s{n}")
        elements["services"][keys[""]] = Verdict("refuse", f"default/s{n}:http")
        elements["nodeports"][keys["nodeport-"]] = Verdict("refuse", f"default/s{n}:http")
    return elements


def everything(elements: Elements) -> dict[str, ElementDelta]:
    return {
        name: ElementDelta(add=list(found.items())) for name, found in elements.items() if found
    }


def dumped(link: NfnetlinkSocket, family: Family) -> Elements:
    return {layout.name: link.dump_elements(family, layout).elements for layout in SETS}


def listed(netns: Namespace, family: Family, layout: SetLayout) -> dict[Key, Value]:
    """A set's elements as ``nft -j list`` tells them, read independently of our codec."""
    kind = "set" if layout.values is Values.NONE else "map"
    argv = ["nft", "-j", "list", kind, word(family), "netplane", layout.name]
    document = json.loads(run_tool(argv, inside=netns))
    (declared,) = (item[kind] for item in document["nftables"] if kind in item)
    slots: dict[Key, dict[int, Backend]] = {}
    found: dict[Key, Value] = {}
    for element in declared.get("elem", []):
        raw, value = element if layout.values is not Values.NONE else (element, {})
        comment = ""
        if isinstance(raw, dict) and "elem" in raw:
            comment = raw["elem"].get("comment", "")
            raw = raw["elem"]["val"]
        key = tuple(plain(field) for field in fields(raw))
        if layout.values is Values.SLOTS:
            address, port = value["concat"]
            slots.setdefault(key[:-1], {})[int(key[-1])] = Backend(address, port)
        elif layout.values is Values.VERDICT:
            verdict = value["goto"]["target"] if "goto" in value else next(iter(value))
            found[key] = Verdict(verdict, comment)
        else:
            found[key] = None
    for frontend, entry in slots.items():
        found[frontend] = tuple(entry[slot] for slot in range(len(entry)))
    return found


def fields(raw: Any) -> list[Any]:
    return raw["concat"] if isinstance(raw, dict) and "concat" in raw else [raw]


def plain(field: Any) -> str | int:
    if isinstance(field, dict):
        return f"{field['prefix']['addr']}/{field['prefix']['len']}"
    assert isinstance(field, (str, int)), field
    return PROTOCOLS.get(field, field) if isinstance(field, str) else field


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_sent_is_what_the_kernel_has(
    netns: Namespace, link: NfnetlinkSocket, family: Family
) -> None:
    elements = example(family)
    generation = link.generation()
    outcome = commit_all(link, transactions(family, everything(elements)), generation=generation)
    assert outcome.refused == ()
    assert outcome.transactions == 2  # what is asked first, and everything else
    assert outcome.generation == link.generation()
    assert dumped(link, family) == elements
    for layout in SETS:
        assert listed(netns, family, layout) == elements[layout.name], layout.name


@pytest.mark.parametrize("family", FAMILIES)
def test_what_nft_lists_loads_again_and_dumps_the_same(
    netns: Namespace, link: NfnetlinkSocket, family: Family
) -> None:
    elements = example(family)
    commit_all(link, transactions(family, everything(elements)), generation=None)
    argv = ["nft", "list", "table", word(family), "netplane"]
    text = run_tool(argv, inside=netns)
    run_tool(
        ["nft", "-f", "-"], stdin=f"delete table {word(family)} netplane\n{text}", inside=netns
    )
    assert dumped(link, family) == elements


def test_many_small_transactions_come_to_the_same(link: NfnetlinkSocket) -> None:
    elements = example(Family.IPV4, 100)
    series = transactions(Family.IPV4, everything(elements), limit=50)
    outcome = commit_all(link, series, generation=link.generation())
    assert outcome.transactions > 10
    assert outcome.generation == link.generation()
    assert dumped(link, Family.IPV4) == elements


def test_everything_can_be_deleted_again(link: NfnetlinkSocket) -> None:
    elements = example(Family.IPV4)
    commit_all(link, transactions(Family.IPV4, everything(elements)), generation=None)
    gone = {name: ElementDelta(delete=list(found.items())) for name, found in elements.items()}
    commit_all(link, transactions(Family.IPV4, gone), generation=None)
    assert dumped(link, Family.IPV4) == {layout.name: {} for layout in SETS}


def test_a_flush_empties_a_set_and_fills_it_anew(link: NfnetlinkSocket) -> None:
    elements = example(Family.IPV4)
    commit_all(link, transactions(Family.IPV4, everything(elements)), generation=None)
    services = dict(list(elements["services"].items())[:3])
    delta = ElementDelta(flush=True, add=list(services.items()))
    commit_all(link, transactions(Family.IPV4, {"services": delta}), generation=None)
    assert link.dump_elements(Family.IPV4, LAYOUTS["services"]).elements == services


def test_counters_start_at_nothing(link: NfnetlinkSocket) -> None:
    elements = example(Family.IPV4)
    commit_all(link, transactions(Family.IPV4, everything(elements)), generation=None)
    dump = link.dump_elements(Family.IPV4, LAYOUTS["endpoints"])
    assert {key: len(value) for key, value in dump.packets.items()} == {
        key: len(value) for key, value in dump.elements.items() if value is not None
    }
    assert sum(map(sum, dump.packets.values())) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_chains_are_listed_in_the_words_they_were_given(
    netns: Namespace, link: NfnetlinkSocket, family: Family
) -> None:
    ip = word(family)
    picks = {
        prefix: f"dnat {ip} to {key}meta l4proto . th dport . numgen random mod 7 map @{prefix}"
        for prefix, key in (("endpoints", f"{ip} daddr . "), ("nodeport-endpoints", ""))
    }
    mark = "meta mark set meta mark | 0x00004000"
    chains = {
        "pick-7": (picks["endpoints"],),
        "masquerade-pick-7": (mark, picks["endpoints"]),
        "nodeport-pick-7": (picks["nodeport-endpoints"],),
        "masquerade-sticky": (mark, "goto pick-7"),
    }
    messages = new_chains(family, chains)
    assert messages is not None
    before = link.chains(family)
    commit_all(link, [messages], generation=None)
    for name, rules in chains.items():
        text = run_tool(["nft", "list", "chain", ip, "netplane", name], inside=netns)
        lines = tuple(line.strip() for line in text.splitlines())[2:-2]
        assert lines == rules
    assert link.chains(family) == before | set(chains)
    gone = [m for name in reversed(chains) for m in delete_chain(family, name)]
    commit_all(link, [gone], generation=None)
    assert link.chains(family) == before


def test_the_chains_of_another_table_are_not_ours(netns: Namespace, link: NfnetlinkSocket) -> None:
    run_tool(["nft", "add table ip other; add chain ip other stranger"], inside=netns)
    run_tool(["nft", "delete table ip6 netplane"], inside=netns)
    assert "stranger" not in link.chains(Family.IPV4)
    assert "balance" in link.chains(Family.IPV4)
    assert link.chains(Family.IPV6) == frozenset()


def add(count: int, start: int = 0, chain: str = "refuse") -> list[Message]:
    items: dict[Key, Value] = {
        (f"10.96.{n >> 8}.{n & 255}", 6, 80): Verdict(chain, f"default/s{n}")
        for n in range(start, start + count)
    }
    return list(add_elements(LAYOUTS["services"], Family.IPV4, items.items()))


def test_the_generation_is_a_lock(netns: Namespace, link: NfnetlinkSocket) -> None:
    generation = link.generation()
    run_tool(["nft", "add table ip other"], inside=netns)
    assert link.generation() == following(generation)
    with pytest.raises(StaleError):
        link.commit(add(3), generation=generation)
    assert link.dump_elements(Family.IPV4, LAYOUTS["services"]).elements == {}
    link.commit(add(3), generation=link.generation())
    assert len(link.dump_elements(Family.IPV4, LAYOUTS["services"]).elements) == 3


def test_reading_leaves_the_generation_alone(link: NfnetlinkSocket) -> None:
    generation = link.generation()
    link.commit([], generation=generation)
    dumped(link, Family.IPV4)
    link.chains(Family.IPV4)
    assert link.generation() == generation


def test_a_refusal_names_the_element_and_nothing_is_written(link: NfnetlinkSocket) -> None:
    messages = [*add(5), *add(1, start=77, chain="nowhere"), *add(5, start=200)]
    with pytest.raises(TransactionRefusedError) as caught:
        link.commit(messages, generation=None)
    (refusal,) = caught.value.refusals
    assert (refusal.message, refusal.errno) == (1, errno.ENOENT)
    assert refusal.place == Place(LAYOUTS["services"], ("10.96.0.77", 6, 80), -1, "nowhere")
    assert "10.96.0.77 . 6 . 80" in str(caught.value)
    assert caught.value.errno == errno.ENOENT
    assert link.dump_elements(Family.IPV4, LAYOUTS["services"]).elements == {}


def test_the_element_is_found_in_the_middle_of_a_message(link: NfnetlinkSocket) -> None:
    link.commit(add(1, start=300), generation=None)
    with pytest.raises(TransactionRefusedError) as caught:
        link.commit(add(400, start=100, chain="program"), generation=None)
    (refusal,) = caught.value.refusals
    assert refusal.errno in TAKEN
    assert refusal.place is not None
    assert refusal.place.key == ("10.96.1.44", 6, 80)


def test_a_hundred_errors_are_all_told(link: NfnetlinkSocket) -> None:
    """ENOENT for elements that are not there, another for those that are there otherwise."""
    link.commit(add(50), generation=None)
    absent = [
        message
        for n in range(1000, 1050)
        for message in delete_slots(LAYOUTS["endpoints"], Family.IPV4, [(("10.96.0.1", 6, 80), n)])
    ]
    taken = [message for n in range(50) for message in add(1, start=n, chain="program")]
    with pytest.raises(TransactionRefusedError) as caught:
        link.commit([*absent, *taken], generation=None)
    refusals = caught.value.refusals
    assert [refusal.message for refusal in refusals] == list(range(100))
    assert {refusal.errno for refusal in refusals[:50]} == {errno.ENOENT}
    assert {refusal.errno for refusal in refusals[50:]} <= TAKEN
    slots = [refusal.place.slot for refusal in refusals if refusal.place is not None]
    assert slots == [*range(1000, 1050), *[-1] * 50]


def test_overlapping_source_ranges_are_told_by_range(link: NfnetlinkSocket) -> None:
    front = ("10.96.0.1", 6, 80)
    items: dict[Key, Value] = {(*front, "10.0.0.0/8"): None, (*front, "10.1.0.0/16"): None}
    with pytest.raises(TransactionRefusedError) as caught:
        link.commit(
            list(add_elements(LAYOUTS["allowed-sources"], Family.IPV4, items.items())),
            generation=None,
        )
    (refusal,) = caught.value.refusals
    assert refusal.errno == errno.EEXIST
    assert refusal.place == Place(LAYOUTS["allowed-sources"], (*front, "10.1.0.0/16"))


def test_refused_elements_leave_with_their_frontend_and_the_rest_is_done(
    link: NfnetlinkSocket,
) -> None:
    elements = example(Family.IPV4, 200)
    frontends = list(elements["services"])
    wrong = frontends[10:110:2]  # fifty of them, spread over the messages
    for key in wrong:
        elements["services"][key] = Verdict("nowhere", "default/wrong")
    overlapping = frontends[150]
    elements["allowed-sources"][*overlapping, "203.0.113.7/32"] = None
    series = transactions(Family.IPV4, everything(elements), limit=1 << 30)
    outcome = commit_all(link, series, generation=link.generation())
    refused = {r.place.frontend for r in outcome.refused if r.place is not None}
    assert refused == {*wrong, overlapping}
    assert len(outcome.refused) == len(wrong) + 1
    assert outcome.generation == link.generation()
    for name, found in dumped(link, Family.IPV4).items():
        layout = LAYOUTS[name]
        # Who may come in is there before the verdict is refused, and harms nobody without it.
        missing = {overlapping} if layout.asked_first else refused
        assert found == {
            key: value
            for key, value in elements[name].items()
            if Place(layout, key).frontend not in missing
        }, name


def test_what_is_refused_in_one_transaction_stays_out_of_the_next(link: NfnetlinkSocket) -> None:
    """Data is written before verdicts, so a verdict must not follow where data was refused."""
    elements = example(Family.IPV4, 60)
    front = list(elements["services"])[5]
    elements["allowed-sources"][*front, "203.0.113.7/32"] = None
    series = transactions(Family.IPV4, everything(elements), limit=50)
    outcome = commit_all(link, series, generation=link.generation())
    assert outcome.transactions > 5
    assert [r.place.frontend for r in outcome.refused if r.place is not None] == [front]
    services = link.dump_elements(Family.IPV4, LAYOUTS["services"]).elements
    assert services.keys() == elements["services"].keys() - {front}


def test_a_deletion_of_what_is_gone_keeps_nothing_else_from_going(link: NfnetlinkSocket) -> None:
    link.commit(add(10), generation=None)
    items: dict[Key, Value] = {(f"10.96.0.{n}", 6, 80): Verdict("refuse") for n in range(5, 15)}
    series = [list(delete_elements(LAYOUTS["services"], Family.IPV4, items.items()))]
    outcome = commit_all(link, series, generation=None)
    assert {r.errno for r in outcome.refused} == {errno.ENOENT}
    assert len(outcome.refused) == 5
    assert len(link.dump_elements(Family.IPV4, LAYOUTS["services"]).elements) == 5


def test_a_refused_chain_takes_what_leads_there_along(link: NfnetlinkSocket) -> None:
    rule = new_chains(Family.IPV4, {"pick-1": ("goto nowhere",)})
    assert rule is not None
    messages = [*rule, *add(3, chain="pick-1"), *add(3, start=50)]
    outcome = commit_all(link, [messages], generation=None)
    assert [r.place.chain for r in outcome.refused if r.place is not None] == ["pick-1"]
    services = link.dump_elements(Family.IPV4, LAYOUTS["services"]).elements
    assert set(services.values()) == {Verdict("refuse", f"default/s{n}") for n in range(50, 53)}
    assert "pick-1" not in link.chains(Family.IPV4)


def test_a_chain_in_use_stays(link: NfnetlinkSocket) -> None:
    link.commit([new_chain(Family.IPV4, "pick-1"), *add(1, chain="pick-1")], generation=None)
    with pytest.raises(TransactionRefusedError) as caught:
        link.commit(list(delete_chain(Family.IPV4, "pick-1")), generation=None)
    (refusal,) = caught.value.refusals
    assert (refusal.errno, str(refusal.place)) == (errno.EBUSY, "chain pick-1")


def test_a_table_that_is_not_there(netns: Namespace, link: NfnetlinkSocket) -> None:
    run_tool(["nft", "delete table ip netplane"], inside=netns)
    with pytest.raises(RefusedError, match="services") as caught:
        link.dump_elements(Family.IPV4, LAYOUTS["services"])
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(TransactionRefusedError) as refused:
        commit_all(link, [add(100)], generation=None)
    assert refused.value.refusals[0].errno == errno.ENOENT
    assert refused.value.refusals[0].place is None
    assert link.dump_elements(Family.IPV6, LAYOUTS["services"]).elements == {}


def test_a_lost_answer_is_not_mistaken_for_success(netns: Namespace) -> None:
    """With a receive buffer for a few errors only, the kernel's list of them overflows."""
    text = render_program(FamilyView(family=Family.IPV4), environment())
    run_tool(["nft", "-f", "-"], stdin=text, inside=netns)
    with NfnetlinkSocket(netns, timeout=20.0, receive_buffer=1) as narrow:
        wrong = [message for n in range(200) for message in add(1, start=n, chain="nowhere")]
        with pytest.raises(BusyError, match="nothing was written"):
            narrow.commit(wrong, generation=None)
        # The socket is as good as before.
        narrow.commit(add(3), generation=narrow.generation())
        assert len(narrow.dump_elements(Family.IPV4, LAYOUTS["services"]).elements) == 3


def test_without_the_privilege_it_says_so(netns: Namespace) -> None:
    script = (
        "from netplane.apply.netns import Namespace\n"
        "from netplane.apply.nfnetlink.socket import NfnetlinkSocket\n"
        "from netplane.errors import PrivilegeError\n"
        "with Namespace() as here, NfnetlinkSocket(here) as link:\n"
        "    try:\n"
        "        link.generation()\n"
        "    except PrivilegeError as exc:\n"
        "        print(exc)\n"
    )
    dropped = ["setpriv", "--inh-caps=-net_admin", "--bounding-set=-net_admin"]
    said = run_tool([*dropped, sys.executable, "-c", script], inside=netns)
    assert "CAP_NET_ADMIN" in said


def test_an_abandoned_dump_does_not_disturb_the_next(link: NfnetlinkSocket) -> None:
    link.commit(add(3000), generation=None)
    for _ in range(3):
        replies = link._ask(dump_request(LAYOUTS["services"], Family.IPV4))
        assert next(replies).body
        assert link.generation() > 0
    assert len(link.dump_elements(Family.IPV4, LAYOUTS["services"]).elements) == 3000


def test_a_set_that_changes_while_it_is_read_is_read_again(
    netns: Namespace, link: NfnetlinkSocket
) -> None:
    """Another socket commits without pause: a dump is from one moment, or is refused as stale."""
    link.commit(add(3000), generation=None)
    done = threading.Event()

    def disturb() -> None:
        with NfnetlinkSocket(netns) as other:
            for n in range(400):
                other.commit(add(1, start=5000 + n), generation=None)
                if done.is_set():
                    return

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        dump = link.dump_elements(Family.IPV4, LAYOUTS["services"])
    except StaleError:
        dump = None
    finally:
        done.set()
        thread.join()
    if dump is not None:
        assert keys_of(add(3000)) <= dump.elements.keys()
    services = link.dump_elements(Family.IPV4, LAYOUTS["services"]).elements
    assert keys_of(add(3000)) <= services.keys()


def test_a_dump_is_whole_while_the_kernel_reorders_the_set(link: NfnetlinkSocket) -> None:
    """A set that grew is rehashed in the background, and a dump is resumed by counting."""
    sent: set[Key] = set()
    for n in range(60):
        messages = add(100, start=100 * n)
        sent |= keys_of(messages)
        link.commit(messages, generation=None)
        assert link.dump_elements(Family.IPV4, LAYOUTS["services"]).elements.keys() == sent


def keys_of(messages: list[Message]) -> set[Key]:
    return {place.key for message in messages for place, _ in read_places(message)}
