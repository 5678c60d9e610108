"""The client of the error log: it keeps nobody waiting, fails nobody, and says what it could not keep."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from darkroom.common.v1 import common_pb2
from darkroom.monitor.v1 import monitor_pb2
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from libs.common.errors import ErrorCode, GenerationError
from libs.common.rpc.reporting import Reporter
from libs.common.rpc.structs import from_struct

_EVENT = {"event": "check failed", "level": "error", "timestamp": "2026-11-25T12:00:00Z"}


class Monitor:
    """What was sent, and whether it is taken."""

    def __init__(self) -> None:
        self.is_away = False
        self.kept: list[monitor_pb2.ErrorEntry] = []
        self.groups: list[int] = []

    async def send(self, entries: list[monitor_pb2.ErrorEntry]) -> None:
        if self.is_away:
            raise GenerationError(ErrorCode.SERVICE_UNAVAILABLE, "away")
        self.kept += entries
        self.groups.append(len(entries))


def _reporter(monitor: Monitor, *, entries: int = 10_000, size_bytes: int = 2**24) -> Reporter:
    return Reporter("poller", monitor.send, entries=entries, size_bytes=size_bytes)


def _dropped() -> float:
    return REGISTRY.get_sample_value("darkroom_errors_dropped_total") or 0.0


async def test_what_the_monitor_does_not_take_waits_and_goes_in_order_once_it_is_back() -> None:
    monitor = Monitor()
    reporter = _reporter(monitor)
    monitor.is_away = True
    for number in range(1_200):
        reporter.take({**_EVENT, "event": f"error {number}"})
    assert await reporter.flush() is False
    monitor.is_away = False
    await reporter.close()
    assert [entry.message for entry in monitor.kept] == [f"error {number}" for number in range(1_200)]
    assert max(monitor.groups) <= 500
    assert len({entry.id for entry in monitor.kept}) == 1_200


@pytest.mark.parametrize("bound", [{"entries": 100}, {"size_bytes": 20_000}])
async def test_a_full_buffer_drops_what_comes_later_and_counts_it(bound: dict[str, int]) -> None:
    monitor = Monitor()
    reporter, before = _reporter(monitor, **bound), _dropped()
    for number in range(1_000):
        reporter.take({**_EVENT, "event": f"error {number}"})
    await reporter.close()
    assert 0 < len(monitor.kept) < 1_000
    assert len(monitor.kept) + _dropped() - before == 1_000
    assert monitor.kept[0].message == "error 0", "the first is nearest to the cause"


async def test_a_monitor_that_is_away_is_not_asked_at_every_turn() -> None:
    monitor = Monitor()
    monitor.is_away, asked = True, 0

    async def send(entries: list[monitor_pb2.ErrorEntry]) -> None:
        nonlocal asked
        asked += 1
        await monitor.send(entries)

    reporter = Reporter("poller", send, entries=10, size_bytes=10_000)
    reporter.take(_EVENT)
    for _ in range(100):
        await reporter.flush()
    assert asked == 1


async def test_one_that_is_never_taken_does_not_keep_the_others() -> None:
    kept: list[str] = []

    async def send(entries: list[monitor_pb2.ErrorEntry]) -> None:
        if any(entry.message == "error 3" for entry in entries):
            raise GenerationError(ErrorCode.INVALID_REQUEST, "no")
        kept.extend(entry.message for entry in entries)

    reporter, before = Reporter("poller", send, entries=100, size_bytes=100_000), _dropped()
    for number in range(6):
        reporter.take({**_EVENT, "event": f"error {number}"})
    await reporter.close()
    assert kept == [f"error {number}" for number in (0, 1, 2, 4, 5)]
    assert _dropped() - before == 1


async def test_an_error_is_what_its_line_says() -> None:
    monitor = Monitor()
    reporter = _reporter(monitor)
    error = {"name": "PROVIDER_TIMEOUT", "message": "no answer", "stack": "Traceback", "details": {"http_status": 504}}
    ids = {"request_id": "req_1", "generation_id": "gen_1", "provider_task_id": "t-1"}
    reporter.take({**_EVENT, **ids, "error": error, "provider": "bfl", "attempt": 3})
    await reporter.flush()
    (entry,) = monitor.kept
    assert entry.message == "check failed: no answer"
    assert (entry.source, entry.code) == ("adapter:bfl", common_pb2.ERROR_CODE_PROVIDER_TIMEOUT)
    assert (entry.request_id, entry.generation_id, entry.provider_task_id) == ("req_1", "gen_1", "t-1")
    assert entry.stack == "Traceback"
    assert from_struct(entry.context) == {"attempt": 3, "provider": "bfl", "details": {"http_status": 504}}


_ANYTHING: Any = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.binary() | st.just(object()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=10), _ANYTHING, max_size=5), st.text(), _ANYTHING)
def test_no_event_makes_it_raise(fields: dict[str, Any], words: str, error: Any) -> None:
    monitor, before = Monitor(), _dropped()
    reporter = _reporter(monitor)
    reporter.take({**_EVENT, **fields, "event": words, "error": error})
    reporter.take(fields)
    asyncio.run(reporter.close())
    assert len(monitor.kept) + _dropped() - before == 2, "each is sent or counted"


async def test_threads_may_report_at_once() -> None:
    monitor = Monitor()
    reporter = _reporter(monitor)

    def work() -> None:
        for _ in range(200):
            reporter.take(_EVENT)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    await reporter.close()
    assert len(monitor.kept) == 1_600
