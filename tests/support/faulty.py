"""A real server before another, which fails as networks and proxies do."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError
from urllib.request import urlopen

from typing_extensions import override


class Faulty:
    """A server that hands on what is behind it, except where `fault` says otherwise.

    Attributes:
        url: Where it is.
        fault: None, "away" (hangs up), "cut" (half the body), "error" (a proxy's 502)
            or "gone" (404).
        route: What the fault is for, the last part of a path; "" for all.
    """

    def __init__(self, url: str, behind: str) -> None:
        self.url = url
        self.behind = behind
        self.fault: str | None = None
        self.route = ""


@contextmanager
def faulty(behind: str) -> Iterator[Faulty]:
    """Serve what is served at a URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            route = self.path.partition("?")[0].rpartition("/")[2]
            fault = served.fault if served.route in ("", route) else None
            if fault == "away":
                return
            status, mime, body = _asked(f"{behind}{self.path.lstrip('/')}")
            if fault == "error":
                status, mime, body = 502, "text/html", b"<h1>Bad gateway</h1>"
            if fault == "gone":
                status, mime, body = 404, "text/plain", b"nothing is there."
            self.send_response(status)
            self.send_header("Content-Type", mime)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)

        @override
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("localhost", 0), Handler)
    served = Faulty(f"http://localhost:{server.server_port}/", behind)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _asked(url: str) -> tuple[int, str, bytes]:
    """Return status, MIME type and body."""
    try:
        with urlopen(url) as response:
            mime = response.headers.get("Content-Type", "")
            return response.status, mime, response.read()
    except HTTPError as error:
        return error.code, error.headers.get("Content-Type", ""), error.read()
