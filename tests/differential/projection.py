"""The mapping from tables and messages to canonical rows: the only file here that names a table, a column or an id.

Canonical rows have the names of design.md and integer micro-dollars for money. They hold no timestamps, only whether
one is set. A change of the tables changes this file and keeps the canonical names, so that recordings of the commits
before and after the change can be compared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final

from darkroom.gateway.v1 import gateway_pb2
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from libs.common.database.engine import Database
from libs.common.database.states import BatchStatus, State
from libs.common.rpc.words import short
from services.gateway.messages import STATUS_OF_STATE
from tests.differential.recording import Row
from tests.support.rows import execute, rows

ID: Final = re.compile(
    r"\b(gen|batch|sub|task|attached|key|cb|exp|var|req)_"
    r"(?:(?:(?:resumed|sub)_)?[xy]?\d+|[0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{26}(?:_\d+)?)\b"
)
"""An id in a text: the first group is its kind."""
MICROS: Final = 1_000_000
"""Micro-dollars of a US dollar."""

Snapshot = dict[str, dict[str, Row]]
"""By canonical table, the canonical rows by id."""


def _micros(column: str) -> str:
    """The SQL of a sum in US dollars as integer micro-dollars; 0 where it is unset."""
    return f"CAST(round(CAST(COALESCE({column}, 0) AS numeric) * {MICROS}) AS bigint)"


_GENERATIONS = f"""
SELECT id, state AS stage, model_identifier AS model, provider_id AS provider, api_key_id AS key, owner, priority,
    batch_id AS batch, batch_index, attempts, store_attempts, lease_owner,
    CASE WHEN state = 'HELD' THEN waits_for END AS waits_for,
    jsonb_array_length(fallbacks) AS fallbacks_left,
    jsonb_array_length(COALESCE(sources, '[]')) AS sources, jsonb_array_length(COALESCE(outputs, '[]')) AS outputs,
    error->>'code' AS error_code, (error->>'is_retryable')::boolean AS error_is_retryable,
    provider_task_id AS task, continues_id AS continues, is_late, reused_from_id AS reused_from,
    {_micros("expected_cost_usd")} AS estimated_micros, {_micros("reserved_usd")} AS reserved_micros,
    {_micros("cost_usd")} AS spent_micros,
    cancel_requested_at IS NOT NULL AS cancel_requested, submitted_at IS NOT NULL AS submitted,
    ended_at IS NOT NULL AS ended, deleted_at IS NOT NULL AS deleted
FROM generation_requests ORDER BY length(id), id"""

_SUBMISSIONS = f"""
SELECT id, generation_id AS generation, attempt, provider_id AS provider, state, provider_task_id AS task,
    error->>'code' AS error_code, resolution, billing, http_status,
    {_micros("expected_cost_usd")} AS estimated_micros, {_micros("at_risk_usd")} AS at_risk_micros,
    {_micros("spent_usd")} AS spent_micros, ended_at IS NOT NULL AS ended
FROM submissions ORDER BY length(id), id"""

_TASKS = """
SELECT task_id AS id, provider_id AS provider, generation_id AS generation, state, attempts AS polls,
    retry_count AS failed_polls, progress, lease_owner, last_error->>'code' AS error_code,
    missing_since IS NOT NULL AS missing, late_poll_at IS NOT NULL AS polled_late, ended_at IS NOT NULL AS ended
FROM poll_tasks ORDER BY length(task_id), task_id, provider_id"""

_COUNTERS = ("completed_tasks", "failed_tasks", "cancelled_tasks", "skipped_tasks")
_BATCHES = f"""
SELECT id, total_tasks, is_parallel AS parallel, max_concurrency, stop_on_error,
    {", ".join(f"b.{name} + COALESCE(l.{name}, 0) AS {name}" for name in _COUNTERS)},
    {_micros("b.cost_usd + COALESCE(l.cost_usd, 0)")} AS spent_micros,
    stopped_at IS NOT NULL AS stopped, cancel_requested_at IS NOT NULL AS cancel_requested,
    ended_at IS NOT NULL AS ended
FROM generation_batches b LEFT JOIN (
    SELECT batch_id, {", ".join(f"sum({name})::int AS {name}" for name in _COUNTERS)}, sum(cost_usd) AS cost_usd
    FROM batch_ledger GROUP BY batch_id) l ON l.batch_id = b.id
ORDER BY length(id), id"""

_ACCOUNTS = f"""
SELECT provider_id AS id, breaker_state AS circuit_breaker, {_micros("spend_usd")} AS spent_today_micros,
    polls_paused_at IS NOT NULL AS polls_paused
FROM provider_accounts ORDER BY provider_id"""

_KEYS = f"""
SELECT api_key_id AS id, {_micros("sum(reserved_usd)")} AS reserved_micros, {_micros("sum(spent_usd)")} AS spent_micros,
    {_micros("sum(at_risk_usd)")} AS at_risk_micros
FROM (SELECT api_key_id, reserved_usd, spent_usd, at_risk_usd FROM api_key_spend
    UNION ALL SELECT api_key_id, reserved_usd, spent_usd, at_risk_usd FROM api_key_ledger) part
