"""The metrics of a process as text, and the HTTP port that serves them.

The server of prometheus_client collects once for each request, in threads that hold up the event loop together, and
names the versions of its parts. Here requests that wait at the same time share one collection.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from prometheus_client.exposition import ThreadingWSGIServer

# A client that sends its request slower than this is disconnected.
_READ_SECONDS = 10.0
_METHODS = "GET, HEAD"


class Collection:
    """Collects the metrics of the process, once at a time. `latest` blocks, so it is called in threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._begun = self._ended = 0
        self._text = b""
        self._selecting = threading.Lock()

    def latest(self) -> bytes:
        """Return the metrics as text of CONTENT_TYPE_LATEST, collected after this call. Calls that wait share it.

        Raises what a collector raises; the calls that waited then collect anew.
        """
        with self._changed:
            wanted = self._begun + 1
            self._changed.wait_for(lambda: self._begun == self._ended)
            if self._ended >= wanted:
                return self._text
            self._begun += 1
        text = None
        try:
            text = generate_latest()
            return text
        finally:
            with self._changed:
                if text is None:
                    self._begun = self._ended
                else:
                    self._text, self._ended = text, self._begun
                self._changed.notify_all()

    def selected(self, names: Iterable[str]) -> bytes:
        """Return the samples with these names alone, which are not shared."""
        with self._selecting:
            return generate_latest(REGISTRY.restricted_registry(names))


COLLECTION = Collection()
"""That of this process."""


class _Server(ThreadingWSGIServer):
    address_family = socket.AF_INET


class _Server6(ThreadingWSGIServer):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = _READ_SECONDS

    def version_string(self) -> str:
        return "darkroom"

    def log_message(self, *args: Any, **options: Any) -> None:
        """Log nothing."""


def _answer(method: str, path: str, query: str) -> tuple[str, list[tuple[str, str]], bytes]:
    """Return the status line, the headers and the body for a request.

    `name[]` in the query selects samples, as in the server of prometheus_client.
    """
    if path != "/metrics":
        return "404 Not Found", [("Content-Type", "text/plain")], b"The metrics are at /metrics.\n"
    if method not in {"GET", "HEAD"}:
        headers = [("Content-Type", "text/plain"), ("Allow", _METHODS)]
        return "405 Method Not Allowed", headers, f"Use one of {_METHODS}.\n".encode()
    names = parse_qs(query).get("name[]", [])
    text = COLLECTION.selected(names) if names else COLLECTION.latest()
    return "200 OK", [("Content-Type", CONTENT_TYPE_LATEST)], text


def _serve(
    environ: Mapping[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> Iterable[bytes]:
    status, headers, body = _answer(environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"])
    # Without a Server header, wsgiref names itself and Python with their versions.
    start_response(status, [*headers, ("Server", "darkroom"), ("Content-Length", str(len(body)))])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


def serve_metrics(port: int, host: str) -> None:
    """Serve GET /metrics in threads until the process ends. Raises OSError if the port cannot be taken."""
    server = make_server(host, port, _serve, _Server6 if ":" in host else _Server, _Handler)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
