"""Runs one scenario in one mode by a running agent: steps are files, restarts are real ones."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from netplane.agent.telling.ledger import State
from netplane.agent.telling.status import ask_agent
from netplane.errors import WireError
from tests.conformance.runner import options_of, sendable
from tests.support import scenario as schema
from tests.support.agent_process import get_inside
from tests.support.directory_agent import DirectoryAgent, new_agent
from tests.support.eventually import eventually
from tests.support.judge import Memory, judge
from tests.support.manifests import service
from tests.support.scenario import Mode, Object, Scenario, Step
from tests.support.topology import Topology, new_topology
from tests.support.traffic import Traffic, new_traffic

_MARKER = "step"
_MARKER_ADDRESS = "203.0.113.254"


def is_about_an_agent(scenario: Scenario) -> bool:
    """Whether a scenario says more of a process that goes on than of a single run."""
    return len(scenario.steps) > 1 or any(
        step.healthChecks or step.restart for step in scenario.steps
    )


class AgentRun:
    """A scenario on its way, kept by an agent."""

    def __init__(
        self, scenario: Scenario, mode: Mode, topology: Topology, agent: DirectoryAgent
    ) -> None:
        self._scenario = scenario
        self._mode = mode
        self._node = topology.node
        self._agent = agent
        self._written: dict[str, Object] = {}
        self._steps = 0
        self._kept: Memory = {}

    def step(self, step: Step, objects: Sequence[Object], traffic: Traffic) -> list[str]:
        """Write a step's files and check all that it says; returns what is wrong."""
        if step.restart:
            self._agent.end()
        self._write(objects)
        if not self._agent.is_alive:
            self._agent.start()
        eventually(self._is_programmed)
        packets = [packet for packet in step.packets if self._mode in packet.backends]
        wrong, self._kept = judge(
            traffic,
            self._scenario.node,
            sendable(packets, self._node),
            lambda packet: schema.has_affinity(packet, objects),
            self._kept,
        )
        if not self._agent.is_alive:
            wrong.append("the agent has ended")
        return wrong + self._judge_health_checks(step)

    def _write(self, objects: Sequence[Object]) -> None:
        """A file for each object, those that changed alone; the last one says which step it is."""
        wanted = {_file_of(item): item for item in objects}
        for name in self._written.keys() - wanted.keys():
            self._agent.remove(name)
        for name, item in wanted.items():
            if self._written.get(name) != item:
                self._agent.write(name, item)
        self._written = wanted
        self._steps += 1
        marker = service(f"{_MARKER}-{self._steps}", cluster_ips=[_MARKER_ADDRESS])
        self._agent.write("~marker", marker)

    def _is_programmed(self) -> bool:
        """Whether the agent has taken up this step, and nothing of it waits."""
        try:
            status = ask_agent(self._node)
        except WireError:
            return False
        if status is None or not status.healthy:
            return False
        names = {standing.name for standing in status.services}
        return f"{_MARKER}-{self._steps}" in names and not status.counts[State.PENDING]

    def _judge_health_checks(self, step: Step) -> list[str]:
        """Ask the servers on the health check node ports."""
        wrong = []
        for check in step.healthChecks:
            reply = get_inside(self._node, check.port, address=self._scenario.node.ip)
            where = f"health check {check.namespace}/{check.service} on port {check.port}"
            if check.httpStatus is None:
                if reply.status and reply.document()["service"] == _service_of(check):
                    wrong.append(f"{where}: answers {reply}, and must not be there")
                continue
            wanted = {
                "service": _service_of(check),
                "localEndpoints": check.localEndpoints,
                "serviceProxyHealthy": True,
            }
            if (reply.status, reply.document()) != (check.httpStatus, wanted):
                wrong.append(f"{where}: {reply}, must be {check.httpStatus} {wanted}")
        return wrong


def _service_of(check: schema.HealthCheck) -> Object:
    return {"namespace": check.namespace, "name": check.service}


def _file_of(item: Object) -> str:
    metadata = item["metadata"]
    return f"{item['kind']}.{metadata.get('namespace', '')}.{metadata['name']}"


def run_with_agent(scenario: Scenario, mode: Mode, folder: Path) -> list[str]:
    """Run all steps; returns what is wrong, each line naming its step."""
    wrong: list[str] = []
    with (
        new_topology(schema.lay_out(scenario)) as topology,
        new_traffic(topology, schema.port_numbers(scenario)) as traffic,
        new_agent(topology.node, folder, mode, *options_of(scenario.node)) as agent,
    ):
        run = AgentRun(scenario, mode, topology, agent)
        for number, (step, objects) in enumerate(schema.states(scenario), 1):
            found = run.step(step, objects, traffic)
            wrong += [f"step {number} {step.note!r}: {line}" for line in found]
            if step.waitSeconds:
                time.sleep(step.waitSeconds)  # the scenario's own pause
    return wrong
