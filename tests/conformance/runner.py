"""Runs one scenario in one mode: the real command, a real kernel, real packets."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from netplane.apply.netns import Namespace
from netplane.apply.sync import plan_for
from netplane.config import Setting, resolve
from netplane.core.model.cluster import build_snapshot
from netplane.core.model.documents import parse
from netplane.core.model.service import ServiceName
from netplane.core.plan.plan import HealthCheck
from tests.support import scenario as schema
from tests.support.command import apply_objects
from tests.support.judge import Memory, judge
from tests.support.kernel_state import ruleset
from tests.support.manifests import kube_list
from tests.support.netns import run_tool
from tests.support.scenario import Mode, NodeUnderTest, Object, Packet, Scenario, Step
from tests.support.topology import new_topology
from tests.support.traffic import Traffic, new_traffic

_SCTP_TRACKING = Path("/proc/sys/net/netfilter/nf_conntrack_sctp_timeout_established")


class Run:
    """A scenario on its way: the node's namespace, and the traffic."""

    def __init__(
        self, scenario: Scenario, mode: Mode, namespace: Namespace, traffic: Traffic
    ) -> None:
        self._scenario = scenario
        self._mode = mode
        self._namespace = namespace
        self._traffic = traffic
        self._kept: Memory = {}

    def step(self, step: Step, objects: Sequence[Object]) -> list[str]:
        """Apply a step's state and check all that it says; returns what is wrong."""
        wrong = []
        if step.objects or step.delete:
            self.apply(objects)
        else:
            before = ruleset(self._namespace)
            if self.apply(objects):
                wrong.append("no object changed, yet apply reports a change")
            if ruleset(self._namespace) != before:
                wrong.append("no object changed, yet the kernel's rules did")
        packets = [packet for packet in step.packets if self._mode in packet.backends]
        complaints, self._kept = judge(
            self._traffic,
            self._scenario.node,
            sendable(packets, self._namespace),
            lambda packet: schema.has_affinity(packet, objects),
            self._kept,
        )
        wrong += complaints
        if self.apply(objects):
            wrong.append("applied twice, and the second time reports a change")
        wrong += self._judge_health_checks(step, objects)
        return wrong

    def apply(self, objects: Sequence[Object]) -> bool:
        """Apply a whole state with the command; returns whether it says that anything changed."""
        options = options_of(self._scenario.node)
        changed = apply_objects(self._namespace, self._mode, objects, *options).document()
        assert isinstance(changed["changed"], bool)
        return changed["changed"]

    def _judge_health_checks(self, step: Step, objects: Sequence[Object]) -> list[str]:
        """The plan's figures (the server is the agent's), and the port's opening."""
        if not step.healthChecks:
            return []
        snapshot = build_snapshot(parse(kube_list(*objects), origin="scenario"))
        config = resolve(None, _settings(self._scenario.node, self._mode), host_name="")
        planned = set(plan_for(config, snapshot).health_checks)
        opened = self._opened_ports()
        wrong = []
        for check in step.healthChecks:
            service = ServiceName(check.namespace, check.service)
            mine = {plan for plan in planned if plan.port == check.port}
            wanted = set()
            if check.httpStatus is not None and check.localEndpoints is not None:
                wanted = {HealthCheck(check.port, service, check.localEndpoints)}
            if mine != wanted:
                wrong.append(f"health check: planned {mine}, must be {wanted}")
            if self._mode == "iptables" and (check.port in opened) is not bool(wanted):
                wrong.append(f"health check: open ports {opened}, port {check.port}")
        return wrong

    def _opened_ports(self) -> set[int]:
        filter_table = run_tool(["iptables-save", "-t", "filter"], inside=self._namespace)
        rule = re.compile(r"--dport (\d+) .*-j ACCEPT$", re.MULTILINE)
        return {int(port) for port in rule.findall(filter_table)}


@contextmanager
def new_run(scenario: Scenario, mode: Mode) -> Iterator[Run]:
    """A fresh kernel state and the network of a scenario."""
    with (
        new_topology(schema.lay_out(scenario)) as topology,
        new_traffic(topology, schema.port_numbers(scenario)) as traffic,
    ):
        yield Run(scenario, mode, topology.node, traffic)


def run_scenario(scenario: Scenario, mode: Mode) -> list[str]:
    """Run all steps; returns what is wrong, each line naming its step."""
    wrong: list[str] = []
    with new_run(scenario, mode) as run:
        for number, (step, objects) in enumerate(schema.states(scenario), 1):
            wrong += [f"step {number} {step.note!r}: {line}" for line in run.step(step, objects)]
            if step.waitSeconds:
                time.sleep(step.waitSeconds)  # the scenario's own pause
    return wrong


def sendable(packets: list[Packet], namespace: Namespace) -> list[Packet]:
    """The packets this kernel can follow; says which ones are left out, and why."""
    if namespace.call(_SCTP_TRACKING.exists):
        return packets
    for packet in packets:
        if packet.proto == "SCTP":
            print(f"left out, as this kernel does not track SCTP connections: {packet}")
    return [packet for packet in packets if packet.proto != "SCTP"]


def options_of(node: NodeUnderTest) -> list[str]:
    """The command line's options for a node; what the scenario leaves unset is not passed."""
    extra = node.extra
    options = ["--node", node.name, "--node-ip", ",".join(node.primary_addresses)]
    if extra.clusterCIDR is not None:
        options += ["--cluster-cidr", extra.clusterCIDR]
    if extra.serviceCIDR is not None:
        options += ["--service-cidr", extra.serviceCIDR]
    if extra.nodePortAddresses is not None:
        options += ["--nodeport-addresses", ",".join(extra.nodePortAddresses)]
    options += [f"--masquerade-all={_word(extra.masqueradeAll)}"]
    return [*options, f"--localhost-nodeports={_word(extra.localhostNodePorts)}"]


def _settings(node: NodeUnderTest, mode: Mode) -> dict[str, Setting]:
    values: dict[str, Any] = {
        "mode": mode,
        "node_name": node.name,
        "node_ips": node.primary_addresses,
    }
    return {field: Setting(value, "scenario") for field, value in values.items()}


def _word(value: bool) -> str:
    return "true" if value else "false"
