"""A pod's server: over HTTP it says who it is, at which address, and who seemed to be calling."""

from __future__ import annotations

import argparse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Echo(ThreadingHTTPServer):
    """An HTTP server that knows its pod's name; IPv4, every address of its namespace."""

    daemon_threads = True

    def __init__(self, pod: str, port: int) -> None:
        super().__init__(("0.0.0.0", port), _Answer)  # noqa: S104 (its namespace is its own)
        self.pod = pod


class _Answer(BaseHTTPRequestHandler):
    """Answers every GET with one line; logs nothing."""

    def do_GET(self) -> None:
        """Say who answers and whom we see; ``http.server`` names the method after the verb."""
        here = self.connection.getsockname()
        caller = self.client_address[0]
        assert isinstance(self.server, Echo)
        body = f"{self.server.pod} at {here[0]}:{here[1]} saw {caller}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (inherited)
        """Keep quiet: the caller prints the answer."""


def main() -> None:
    """``python -m netplane.lab.echo POD PORT``: serve until ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pod")
    parser.add_argument("port", type=int)
    arguments = parser.parse_args()
    Echo(arguments.pod, arguments.port).serve_forever()


if __name__ == "__main__":
    main()
