"""The agent as a whole: joins source, keeper, health, metrics and servers, and runs the loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable

import msgspec

import netplane
from netplane.agent.changes import Source
from netplane.agent.clocks import CLOCKS
from netplane.agent.holder import sole_agent
from netplane.agent.keeper import Keeper
from netplane.agent.lookout import Lookout
from netplane.agent.loop import Loop, Parts
from netplane.agent.pace import Pace
from netplane.agent.telling.health import Health
from netplane.agent.telling.health_checks import HealthChecks
from netplane.agent.telling.ledger import Ledger
from netplane.agent.telling.listening import places, serve
from netplane.agent.telling.logs import NOTICE, Journal, bridged
from netplane.agent.telling.metrics import Metrics
from netplane.agent.telling.systemd import Notifier
from netplane.agent.telling.tallies import Tallies
from netplane.agent.telling.teller import Teller
from netplane.agent.telling.web import health_port, metrics_port
from netplane.apply.netns import Namespace
from netplane.config import Config
from netplane.core.model.address import Family
from netplane.errors import UsageError

_OPEN_FILES = 1 << 17


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How the agent is to run.

    Attributes:
        netns: The named namespace to keep; None for this one.
        make_source: Makes the source once the event loop runs; what it asks of an API server is
            counted.
        verbose: Say what was done, too, not only what went wrong.
        top_services: How many Services' connections are told apart in the metrics.
    """

    config: Config
    netns: str | None
    make_source: Callable[[Journal, Metrics], Source]
    take_over: bool = False
    log_json: bool = False
    verbose: bool = False
    top_services: int = 0


def run(settings: Settings) -> None:
    """Keep the node until SIGTERM or SIGINT; the rules stay on the way out.

    Raises:
        UsageError: An address to listen on is wrong, or cannot be listened on.
        ApplyError: The namespace cannot be entered, or another agent or kube-proxy holds it.
    """
    _raise_open_files()
    gc.enable()  # switched off for commands, which live for a second
    with Namespace(settings.netns) as namespace, sole_agent(namespace) as held:
        asyncio.run(_until_told(settings, namespace, held))


def _raise_open_files() -> None:
    """Ask for as many open files as the system grants: each health check port is two of them.

    The usual soft limit of 1024 is for programs that call select(2); the hard one is the bound.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # a service may not; its unit says a limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _until_told(settings: Settings, namespace: Namespace, held: socket.socket) -> None:
    """Run until a signal ends the loop."""
    running = asyncio.create_task(_keep(settings, namespace, held))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def _keep(settings: Settings, namespace: Namespace, held: socket.socket) -> None:
    config = settings.config
    metrics = Metrics(
        config.mode, watch_age=lambda: health.watch_age, top_services=settings.top_services
    )
    metrics.build.labels(netplane.__version__, config.mode).set(1)
    journal = _journal(settings, metrics)
    source = settings.make_source(journal, metrics)
    health = _health(config, source)
    ledger = Ledger()
    teller = Teller(config, source, health, ledger)
    with (
        bridged(journal),
        Lookout(namespace, config.mode) as lookout,
        _keeper(settings, namespace, lookout) as keeper,
        _tallies(settings, metrics, journal) as tallies,
    ):
        parts = Parts(
            source=source,
            keeper=keeper,
            lookout=lookout,
            ledger=ledger,
            health=health,
            checks=HealthChecks(namespace, healthy=lambda: health.healthy),
            metrics=metrics,
            journal=journal,
            notifier=Notifier(os.environ),
            clocks=CLOCKS,
        )
        async with _servers(config, namespace, health, metrics, tallies), teller.answering(held):
            journal.notice(
                "started",
                "the agent has started",
                version=netplane.__version__,
                mode=config.mode,
                node=config.node_name,
            )
            await Loop(parts, Pace(config.sync_period, config.min_sync_period)).run()


def _journal(settings: Settings, metrics: Metrics) -> Journal:
    return Journal(
        _say,
        CLOCKS,
        json=settings.log_json,
        level=logging.INFO if settings.verbose else NOTICE,
        on_drop=lambda kind: metrics.log_messages_dropped.labels(kind).inc(),
    )


def _health(config: Config, source: Source) -> Health:
    return Health(
        families=tuple(Family),
        period=config.sync_period,
        last_heard=lambda: source.last_heard,
        clocks=CLOCKS,
        watch_bound=max(source.patience, 2 * config.sync_period),
        fault=lambda: source.fault,
    )


def _tallies(settings: Settings, metrics: Metrics, journal: Journal) -> Tallies:
    return Tallies(
        settings.config.mode,
        settings.netns,
        metrics,
        clocks=CLOCKS,
        journal=journal,
        limit=settings.top_services,
    )


def _keeper(settings: Settings, namespace: Namespace, lookout: Lookout) -> Keeper:
    return Keeper(
        namespace,
        settings.config,
        take_over=settings.take_over,
        vouch=lookout.witness.vouch,
    )


@contextlib.asynccontextmanager
async def _servers(
    config: Config, namespace: Namespace, health: Health, metrics: Metrics, tallies: Tallies
) -> AsyncIterator[None]:
    """Answer on the health and the metrics port, from before the first write on."""
    wanted = (
        ("--healthz-bind-address", config.healthz_bind_address, health_port(health, metrics)),
        (
            "--metrics-bind-address",
            config.metrics_bind_address,
            metrics_port(health, metrics, config, refresh=tallies.refresh),
        ),
    )
    async with contextlib.AsyncExitStack() as stack:
        for option, address, respond in wanted:
            try:
                server = await serve(namespace, places(address, option=option), respond)
            except OSError as exc:
                taken = "; a kube-proxy that goes on?" if exc.errno == errno.EADDRINUSE else ""
                raise UsageError(f"{option} {address}: {exc.strerror}{taken}") from exc
            stack.push_async_callback(server.stop)
        yield


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