GROUP BY api_key_id ORDER BY api_key_id"""

_TABLES: Mapping[str, str] = {
    "generations": _GENERATIONS,
    "submissions": _SUBMISSIONS,
    "tasks": _TASKS,
    "batches": _BATCHES,
    "accounts": _ACCOUNTS,
    "keys": _KEYS,
}


async def snapshot(database: Database) -> Snapshot:
    """Read all canonical tables. Raises GenerationError where the database is away."""
    found = {name: {row["id"]: row for row in await rows(database, sql)} for name, sql in _TABLES.items()}
    for row in found["generations"].values():
        row["status"] = public_status(row["stage"])
    for row in found["batches"].values():
        row["status"] = BatchStatus.of(
            total_tasks=row["total_tasks"],
            completed_tasks=row["completed_tasks"],
            ended_tasks=sum(row[name] for name in _COUNTERS),
            is_cancel_requested=row["cancel_requested"],
        ).value
    return found


def public_status(stage: str) -> str:
    """The word that clients see of a generation's stage, as the gateway maps it."""
    number = STATUS_OF_STATE[State(stage)]
    return short(gateway_pb2.GenerationStatus.DESCRIPTOR.values_by_number[number])


def claimed_id(claim: Any) -> str:
    """The id by which claims of one kind are put in order: of the generation."""
    return str(getattr(claim, "generation_id", None) or claim.id)


_TIES = (
    ("generation_requests", "id", "next_attempt_at", "state = 'STORING'"),
    ("generation_requests", "id", "lease_until", "lease_until IS NOT NULL AND ended_at IS NULL"),
    ("poll_tasks", "task_id", "next_poll_at", "ended_at IS NULL"),
    ("poll_tasks", "task_id", "lease_until", "lease_until IS NOT NULL AND ended_at IS NULL"),
)
"""Times by which stores order rows: table, key, column, and which rows."""


async def break_ties(database: Database) -> None:
    """Make equal due times and lease ends differ by microseconds in the order of the ids.

    Where several rows are due at the same time, which of them a claim takes follows from the layout of the table and
    not from a rule of the product.
    """
    for table, key, column, condition in _TIES:
        await execute(
            database,
            f"""UPDATE {table} t SET {column} = t.{column} + tie.place * interval '1 microsecond'
            FROM (SELECT {key}, row_number() OVER (PARTITION BY {column} ORDER BY length({key}), {key}) - 1 AS place
                FROM {table} WHERE {condition}) tie
            WHERE t.{key} = tie.{key} AND tie.place > 0""",
        )


async def make_older(database: Database, ids: Sequence[str], seconds: float) -> None:
    """Let waiting generations have been accepted `seconds` earlier."""
    shift = "make_interval(secs => :seconds)"
    await execute(
        database,
        f"""UPDATE generation_requests SET created_at = created_at - {shift}, released_at = released_at - {shift},
            turn_at = turn_at - {shift} WHERE id = ANY(:ids)""",
        ids=list(ids),
        seconds=seconds,
    )


_DROPPED = re.compile(r"(_seconds|_ms|_bytes|_percent|_duration|_response_time|_at|_token|_score)$")
_DROPPED_NAMES = frozenset(
    {
        *("prefix", "provider_task_id", "provider_request_id", "polls", "progress", "seconds", "memory_usage"),
        *("cpu_usage", "request_rate", "time_range", "from", "to", "created", "hour", "at", "timestamp"),
    }
)
"""Fields of messages that hold times, durations or figures of the machine: kept as whether they are set."""
_PLACES = 6


def message(found: Message) -> Row:
    """A message of a public API as a canonical row: money in micro-dollars, times only as set or unset."""
    whole = MessageToDict(found, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    row: Row = document(whole)
    return row


def document(value: Any, name: str = "") -> Any:
    """A JSON value of a public API as a canonical value, see `message`. `name`: of its field, snake or camel case."""
    snake = _snake(name)
    if snake in _DROPPED_NAMES or _DROPPED.search(snake):
        return bool(value) and value != "0"
    if isinstance(value, dict):
        return {_canonical(key): document(part, key) for key, part in _without_digest_of_video(value).items()}
    if isinstance(value, list):
        return [document(part) for part in value]
    return _scalar(value, snake)


def _without_digest_of_video(value: dict[str, Any]) -> dict[str, Any]:
    """An output without its digest where it is a video: the simulators encode a video differently at times."""
    is_video = value.get("type") == "video" and "sha256" in value
    return {**value, "sha256": bool(value["sha256"])} if is_video else value


def _scalar(value: Any, name: str) -> Any:
    if name.endswith("_usd") and isinstance(value, int | float | str):
        return _exact_micros(value)
    # protobuf writes numbers of 64 bits as texts.
    if name.endswith("_micros") and isinstance(value, str):
        return int(value)
    if isinstance(value, float):
        return round(value, _PLACES)
    return _without_place(value) if isinstance(value, str) else value


def _canonical(name: str) -> str:
    snake = _snake(name)
    return snake.removesuffix("_usd") + "_micros" if snake.endswith("_usd") else snake


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _exact_micros(usd: float | str) -> int:
    return int((Decimal(str(usd)) * MICROS).to_integral_value(rounding=ROUND_HALF_EVEN))


_ADDRESS = re.compile(r"https?://(?:127\.0\.0\.1|localhost):\d+")
_DATE = re.compile(r"\b\d{4}/\d{2}/\d{2}\b")
_QUERY = re.compile(r"\?(?:X-Amz-|expires=|signature=|token=)\S*")


def _without_place(text: str) -> str:
    """A text without the ports of this run, the date in keys of objects, and the signatures of URLs."""
    return _DATE.sub("DATE", _QUERY.sub("?signed", _ADDRESS.sub("http://HOST", text)))


async def forget_work(database: Database) -> None:
    """Delete all generations, and what accounts know of them."""
    tables = "generation_requests, submissions, poll_tasks, provider_accounts, api_key_turns"
    await execute(database, f"TRUNCATE {tables} CASCADE")
