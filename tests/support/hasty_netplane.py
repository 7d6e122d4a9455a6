"""``netplane`` as its user runs it, but with an API source about twenty times as impatient.

A missed event is found by a list every few seconds instead of hours, a silent connection given up
after a second: else a test of what becomes of faults would last as long as they do on a node.
"""

from __future__ import annotations

from netplane.agent.api import source
from netplane.agent.api.pacing import Pacing
from netplane.cli.main import entry

HASTY = Pacing(
    first=0.05,
    longest=0.5,
    denied=0.3,
    confirm=0.1,
    calm=0.05,
    shortest_watch=5.0,
    silence=1.0,
    relist=2.5,
)

if __name__ == "__main__":
    source.Pacing = lambda: HASTY  # type: ignore[assignment,misc,attr-defined]
    entry()
