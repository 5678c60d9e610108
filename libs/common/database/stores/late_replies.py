"""Late replies: what becomes of a provider's answer to a submit that arrives once the claim of the row has ended.

The process that sent the request may have been paused for longer than its lease. By then another one holds the row and
looks the submission up, or has ended the generation as uncertain. The reply is better than any lookup: it ends the
claim of that process, or a new generation holds what the provider made and continues the one that has ended.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy.engine import Connection, Row

from libs.common.database import states
from libs.common.database.engine import Database
from libs.common.database.records_dispatch import DispatchOutcome
from libs.common.database.states import State, SubmissionState
from libs.common.database.stores.billing import keep_bill, resolve_money
from libs.common.database.stores.dispatching import end_dispatches, spool
from libs.common.database.stores.late_attached import correct_attached
from libs.common.database.stores.late_results import LateResult, insert_continuation, move_continuation
from libs.common.database.stores.sets import statement
from libs.common.ids import new_id

# In the order in which operators' resolutions lock them.
_LOCK = statement("""
SELECT s.id, s.generation_id, s.provider_id, s.state AS submission_state, s.resolution, s.billing,
    GREATEST(s.at_risk_usd, s.spent_usd) AS held_usd,
    CASE WHEN s.billing = 'BILLED' THEN CAST(s.spent_usd AS float) END AS billed_usd,
    g.state, g.lease_owner, g.lease_token, g.provider_id AS now_provider_id,
    g.cancel_requested_at IS NOT NULL AS is_cancelled, g.deleted_at IS NOT NULL AS is_deleted
FROM submissions s JOIN generation_requests g ON g.id = s.generation_id
WHERE s.generation_id = :generation_id AND s.id = :submission_id FOR UPDATE OF s, g""")

_NOTE = statement("""
UPDATE submissions
SET provider_task_id = COALESCE(:task_id, provider_task_id), http_status = COALESCE(:http_status, http_status),
    latency_ms = COALESCE(:latency_ms, latency_ms),
    provider_request_id = COALESCE(:provider_request_id, provider_request_id),
    reply = COALESCE(CAST(:reply AS jsonb), reply)
WHERE generation_id = :generation_id AND id = :submission_id""")

_ATTACH = statement("""
UPDATE submissions
SET resolution = COALESCE(resolution, 'ATTACHED'), resolved_at = COALESCE(resolved_at, now()),
    resolution_note = COALESCE(resolution_note, :note)
WHERE generation_id = :generation_id AND id = :submission_id""")

_FOLLOW = statement("""
INSERT INTO poll_tasks (provider_id, task_id, generation_id, adapter_name, check_url, strategy, poll_interval_ms,
    next_poll_at, deadline_at)
VALUES (:provider_id, :task_id, :generation_id, :adapter_name, :check_url, :strategy, :poll_interval_ms,
    now(), now() + make_interval(secs => :max_duration_seconds))
ON CONFLICT (provider_id, task_id) DO NOTHING
RETURNING task_id""")

_CANCEL = statement("UPDATE generation_requests SET cancel_requested_at = now() WHERE id = :id")

_RESULTS = {State.STORING, State.SUCCESS}
_BY_REPLY = "by the provider's late reply"


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a late reply is kept. `state`: that of the generation `generation_id`, which holds it now."""

    generation_id: str
    state: State


