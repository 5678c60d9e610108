"""The port of metrics: what it serves, and what many clients at once cost."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from libs.common.rpc.metrics_server import Collection, serve_metrics
from sandbox.processes import free_port


def _asked(port: int, method: str, path: str, host: str = "127.0.0.1") -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=60)
    connection.request(method, path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


@pytest.fixture(scope="module")
def port() -> int:
    found = free_port()
    serve_metrics(found, "127.0.0.1")
    return found


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/metrics", 200),
        ("HEAD", "/metrics", 200),
        ("GET", "/nope", 404),
        ("POST", "/metrics", 405),
        ("FOO", "/", 404),
    ],
)
def test_what_is_served(port: int, method: str, path: str, status: int) -> None:
    response, body = _asked(port, method, path)
    assert response.status == status
    assert response.headers["Server"] == "darkroom"
    assert bool(body) == (method != "HEAD")
    if status == 200 and body:
        assert "process_cpu_seconds" in {family.name for family in text_string_to_metric_families(body.decode())}


def test_samples_are_selected_by_name(port: int) -> None:
    _, body = _asked(port, "GET", "/metrics?name[]=process_open_fds&name[]=nothing")
    samples = [line.split()[0] for line in body.decode().splitlines() if not line.startswith("#")]
    assert samples == ["process_open_fds"]


def test_what_is_no_http_names_no_version(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(b"\x16\x03\x01 /metrics\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert answer
    assert b"Python" not in answer
    assert b"WSGI" not in answer


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_ipv6() -> None:
    found = free_port()
    serve_metrics(found, "::1")
    assert _asked(found, "GET", "/metrics", "::1")[0].status == 200


class _Slow(Collector):
    """Counts its collections, which last until an event is set."""

    def __init__(self, *, fails: bool = False) -> None:
        self.count = 0
        self.has_begun, self.may_end = threading.Event(), threading.Event()
        self._fails = fails

    def collect(self) -> list[CounterMetricFamily]:
        self.count += 1
        self.has_begun.set()
        self.may_end.wait(60)
        if self._fails and self.count == 1:
            raise RuntimeError("the first fails")
        return [CounterMetricFamily("collections", "", value=self.count)]

    def describe(self) -> list[CounterMetricFamily]:
        return []


@contextmanager
def _collected(collector: _Slow, others: int) -> Iterator[tuple[Future[bytes], list[Future[bytes]]]]:
    """Collect once, and so many more times while the first collection is in progress. Yields the calls."""
    collection = Collection()
    REGISTRY.register(collector)
    try:
        with ThreadPoolExecutor(1 + others) as threads:
            first = threads.submit(collection.latest)
            assert collector.has_begun.wait(60)
            later = [threads.submit(collection.latest) for _ in range(others)]
            collector.may_end.set()
            yield first, later
    finally:
        REGISTRY.unregister(collector)


def test_calls_that_wait_share_one_collection_which_began_after_them() -> None:
    collector = _Slow()
    with _collected(collector, 19) as (first, others):
        assert b"collections_total 1.0" in first.result()
        assert all(b"collections_total 1.0" not in other.result() for other in others)
    # How many of the others came before the second collection began is up to the threads.
    assert collector.count < 10


def test_a_collection_that_fails_is_shared_by_nobody() -> None:
    with _collected(_Slow(fails=True), 2) as (first, others):
        with pytest.raises(RuntimeError):
            first.result()
        assert all(b"collections_total" in other.result() for other in others)
