"""Tasks that were given up, and what their providers say of them later."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from libs.common.database.engine import Database
from libs.common.database.records_tasks import PollOutcome
from libs.common.database.states import State, TaskState
from libs.common.database.stores.late_results import LatePolicy, LateResult, LateStore
from libs.common.database.stores.polling import PollStore
from libs.common.errors import ErrorCode, GenerationError
from tests.support.rows import execute, insert, new_generation

SOURCES: list[dict[str, Any]] = [{"type": "image", "url": "https://example.com/1.png"}]
STORING = LateResult(State.STORING, sources=SOURCES, cost_usd=0.03)
MONEY = "SELECT at_risk_usd::float AS at_risk, spent_usd::float AS spent, billing FROM submissions"
CONTINUATIONS = "SELECT * FROM generation_requests WHERE continues_id IS NOT NULL"


def error_of(code: ErrorCode) -> dict[str, Any]:
    return GenerationError(code, "no").to_json()


TIMEOUT = PollOutcome(
    "bfl", "t", "", 0, TaskState.FAILED, error=error_of(ErrorCode.TASK_TIMEOUT), generation_state=State.FAILED,
    is_at_risk=True,
)  # fmt: skip
CANCEL = replace(
    TIMEOUT, state=TaskState.CANCELLED, error=error_of(ErrorCode.TASK_CANCELLED), generation_state=State.CANCELLED
)


def polls(database: Database) -> PollStore:
    return PollStore(database, owner="one", lease_seconds=30)


def late_store(database: Database, **policy: float) -> LateStore:
    return LateStore(database, LatePolicy(**policy))


async def submitted(database: Database, *, task_id: str = "t", submission_id: str = "sub_1", **changes: Any) -> str:
    """A generation whose task was submitted and costs 0.04 USD by the catalog."""
    generation = new_generation(**{"callback_url": "https://example.com/cb", "api_key_id": "key_1", **changes})
    await insert(database, [generation])
    await execute(database, "UPDATE generation_requests SET state = 'DISPATCHING' WHERE id = :id", id=generation.id)
    await execute(
        database,
        """UPDATE generation_requests SET state = 'PROCESSING', provider_task_id = :task_id, submitted_at = now()
        WHERE id = :id""",
        id=generation.id,
        task_id=task_id,
    )
    await execute(
        database,
        """INSERT INTO submissions (id, generation_id, attempt, provider_id, state, provider_task_id, ended_at,
            expected_cost_usd) VALUES (:submission_id, :id, 1, 'bfl', 'ACCEPTED', :task_id, now(), 0.04)""",
        id=generation.id,
        task_id=task_id,
        submission_id=submission_id,
    )
    await execute(
        database,
        """INSERT INTO poll_tasks (provider_id, task_id, generation_id, adapter_name, strategy, poll_interval_ms,
            next_poll_at, deadline_at) VALUES ('bfl', :task_id, :id, 'flux', 'fixed', 100, now(), now())""",
        id=generation.id,
        task_id=task_id,
    )
    return generation.id


async def given_up(database: Database, end: PollOutcome = TIMEOUT, *, is_wanted: bool = False, **changes: Any) -> str:
    """A generation whose task ended so. `is_wanted`: its caller has not asked for the cancel."""
    generation_id = await submitted(database, **changes)
    if end.state is TaskState.CANCELLED and not is_wanted:
        sql = "UPDATE generation_requests SET cancel_requested_at = now() WHERE id = :id"
        await execute(database, sql, id=generation_id)
    (task,) = await polls(database).claim({"bfl": 1})
    ended = replace(end, task_id=task.task_id, generation_id=task.generation_id, lease_token=task.lease_token)
    assert await polls(database).end([ended]) == [end.generation_state]
    return generation_id


async def settle(database: Database, result: LateResult) -> str | None:
    task = await late_store(database).get("bfl", "t", is_success=result.state is not State.FAILED)
    assert task is not None
    return await late_store(database).record(task, result)
