"""How a batch is to be run: what is given, what is taken for granted, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from darkroom.gateway.v1 import gateway_pb2

from libs.common.database.records_batches import BatchOptions
from libs.common.database.states import BatchStatus
from services.gateway.batches.options import options_of

URL = "https://example.com/hook"


def _read(**fields: Any) -> tuple[BatchOptions, list[str]]:
    message = gateway_pb2.BatchOptions(**fields)
    options, faults = options_of(message, default_callback_url=None, callback_hosts=())
    return options, [fault.field for fault in faults]


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        pytest.param({}, BatchOptions(), id="nothing said"),
        pytest.param({"parallel": False}, BatchOptions(is_parallel=False, max_concurrency=1), id="one by one"),
        pytest.param({"max_concurrency": 50, "priority": 0}, BatchOptions(max_concurrency=50, priority=0), id="said"),
        pytest.param(
            {"callback_url": URL, "callback_every_tasks": 10},
            BatchOptions(callback_url=URL, callback_every_tasks=10),
            id="told",
        ),
    ],
)
def test_what_is_said_holds(fields: dict[str, Any], options: BatchOptions) -> None:
    assert _read(**fields) == (options, [])


@pytest.mark.parametrize(
    ("fields", "faults"),
    [
        pytest.param({"max_concurrency": 0}, ["options.max_concurrency"], id="no places"),
        pytest.param({"max_concurrency": 10_001}, ["options.max_concurrency"], id="too many places"),
        pytest.param({"parallel": False, "max_concurrency": 2}, ["options.max_concurrency"], id="one by one by two"),
        pytest.param({"priority": 10}, ["options.priority"], id="a priority that is none"),
        pytest.param({"budget_usd": -1}, ["options.budget_usd"], id="less than nothing"),
        pytest.param({"budget_usd": float("nan")}, ["options.budget_usd"], id="no number"),
        pytest.param({"callback_every_tasks": 5}, ["options.callback_every_tasks"], id="told to nobody"),
        pytest.param({"callback_url": "ftp://x"}, ["options.callback_url"], id="no URL"),
        pytest.param({"callback_url": "http://127.0.0.1/"}, ["options.callback_url"], id="no public address"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], faults: list[str]) -> None:
    assert _read(**fields)[1] == faults


def test_the_keys_own_url_stands_where_none_is_given() -> None:
    options, faults = options_of(gateway_pb2.BatchOptions(), default_callback_url=URL, callback_hosts=())
    assert (options.callback_url, faults) == (URL, [])


@pytest.mark.parametrize(
    ("completed", "ended", "is_cancelled", "status"),
    [
        (0, 0, False, BatchStatus.PROCESSING),
        (9, 9, True, BatchStatus.PROCESSING),
        (10, 10, False, BatchStatus.COMPLETED),
        (10, 10, True, BatchStatus.COMPLETED),
        (1, 10, False, BatchStatus.PARTIAL_FAILED),
        (0, 10, False, BatchStatus.FAILED),
        (1, 10, True, BatchStatus.CANCELLED),
    ],
)
def test_the_status_follows_from_the_counters(
    completed: int, ended: int, is_cancelled: bool, status: BatchStatus
) -> None:
    found = BatchStatus.of(
        total_tasks=10, completed_tasks=completed, ended_tasks=ended, is_cancel_requested=is_cancelled
    )
    assert found is status
