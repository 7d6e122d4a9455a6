"""The rows of a table of frontends, their endpoints, and the connections of each."""

from __future__ import annotations

from netplane.cli.terminal import Part
from netplane.core.model.address import join_host_port
from netplane.core.plan.status import FrontendStatus

NUMBERS = ("CONNECTIONS", "SHARE")
COLUMNS = ("SERVICE", "KIND", "FRONTEND", "ENDPOINT", *NUMBERS)
_NOT_COUNTED = "-"


def rows_of(frontend: FrontendStatus) -> list[tuple[Part, ...]]:
    """A frontend's rows: one per endpoint, or one that says what happens without any."""
    address = join_host_port(frontend.address, frontend.port)
    head = (frontend.label or "-", frontend.kind, f"{address}/{frontend.protocol}")
    if not frontend.endpoints:
        total = _NOT_COUNTED if frontend.connections is None else str(frontend.connections)
        return [(*head, (frontend.verdict, "yellow"), total, "")]
    counted = sum(endpoint.connections or 0 for endpoint in frontend.endpoints)
    rows: list[tuple[Part, ...]] = []
    for endpoint in frontend.endpoints:
        count = endpoint.connections
        share = _NOT_COUNTED if count is None or not counted else f"{count / counted:.0%}"
        rows.append(
            (
                *(head if not rows else ("", "", "")),
                join_host_port(endpoint.address, endpoint.port),
                _NOT_COUNTED if count is None else str(count),
                share,
            )
        )
    return rows
