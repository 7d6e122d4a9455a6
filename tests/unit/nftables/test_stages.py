"""What takes nft is written in an order in which no packet is led to what is not there."""

from __future__ import annotations

import msgspec

from netplane.core.model.address import Family
from netplane.core.nftables.diff import Delta, diff, is_elementary, postponed
from netplane.core.nftables.layout import Verdict
from netplane.core.nftables.observed import Observed
from netplane.core.nftables.program import ROOM
from netplane.core.nftables.stages import Stages
from netplane.core.nftables.text import script
from tests.support.port_plans import backends, port
from tests.support.rulesets import as_observed, compiled

A, B = backends("10.0.0.1", "10.0.0.2")
MANY = backends(*(f"10.0.1.{i}" for i in range(1, ROOM + 3)))
WEB = ("172.30.0.1", 6, 80)


def test_pick_chains_of_an_existing_table_travel_apart() -> None:
    old = compiled(port("web", cluster=MANY))
    new = compiled(
        port("web", cluster=MANY[:-1]), port("sticky", 2, cluster=(A,), affinity_seconds=9)
    )
    stages = Stages.of(diff(new, as_observed(old)))
    assert set(stages.picks.chains) == {f"pick-{ROOM + 1}"}
    assert is_elementary(stages.picks)
    assert not stages.picks.elements
    assert f"pick-{ROOM + 1}" not in stages.come.chains
    assert not stages.turn
    assert stages.lead.delete_chains == (f"pick-{ROOM + 2}",)


def test_a_new_table_is_the_program_then_everything_else() -> None:
    web = compiled(port("web", cluster=(A,)), port("sticky", 2, cluster=(A,), affinity_seconds=9))
    stages = Stages.of(diff(web, Observed(family=Family.IPV4)))
    assert not stages.picks
    assert stages.come.program == web.program
    assert not stages.come.elements
    assert not stages.turn
    assert is_elementary(stages.lead)
    assert stages.lead.elements
    assert not stages.gone


def test_what_comes_is_there_before_anything_leads_to_it() -> None:
    plain = compiled(port("web", cluster=(A, B)))
    sticky = compiled(port("web", cluster=(A, B), affinity_seconds=9))
    stages = Stages.of(diff(sticky, as_observed(plain)))
    assert set(stages.come.chains) == set(sticky.chains) - set(plain.chains)
    assert set(stages.come.add_affinity_sets) == sticky.affinity_sets
    assert not stages.come.elements
    assert not stages.turn
    assert is_elementary(stages.lead)
    assert stages.lead.elements
    assert not stages.gone
    stages = Stages.of(diff(plain, as_observed(sticky)))
    assert is_elementary(stages.lead)
    assert set(sticky.chains) - set(plain.chains) <= set(stages.lead.delete_chains)
    assert set(stages.gone.delete_affinity_sets) == set(sticky.affinity_sets)
    assert stages.gone == Delta(
        family=Family.IPV4, delete_affinity_sets=stages.gone.delete_affinity_sets
    )


def test_chains_that_end_are_emptied_when_nothing_leads_there_even_if_they_go_later() -> None:
    plain = compiled(port("web", cluster=(A, B)))
    sticky = compiled(port("web", cluster=(A, B), affinity_seconds=9))
    now, _ = postponed(diff(plain, as_observed(sticky)))
    stages = Stages.of(now)
    assert not stages.come.flush_chains
    assert set(sticky.chains) - set(plain.chains) <= set(stages.lead.flush_chains)


def test_with_a_program_what_comes_turns_and_what_goes_waits() -> None:
    old = compiled(port("web", cluster=(A, B)), port("gone", 2, cluster=(A,)))
    new = compiled(
        port("web", cluster=(A,)),
        port("sticky", 3, cluster=(A,), affinity_seconds=9),
        masquerade_all=True,
    )
    stages = Stages.of(diff(new, as_observed(old)))
    assert set(stages.come.chains) == set(new.chains) - set(old.chains)
    assert set(stages.come.add_affinity_sets) == new.affinity_sets
    assert not stages.come.elements
    turn = stages.turn
    assert turn.program == new.program
    assert not turn.delete_chains
    assert (WEB, Verdict("pick-1", "default/web:http")) in turn.elements["services"].add
    assert [key for key, _ in turn.elements["services"].delete] == [WEB]
    assert "endpoints" not in turn.elements
    assert is_elementary(stages.lead)
    assert stages.lead.elements["endpoints"].delete_slots == [(WEB, 1)]
    assert [key for key, _ in stages.lead.elements["services"].delete] == [("172.30.0.2", 6, 80)]
    assert "10.0.0.2" not in script(turn)


def test_node_ports_move_to_a_set_of_addresses_at_once_and_from_it_afterwards() -> None:
    listed = compiled(port("web", cluster=(A,), node_port=30001))
    every = compiled(port("web", cluster=(A,), node_port=30001), node_port_addresses=None)
    there = Stages.of(diff(listed, as_observed(every)))
    assert there.turn.elements["nodeport-ips"].add
    assert not there.lead.elements
    back = Stages.of(diff(every, as_observed(listed)))
    assert not back.turn.elements
    assert back.lead.elements["nodeport-ips"].delete


def test_chains_written_anew_turn_with_the_program() -> None:
    """They may set the mark that the program looks for."""
    sticky = port("web", cluster=(A,), node_port=30001, affinity_seconds=9)
    old, new = compiled(sticky), compiled(sticky, masquerade_mark=1 << 20)
    stages = Stages.of(diff(new, as_observed(old)))
    assert not stages.come
    assert [name.partition("-")[0] for name in stages.turn.chains] == ["masquerade"]
    assert set(stages.turn.chains) <= set(stages.turn.flush_chains)
    assert not stages.lead


def test_what_somebody_has_declared_in_another_way_is_one_transaction() -> None:
    wanted = compiled(port("web", cluster=(A,), affinity_seconds=60), masquerade_all=True)
    foreign = msgspec.structs.replace(
        as_observed(wanted), affinity_sets=dict.fromkeys(wanted.affinity_sets, False)
    )
    delta = diff(wanted, foreign)
    assert Stages.of(delta).turn == delta
    unreadable = msgspec.structs.replace(
        as_observed(compiled()), unreadable=frozenset({"services"})
    )
    delta = diff(wanted, unreadable)
    assert Stages.of(delta).turn.elements["services"].flush
    assert not Stages.of(delta).lead
