from __future__ import annotations

import msgspec

from netplane.core.iptables.compile import compile_jumps
from netplane.core.iptables.diff import Delta, diff, removal
from netplane.core.iptables.layout import Ruleset
from netplane.core.iptables.parse import Observed, parse_save
from netplane.rendering import environment
from tests.unit.iptables.plans import port, ruleset, saved, view

OLD = port(cluster=("10.180.0.1:80", "10.180.0.2:80"))
LOCALHOST = msgspec.structs.replace(view(), localhost_node_ports=True)
KUBELET_RULE = "-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP"


def observed(compiled: Ruleset, *edits: tuple[str, str]) -> Observed:
    """What a kernel holds that has these chains, after textual edits of its save."""
    text = saved(compiled)
    for old, new in edits:
        assert old in text
        text = text.replace(old, new, 1)
    return parse_save(text)


def test_the_difference_to_itself_is_empty() -> None:
    desired = ruleset(OLD, port("ns1/svc2", "172.30.0.42"), on=LOCALHOST)
    assert not diff(desired, observed(desired))


def test_an_empty_kernel_gets_everything() -> None:
    desired = ruleset(OLD)
    delta = diff(desired, Observed())
    assert delta.nat.writes == desired.tables["nat"]
    assert delta.filter.writes == desired.tables["filter"]
    assert len(delta.nat.additions) == 3
    assert len(delta.filter.additions) == 11
    assert delta.nat.deletes == delta.filter.deletes == ()


def test_one_endpoint_less_touches_its_service_only() -> None:
    other = port("ns1/svc2:p80", "172.30.0.42", cluster=("10.180.0.9:80",))
    delta = diff(ruleset(port(cluster=("10.180.0.1:80",)), other), observed(ruleset(OLD, other)))
    assert list(delta.nat.writes) == ["KUBE-SVC-XPGD46QRK7WJZT7O"]
    assert len(delta.nat.deletes) == 1
    assert delta.nat.deletes[0].startswith("KUBE-SEP-")
    assert not delta.filter


def test_stale_chains_go_before_the_chains_they_lead_to() -> None:
    was = port(
        cluster=("10.180.0.1:80",), load_balancer_ips=("1.2.3.4",), source_ranges=("10.0.0.0/8",)
    )
    deletes = diff(ruleset(), observed(ruleset(was))).nat.deletes
    assert [chain[5:8] for chain in deletes] == ["FW-", "EXT", "SVC", "SEP"]


def test_a_stale_chain_somebody_else_uses_is_emptied_not_deleted() -> None:
    kernel = observed(ruleset(OLD), (":INPUT", ":MINE - [0:0]\n:INPUT"))
    held = msgspec.structs.replace(
        kernel.nat,
        references=(*kernel.nat.references, "-A MINE -j KUBE-SVC-XPGD46QRK7WJZT7O"),
    )
    delta = diff(ruleset(), msgspec.structs.replace(kernel, nat=held))
    assert delta.nat.writes["KUBE-SVC-XPGD46QRK7WJZT7O"] == ()
    assert "KUBE-SVC-XPGD46QRK7WJZT7O" not in delta.nat.deletes


def test_a_missing_jump_is_inserted_and_nothing_else() -> None:
    jump = '-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES\n'
    desired = ruleset(OLD)
    delta = diff(desired, observed(desired, (jump, "")))
    assert delta.nat.additions == (f"-I{jump[2:].rstrip()}",)
    assert not delta.nat.writes
    assert not delta.filter


def test_a_jump_that_is_there_three_times_is_removed_twice() -> None:
    jump = '-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES\n'
    desired = ruleset(OLD)
    delta = diff(desired, observed(desired, (jump, 3 * jump)))
    assert delta.nat.removals == (f"-D{jump[2:].rstrip()}",) * 2
    assert not delta.nat.additions
    assert not delta.filter


def test_jumps_to_a_shared_kube_firewall_may_be_there_twice() -> None:
    desired = ruleset(OLD)
    jump = "-A INPUT -j KUBE-FIREWALL\n"
    assert diff(desired, observed(desired, (jump, 2 * jump))).filter.removals
    kept = diff(
        desired, observed(desired, (jump, 2 * jump), ("COMMIT", f"{KUBELET_RULE}\nCOMMIT"))
    )
    assert not kept.filter.removals


def test_the_order_of_rules_counts() -> None:
    other = port("ns1/svc2:p80", "172.30.0.42", cluster=("10.180.0.9:80",))
    desired = ruleset(OLD, other)
    delta = diff(desired, observed(ruleset(other, OLD)))
    assert list(delta.nat.writes) == ["KUBE-SERVICES"]


def test_kube_firewall_alone_is_made_as_desired() -> None:
    delta = diff(ruleset(), observed(ruleset(on=LOCALHOST)))
    assert delta.filter.writes == {"KUBE-FIREWALL": ()}


def test_kube_firewall_shared_with_the_kubelet_only_gains_our_rule() -> None:
    shared = observed(
        ruleset(),
        (":KUBE-FIREWALL - [0:0]", ":KUBE-FIREWALL - [0:0]\n:KUBE-KUBELET-CANARY - [0:0]"),
        ("COMMIT", f"{KUBELET_RULE}\nCOMMIT"),
    )
    delta = diff(ruleset(on=LOCALHOST), shared)
    assert not delta.filter.writes
    assert [rule.startswith("-A KUBE-FIREWALL ! -s 127") for rule in delta.filter.additions] == [
        True
    ]
    assert not diff(ruleset(), shared)


def test_kube_firewall_with_a_foreign_rule_counts_as_shared() -> None:
    kernel = observed(ruleset(), ("COMMIT", f"{KUBELET_RULE}\nCOMMIT"))
    assert not diff(ruleset(), kernel)
    assert _kept(removal(kernel, compile_jumps(environment())))


def _kept(delta: Delta) -> bool:
    return "KUBE-FIREWALL" not in delta.filter.deletes and not any(
        "KUBE-FIREWALL" in rule for rule in delta.filter.removals
    )


def test_removal_takes_all_of_it() -> None:
    compiled = ruleset(OLD, on=LOCALHOST)
    delta = removal(observed(compiled), compile_jumps(environment()))
    assert set(delta.nat.deletes) == compiled.tables["nat"].keys()
    assert set(delta.filter.deletes) == compiled.tables["filter"].keys()
    assert len(delta.nat.removals) == 3
    assert len(delta.filter.removals) == 11
    assert delta.nat.deletes[0] == "KUBE-SERVICES"
    assert delta.nat.deletes[-1] in {"KUBE-POSTROUTING", "KUBE-MARK-MASQ"}


def test_removal_leaves_a_kubelet_its_firewall() -> None:
    kernel = observed(
        ruleset(on=LOCALHOST),
        (":KUBE-FIREWALL - [0:0]", ":KUBE-FIREWALL - [0:0]\n:KUBE-KUBELET-CANARY - [0:0]"),
    )
    assert _kept(removal(kernel, compile_jumps(environment())))


def test_removal_of_nothing_is_nothing() -> None:
    assert not removal(Observed(), compile_jumps(environment()))
