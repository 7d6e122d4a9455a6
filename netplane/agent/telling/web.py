"""What the agent's own two ports answer, on kube-proxy's paths.

The health port, for load balancers and people: ``/healthz``, ``/livez``; with ``?verbose`` the
JSON also has the reasons. The metrics port, for this machine: ``/metrics``, ``/metrics/slis``,
``/proxyMode``, ``/configz`` and a ``/healthz`` that says whether the process works at all, for who
may restart it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import msgspec
from aiohttp import web

from netplane.agent.telling.health import OK, UNAVAILABLE, Answer, Health
from netplane.agent.telling.listening import Respond
from netplane.agent.telling.metrics import Metrics, Page
from netplane.agent.telling.slis import Slis
from netplane.config import Config

Refresh: TypeAlias = Callable[[], Awaitable[None]]

_NOT_FOUND = 404
_NOT_ALLOWED = 405


def health_port(health: Health, metrics: Metrics) -> Respond:
    """What the health port answers (10256)."""

    def healthz(request: web.BaseRequest) -> web.Response:
        answer = health.healthz(verbose="verbose" in request.query)
        metrics.healthz.labels(answer.status).inc()
        return _json(answer)

    def livez(request: web.BaseRequest) -> web.Response:
        answer = health.livez(verbose="verbose" in request.query)
        metrics.livez.labels(answer.status).inc()
        return _json(answer)

    return _routes({"/healthz": healthz, "/livez": livez})


def metrics_port(
    health: Health, metrics: Metrics, config: Config, *, refresh: Refresh | None = None
) -> Respond:
    """What the metrics port answers (10249).

    Args:
        health: Whether the process works.
        metrics: What is exposed.
        config: What is told on ``/configz``.
        refresh: Brings what is read on demand up to date, before metrics are exposed.
    """
    slis = Slis()
    configuration = Answer(OK, msgspec.json.encode({"netplane": config}))

    async def exposition(request: web.BaseRequest) -> web.Response:
        if refresh is not None:
            await refresh()
        return _exposed(metrics.page(request.headers.get("Accept", "")))

    def probes(request: web.BaseRequest) -> web.Response:
        return _exposed(slis.page(request.headers.get("Accept", "")))

    def healthz(request: web.BaseRequest) -> web.Response:
        del request
        slis.probed(well=health.turning)
        if health.turning:
            return web.Response(text="ok")
        return web.Response(status=UNAVAILABLE, text="the loop does not turn")

    def proxy_mode(request: web.BaseRequest) -> web.Response:
        del request
        return web.Response(text=config.mode)

    def configz(request: web.BaseRequest) -> web.Response:
        del request
        return _json(configuration)

    return _routes(
        {
            "/metrics": exposition,
            "/metrics/slis": probes,
            "/healthz": healthz,
            "/proxyMode": proxy_mode,
            "/configz": configz,
        }
    )


def _routes(paths: Mapping[str, Respond]) -> Respond:
    """Answer these paths to GET and HEAD, and nothing else."""

    def respond(request: web.BaseRequest) -> web.Response | Awaitable[web.Response]:
        found = paths.get(request.path)
        if found is None:
            return web.Response(status=_NOT_FOUND, text="no such path\n")
        if request.method not in {"GET", "HEAD"}:
            return web.Response(
                status=_NOT_ALLOWED, text="only GET\n", headers={"Allow": "GET, HEAD"}
            )
        return found(request)

    return respond


def _exposed(page: Page) -> web.Response:
    return web.Response(body=page.body, headers={"Content-Type": page.content_type})


def _json(answer: Answer) -> web.Response:
    return web.Response(
        status=answer.status,
        body=answer.body,
        content_type="application/json",
        headers={"X-Content-Type-Options": "nosniff"},
    )
