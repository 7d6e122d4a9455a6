"""Single-rule commands turn a chain into another, or there are none."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netplane.core.iptables.edits import edits
from tests.unit.iptables.memory import MemoryTables

CHAIN = "KUBE-SERVICES"
RULES = tuple(f"-A {CHAIN} -d 10.0.0.{n}/32 -j KUBE-SVC-{n}" for n in range(100))


def after(old: tuple[str, ...], commands: tuple[str, ...]) -> tuple[str, ...]:
    """What the commands make of a chain."""
    kernel = MemoryTables()
    targets = [f":KUBE-SVC-{n} - [0:0]" for n in range(100)]
    lines = [f":{CHAIN} - [0:0]", *targets, *old, *commands]
    kernel.restore("\n".join(["*nat", *lines, "COMMIT", ""]))
    return tuple(kernel.tables["nat"][CHAIN])


@given(st.sets(st.sampled_from(range(100)), max_size=5), st.sets(st.integers(0, 99), max_size=5))
def test_rules_come_and_go_in_their_places(gone: set[int], come: set[int]) -> None:
    old = tuple(rule for n, rule in enumerate(RULES) if n not in come - gone)
    new = tuple(rule for n, rule in enumerate(RULES) if n not in gone)
    commands = edits(CHAIN, old, new)
    assert after(old, commands) == new
    assert len(commands) == len(set(old) ^ set(new))


def test_what_is_no_edit_is_left_to_a_whole_write() -> None:
    assert edits(CHAIN, RULES, RULES[:50]) == ()  # too many
    assert edits(CHAIN, RULES, (*RULES[1:], RULES[0])) == ()  # another order
    assert edits(CHAIN, (*RULES, RULES[0]), RULES) == ()  # one is there twice
    assert edits(CHAIN, (), RULES[:3]) == ()  # from nothing
