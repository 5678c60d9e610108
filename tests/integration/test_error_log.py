"""The error log: one line a fault, found by its words and ids, mended, and told when it comes back."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import grpc
import pytest
from darkroom.common.v1 import common_pb2
from darkroom.monitor.v1 import monitor_pb2
from darkroom.monitor.v1.monitor_pb2_grpc import MonitorServiceStub

from libs.common.database.engine import Database
from libs.common.database.states import ErrorLevel
from libs.common.database.stores.errors import ErrorStore
from libs.common.ids import new_id
from libs.common.rpc.structs import to_struct
from services.monitor.error_log import new_errors
from tests.support.http import call
from tests.support.rows import execute, rows
from tests.support.running import Running

_ERRORS = "/api/admin/monitoring/errors"


def _entry(message: str, *, seconds_ago: float = 0, **fields: Any) -> monitor_pb2.ErrorEntry:
    given: dict[str, Any] = {
        "id": new_id("log"),
        "level": monitor_pb2.ERROR_LEVEL_ERROR,
        "source": "test",
        "code": common_pb2.ERROR_CODE_PROVIDER_TIMEOUT,
        "message": message,
    }
    entry = monitor_pb2.ErrorEntry(**(given | fields))
    entry.occurred_at.FromDatetime(datetime.now(UTC) - timedelta(seconds=seconds_ago))
    return entry


async def _log(running: Running, *entries: monitor_pb2.ErrorEntry) -> int:
    stub = MonitorServiceStub(running.channel("monitor"))
    return (await stub.LogError(monitor_pb2.LogErrorRequest(errors=entries), timeout=60)).accepted


async def _get(running: Running, path: str) -> Any:
    return (await call(running.gateway_url(), path, key=running.admin_key)).json


async def _post(running: Running, path: str, body: dict[str, Any]) -> Any:
    return (await call(running.gateway_url(), path, method="POST", key=running.admin_key, json_body=body)).json


async def test_a_group_is_found_by_its_id_with_its_counts_by_the_hour(running: Running) -> None:
    word = f"fault{uuid4().hex[:8]}q"
    await _log(running, *(_entry(f"{word} again", seconds_ago=hours * 3_600) for hours in (0, 0, 1, 5, 30)))
    (group,) = (await _get(running, f"{_ERRORS}?text={word}"))["errors"]
    counts = group["recentCounts"]
    assert (len(counts), counts[-1], counts[-2], counts[-6], sum(counts)) == (24, 2, 1, 1, 4)
    await _post(running, f"{_ERRORS}/{group['id']}/resolve", {"note": "mended"})
    assert (await _get(running, f"{_ERRORS}?text={word}"))["errors"] == []
    (found,) = (await _get(running, f"{_ERRORS}?id={group['id']}"))["errors"]
    assert (found["id"], found["resolutionNote"], found["recentCounts"]) == (group["id"], "mended", counts)


async def test_ten_thousand_of_one_fault_are_one_line(running: Running) -> None:
    word = f"fault{uuid4().hex[:8]}q"
    for _ in range(10):
        entries = [_entry(f"{word} gave up after {n}.5 s on {new_id('gen')}") for n in range(1_000)]
        assert await _log(running, *entries) == 1_000
    (group,) = (await _get(running, f"{_ERRORS}?text={word}"))["errors"]
    assert group["count"] == 10_000
    assert group["example"]["code"] == "PROVIDER_TIMEOUT"


async def test_one_that_is_sent_again_is_kept_once(running: Running) -> None:
    word = f"again{uuid4().hex[:8]}q"
    entry = _entry(f"{word} was sent twice")
    assert await _log(running, entry) == 1
    assert await _log(running, entry) == 0
    (group,) = (await _get(running, f"{_ERRORS}?text={word}"))["errors"]
    assert group["count"] == 1


async def test_a_group_is_mended_and_opened_again_when_it_comes_back(running: Running) -> None:
    word = f"mended{uuid4().hex[:8]}q"
    await _log(running, _entry(f"{word} failed", seconds_ago=60))
    (group,) = (await _get(running, f"{_ERRORS}?text={word}"))["errors"]
    resolved = (await _post(running, f"{_ERRORS}/{group['id']}/resolve", {"note": "mended by hand"}))["error"]
    assert resolved["resolvedBy"].startswith("admin (key_")
    assert resolved["resolutionNote"] == "mended by hand"
    assert (await _get(running, f"{_ERRORS}?text={word}"))["errors"] == []
    assert len((await _get(running, f"{_ERRORS}?text={word}&includeResolved=true"))["errors"]) == 1

    # One that had waited in a buffer since before is no news.
    await _log(running, _entry(f"{word} failed", seconds_ago=30))
    assert (await _get(running, f"{_ERRORS}?text={word}"))["errors"] == []
    await _log(running, _entry(f"{word} failed"))
    (group,) = (await _get(running, f"{_ERRORS}?text={word}"))["errors"]
    assert (group["regressions"], group["count"], "resolvedAt" in group) == (1, 3, False)
    assert group["regressedAt"]


async def test_filters_words_and_pages(running: Running) -> None:
    word = f"paged{uuid4().hex[:8]}q"
    for letter in "abcde":
        await _log(running, _entry(f"{word} {letter * 3}", source=f"test-{letter}", request_id=f"req-{word}-{letter}"))
    query = f"{_ERRORS}?text={word}&pageSize=2"
    seen, token = [], ""
    while True:
        page = await _get(running, f"{query}&pageToken={token}")
        seen += [group["example"]["source"] for group in page["errors"]]
        token = page["nextPageToken"]
        if not token:
            break
    assert seen == ["test-e", "test-d", "test-c", "test-b", "test-a"]
    (found,) = (await _get(running, f"{_ERRORS}?text={word}&source=test-c"))["errors"]
    assert found["example"]["message"].endswith("ccc")
    assert (await _get(running, f"{_ERRORS}?text={word}&level=CRITICAL"))["errors"] == []
    (single,) = (await _get(running, f"/api/admin/monitoring/error-logs?requestId=req-{word}-d"))["errors"]
    assert single["source"] == "test-d"
    counts = await _get(running, "/api/admin/monitoring/error-stats")
    assert {"code": "PROVIDER_TIMEOUT", "source": "test-c", "count": 1} in counts["counts"]


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        (_entry("x", source=""), "errors[0].source"),
        (_entry("x" * 1_001), "errors[0].message"),
        (_entry("x", level=monitor_pb2.ERROR_LEVEL_UNSPECIFIED), "errors[0].level"),
        (_entry("x", id="nothing"), "errors[0].id"),
        (_entry("a\x00b"), "errors[0].message"),
    ],
)
async def test_what_is_no_error_is_refused_as_a_whole(
    running: Running, entry: monitor_pb2.ErrorEntry, field: str
) -> None:
    good = _entry(f"good{uuid4().hex[:8]}q")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _log(running, entry, good)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (await _get(running, f"{_ERRORS}?text={good.message}"))["errors"] == [], field


async def test_what_is_too_old_for_its_level_goes(database: Database) -> None:
    store = ErrorStore(database)
    levels = {"warning": monitor_pb2.ERROR_LEVEL_WARN, "critical": monitor_pb2.ERROR_LEVEL_CRITICAL}
    await store.keep(new_errors([_entry(word, level=level) for word, level in levels.items()]))
    await execute(database, "UPDATE error_logs SET created_at = now() - interval '10 days'")
    await execute(database, "UPDATE error_groups SET last_seen_at = now() - interval '10 days'")
    for level, days in ((ErrorLevel.WARN, 7), (ErrorLevel.CRITICAL, 90)):
        await store.forget(level, days=days, limit=100)
    for table in ("error_logs", "error_groups"):
        assert [row["message"] for row in await rows(database, f"SELECT message FROM {table}")] == ["critical"]


async def test_replicas_that_keep_the_same_faults_do_not_wait_for_each_other(database: Database) -> None:
    store = ErrorStore(database)

    def entries() -> list[monitor_pb2.ErrorEntry]:
        return [_entry(f"fault {letter}") for letter in "zyxwv" for _ in range(20)]

    await asyncio.gather(*(store.keep(new_errors(entries())) for _ in range(20)))
    counts = await rows(database, "SELECT count FROM error_groups")
    assert [row["count"] for row in counts] == [400] * 5


async def test_answers_of_a_vendor_are_grouped_by_their_status(running: Running) -> None:
    word = f"nope{uuid4().hex[:8]}q"

    def answered(status: int, number: int) -> monitor_pb2.ErrorEntry:
        details = {"http_status": status, "provider_request_id": f"r-{number}"}
        message = f"task ended: The provider answered {status}: {word}"
        return _entry(message, context=to_struct({"details": details}))

    await _log(running, *(answered(status, number) for status in (401, 403, 404, 422, 429) for number in range(3)))
    groups = (await _get(running, f"{_ERRORS}?text={word}"))["errors"]
    assert sorted(group["count"] for group in groups) == [3] * 5
    assert len({group["example"]["message"] for group in groups}) == 5
