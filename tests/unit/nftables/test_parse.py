"""What nft lists is read back as the elements it was written from, or called unreadable."""

from __future__ import annotations

import random
import re

import pytest

from netplane.core.model.address import Family
from netplane.core.nftables.compile import compile_family
from netplane.core.nftables.layout import SETS, Ruleset, Verdict
from netplane.core.nftables.listing import read_listing
from netplane.core.nftables.observed import HOLE, Observed
from netplane.core.nftables.parse import affinity_declaration, parse_table
from netplane.core.nftables.program import DIGEST_CHAIN, digest_of, is_follower
from netplane.core.nftables.text import element_texts
from netplane.core.plan.plan import FamilyPlan
from netplane.core.plan.port import Backend
from netplane.rendering import environment
from tests.support.port_plans import random_plan, translated, view


def listed(ruleset: Ruleset, counters: str = "") -> str:
    """The ruleset in the form `nft list table` prints: elements inside their sets."""
    text = ruleset.program
    for layout in SETS:
        elements = [
            re.sub(r"^([^:]*?)(?= comment|(?: :)|$)", rf"\1{counters}", element, count=1)
            if counters and layout.counter and ruleset.family is Family.IPV4
            else element
            for key, value in ruleset.elements[layout.name].items()
            for element in element_texts(layout.name, key, value, ruleset.family)
        ]
        if elements:
            joined = ",\n\t\t\t     ".join(elements)
            head = re.search(rf"\t(?:set|map) {layout.name} {{\n(?:\t\t.*\n)+", text)
            assert head is not None
            body = f"\t\telements = {{ {joined} }}\n"
            text = text[: head.end()] + body + text[head.end() :]
    blocks = [
        f"\tchain {n} {{\n\t\t" + "\n\t\t".join(r) + "\n\t}\n" for n, r in ruleset.chains.items()
    ]
    for name in ruleset.affinity_sets:
        lines = affinity_declaration(ruleset.family)
        blocks.append(f"\tset {name} {{\n\t\t" + "\n\t\t".join(lines) + "\n\t}\n")
    return text.rstrip("}\n") + "}\n" + "".join(blocks) + "}\n"


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("family", Family)
def test_round_trip(seed: int, family: Family) -> None:
    drawn = random_plan(random.Random(seed))
    if family is Family.IPV6:
        ports = tuple(map(translated, drawn.ports))
        drawn = FamilyPlan(view=view(Family.IPV6), ports=ports)
    ruleset = compile_family(drawn, environment())
    observed = parse_table(listed(ruleset, " counter packets 7 bytes 420"), family)
    program = read_listing(ruleset.program)
    assert observed.exists
    assert observed.elements == ruleset.elements
    assert observed.chains == {**program.chains, **ruleset.chains}
    assert observed.sets == program.sets
    assert observed.lines == program.lines
    assert observed.affinity_sets == dict.fromkeys(ruleset.affinity_sets, True)
    assert (observed.others, observed.unreadable) == ((), frozenset())


def table(name: str, elements: str) -> Observed:
    body = f"\t\tcounter\n\t\telements = {{ {elements} }}\n"
    text = f"table ip netplane {{\n\tmap {name} {{\n{body}\t}}\n}}\n"
    return parse_table(text, Family.IPV4)


def test_counters_are_kept_apart() -> None:
    text = (
        "172.30.0.1 . tcp . 80 . 1 counter packets 9 bytes 540 : 10.0.0.2 . 8080,\n"
        "\t\t\t     172.30.0.1 . tcp . 80 . 0 counter packets 4 bytes 240 : 10.0.0.1 . 8080"
    )
    observed = table("endpoints", text)
    key = ("172.30.0.1", 6, 80)
    assert observed.elements["endpoints"] == {
        key: (Backend("10.0.0.1", 8080), Backend("10.0.0.2", 8080))
    }
    assert observed.counters["endpoints"] == {key: (4, 9)}


def test_holes() -> None:
    observed = table("nodeport-endpoints", "udp . 30080 . 2 : 10.0.0.2 . 53")
    slots = (HOLE, HOLE, Backend("10.0.0.2", 53))
    assert observed.elements["nodeport-endpoints"] == {(17, 30080): slots}


@pytest.mark.parametrize(
    ("elements", "verdict"),
    [
        (
            '1.2.3.4 . tcp . 80 comment "default/web:http" : goto pick-3',
            ("pick-3", "default/web:http"),
        ),
        ("1.2.3.4 . 6 . 80 : drop", ("drop", "")),
        ("1.2.3.4 . tcp . 80 : jump pick-3", ("jump pick-3", "")),
        ('1.2.3.4 . tcp . 80 comment "a } : b, c" : drop', ("drop", "")),
        ('1.2.3.4 . tcp . 80 comment "\x1b[31m" : drop', ("drop", "")),
    ],
)
def test_verdicts(elements: str, verdict: tuple[str, str]) -> None:
    observed = table("services", elements)
    assert observed.elements["services"] == {("1.2.3.4", 6, 80): Verdict(*verdict)}
    assert not observed.unreadable


@pytest.mark.parametrize(
    ("name", "elements"),
    [
        ("services", "1.2.3.4 . icmp . 80 : drop"),
        ("services", "1.2.3.4 . tcp . 80 : drop, nonsense"),
        ("services", "1.2.3.4 . tcp . 80 timeout 3s : drop"),
        ("endpoints", "1.2.3.4 . tcp . 80 . 65536 : 10.0.0.1 . 80"),
    ],
)
def test_foreign_forms_are_unreadable(name: str, elements: str) -> None:
    assert table(name, elements).unreadable == {name}


@pytest.mark.parametrize(
    ("lines", "as_ours"),
    [
        (("type ipv4_addr", "size 65535", "flags dynamic,timeout"), True),
        pytest.param(
            ("type ipv4_addr", "size 65535", "flags dynamic,timeout", "timeout 3h"),
            True,
            id="as earlier versions made it",
        ),
        (("type ipv4_addr", "size 65535", "flags dynamic,timeout", "gc-interval 3h"), False),
        (("type ipv4_addr", "flags dynamic,timeout"), False),
        (("type ipv6_addr", "size 65535", "flags dynamic,timeout"), False),
        ((), False),
    ],
)
def test_affinity_sets(lines: tuple[str, ...], *, as_ours: bool) -> None:
    body = "".join(f"\t\t{line}\n" for line in lines)
    text = f"table ip netplane {{\n\tset affinity-x {{\n{body}\t}}\n}}\n"
    assert parse_table(text, Family.IPV4).affinity_sets == {"affinity-x": as_ours}


def test_objects_of_other_kinds_are_noticed() -> None:
    text = (
        "table ip netplane {\n\tcounter own {\n\t\tpackets 0 bytes 0\n\t}\n\tchain a {\n\t}\n}\n"
    )
    observed = parse_table(text, Family.IPV4)
    assert observed.others == ("counter own",)
    assert observed.chains == {"a": ()}


def test_the_digest_is_of_the_program_in_any_order() -> None:
    drawn = random_plan(random.Random(3))
    ruleset = compile_family(drawn, environment())
    whole = read_listing(listed(ruleset))
    followers = [*filter(is_follower, whole.chains), *ruleset.affinity_sets]
    assert set(filter(is_follower, whole.chains)) == set(ruleset.chains)
    digest = digest_of(whole, followers)
    assert whole.chains[DIGEST_CHAIN] == (f'return comment "program {digest}"',)
    whole.chains["source-ranges"] = ()
    assert digest_of(whole, followers) != digest
