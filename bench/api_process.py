"""``python -m bench.api_process STATE``: the tests' API server, filled from a file.

It prints its port, then stores each object that stdin gives it, one line of JSON each.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from tests.support.api_server import ApiServer


def main() -> None:
    """Serve until stdin ends."""
    listed = msgspec.json.decode(Path(sys.argv[1]).read_bytes())
    with ApiServer(bookmarks=1.0) as server:
        for thing in listed["items"]:
            server.store.put(thing)
        server.store.compact()  # a watch looks through all that happened since
        print(server.port, flush=True)
        for line in sys.stdin.buffer:
            server.store.put(msgspec.json.decode(line))


if __name__ == "__main__":
    main()
