"""Late replies to submissions that an operator has attached to a task.

The reply says what the provider has really made. The generation that polls the operator's task holds that instead, as
long as it has no result.
"""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy.engine import Connection

from libs.common.database.records_dispatch import DispatchOutcome, NewTask
from libs.common.database.states import State
from libs.common.database.stores.dispatching import spool
from libs.common.database.stores.late_results import LateResult, move_continuation
from libs.common.database.stores.sets import statement

_LOCK = statement("""
SELECT g.id, t.task_id FROM generation_requests g
JOIN poll_tasks t ON t.generation_id = g.id AND t.provider_id = :provider_id AND t.ended_at IS NULL
WHERE g.continues_id = :generation_id AND NOT g.is_late AND g.state = 'PROCESSING' FOR UPDATE""")

_IS_KNOWN = statement("SELECT 1 FROM poll_tasks WHERE provider_id = :provider_id AND task_id = :task_id")

_FOLLOW = statement("""
UPDATE poll_tasks
SET task_id = :task_id, check_url = :check_url, state = 'PENDING', attempts = 0, retry_count = 0, last_error = NULL,
    answered_at = NULL, missing_since = NULL, next_poll_at = now(), lease_owner = NULL, lease_until = NULL,
    lease_token = lease_token + 1, deadline_at = now() + make_interval(secs => :max_duration_seconds)
WHERE generation_id = :made AND ended_at IS NULL""")

_NAME = statement("UPDATE generation_requests SET provider_task_id = :task_id, updated_at = now() WHERE id = :made")

_END = statement("""
UPDATE poll_tasks
SET state = 'SUCCESS', progress = 100, last_error = NULL, ended_at = now(), lease_owner = NULL, lease_until = NULL,
    lease_token = lease_token + 1
WHERE generation_id = :made AND ended_at IS NULL""")


def correct_attached(connection: Connection, outcome: DispatchOutcome, provider_id: str) -> tuple[str, State] | None:
    """Let the generation that polls an attached task hold the task or the result of the reply instead.

    Args:
        connection: of the transaction.
        outcome: what the provider answered to the submit.
        provider_id: the account that the submission went to.

    Returns that generation and its state; None where it polls that very task, or has ended.
    """
    key = {"provider_id": provider_id, "generation_id": outcome.generation_id}
    found = connection.execute(_LOCK, key).one_or_none()
    if found is None:
        return None
    if outcome.task is not None:
        return _follow(connection, found.id, outcome.task, provider_id)
    connection.execute(_END, {"made": found.id})
    result = LateResult(outcome.state, outcome.sources, outcome.outputs, outcome.cost_usd)
    move_continuation(connection, found.id, result)
    spool(connection, {found.id: outcome.spool})
    return found.id, outcome.state


def _follow(connection: Connection, made: str, task: NewTask, provider_id: str) -> tuple[str, State] | None:
    if connection.execute(_IS_KNOWN, {"provider_id": provider_id, "task_id": task.task_id}).one_or_none():
        return None
    connection.execute(_FOLLOW, {**asdict(task), "made": made})
    connection.execute(_NAME, {"task_id": task.task_id, "made": made})
    return made, State.PROCESSING