class LateReplyStore:
    """Keeps what a provider answered to a submit whose claim has ended."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep(self, outcome: DispatchOutcome) -> Kept | None:
        """Write an outcome that `DispatchStore.end` did not take because its lease was lost.

        A refusal says that nothing was billed. A reply that cannot be read, and the task of a request that was deleted,
        are kept with the submission.

        Returns which generation holds its task or result now; None where it has neither, and where they are known.
        """
        if outcome.submission_id is None:
            return None
        return await self._database.transaction("keep_late_reply", lambda connection: _keep(connection, outcome))


def _keep(connection: Connection, outcome: DispatchOutcome) -> Kept | None:
    key = {"generation_id": outcome.generation_id, "submission_id": outcome.submission_id}
    found = connection.execute(_LOCK, key).one_or_none()
    if found is None:
        return None
    is_known = outcome.submission_state != SubmissionState.UNCERTAIN
    if is_known and found.submission_state == SubmissionState.STARTED and found.state == State.DISPATCHING:
        return _end_claim(connection, outcome, found)
    if found.submission_state not in {SubmissionState.STARTED, SubmissionState.UNCERTAIN}:
        return None
    connection.execute(_NOTE, {**key, **_facts(outcome)})
    return _keep_after_end(connection, outcome, found)


def _keep_after_end(connection: Connection, outcome: DispatchOutcome, found: Row[Any]) -> Kept | None:
    """Keep a reply to a submission whose generation has ended, or goes on without it."""
    if found.resolution == "ATTACHED" and found.billing == "CONTINUED" and outcome.has_result:
        corrected = correct_attached(connection, outcome, found.provider_id)
        return None if corrected is None else Kept(*corrected)
    is_open = found.submission_state == SubmissionState.UNCERTAIN and found.billing != "CONTINUED"
    if not is_open or found.provider_id != found.now_provider_id:
        return None
    if outcome.submission_state == SubmissionState.NOT_ACCEPTED:
        submission = {found.id: found.generation_id}
        resolve_money(connection, submission, "NOT_BILLED", note=_BY_REPLY, dismiss=True, replaced=("COUNTED",))
        return None
    return _continue(connection, outcome, found) if outcome.has_result else None


def _facts(outcome: DispatchOutcome) -> dict[str, Any]:
    return {
        "task_id": outcome.task.task_id if outcome.task else None,
        "http_status": outcome.http_status,
        "latency_ms": outcome.latency_ms,
        "provider_request_id": outcome.provider_request_id,
        "reply": None if outcome.reply is None else json.dumps(outcome.reply),
    }


def _end_claim(connection: Connection, outcome: DispatchOutcome, found: Row[Any]) -> Kept | None:
    """Write the outcome in the place of the process that holds the row, which has sent nothing while it is open."""
    ended = end_dispatches(connection, [replace(outcome, lease_token=found.lease_token)], owner=found.lease_owner)
    state = ended.get(outcome.generation_id)
    return None if state is None else Kept(outcome.generation_id, state)


def _continue(connection: Connection, outcome: DispatchOutcome, found: Row[Any]) -> Kept | None:
    """Let a new generation hold the task or the result; of a request that nobody wants any more, only the money.

    The task of a cancelled request is held as well: its cancel is passed on to the provider.
    """
    task_id = outcome.task.task_id if outcome.task else None
    submission = {found.id: found.generation_id}
    if found.is_deleted or (found.is_cancelled and outcome.task is None):
        if outcome.state in _RESULTS:
            resolve_money(connection, submission, "BILLED", cost_usd=outcome.cost_usd, replaced=("COUNTED",))
        return None
    made = new_id("gen")
    if outcome.task is not None:
        row = {**asdict(outcome.task), "provider_id": found.provider_id, "generation_id": made}
        if connection.execute(_FOLLOW, row).scalar_one_or_none() is None:
            # A lookup or an operator has found the task before.
            return None
    insert_continuation(
        connection, made, generation_id=found.generation_id, task_id=task_id, reserved_usd=found.held_usd
    )
    key = {"generation_id": found.generation_id, "submission_id": found.id}
    connection.execute(_ATTACH, {**key, "note": _BY_REPLY})
    keep_bill(connection, found.id, found.generation_id, made=made)
    resolve_money(connection, submission, "CONTINUED")
    if outcome.task is not None:
        if found.is_cancelled:
            connection.execute(_CANCEL, {"id": made})
        return Kept(made, State.PROCESSING)
    cost_usd = outcome.cost_usd if found.billed_usd is None else found.billed_usd
    states.check(State.DISPATCHING, outcome.state)
    move_continuation(connection, made, LateResult(outcome.state, outcome.sources, outcome.outputs, cost_usd))
    spool(connection, {made: outcome.spool})
    return Kept(made, outcome.state)
