"""Late results: records the end that a provider reports for a task that was given up.

A generation that has ended never changes. The result of one that timed out, or of one whose provider had called it
failed or cancelled before it called it done, is held by a new generation that continues it; for one that its caller
cancelled only the money is resolved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.engine import Connection, Row

from libs.common.database import states
from libs.common.database.engine import Database
from libs.common.database.records import Json
from libs.common.database.records_tasks import LateTask
from libs.common.database.states import State
from libs.common.database.stores.billing import Answer, resolve_money
from libs.common.database.stores.inserting import COPIED_COLUMNS
from libs.common.database.stores.sets import listed, records, rows_as_json, statement
from libs.common.errors import ErrorCode
from libs.common.ids import new_id

# A late result belongs to no batch, and reserves the money that its submission had at risk.
_OWN = {"batch_id", "batch_index", "batch_ref", "images_from", "reserved_usd"}
_COPIED = [name for name in COPIED_COLUMNS if name not in _OWN]

# The claim schedules the next check, so that a lost check delays nothing else. The interval is the time since the end
# of the task, within bounds.
_CLAIM = statement("""
WITH free AS (
    SELECT row.provider_id, row.slots FROM jsonb_to_recordset(CAST(:slots AS jsonb)) AS row(provider_id text, slots int)
    LEFT JOIN provider_accounts a USING (provider_id)
    WHERE a.polls_paused_at IS NULL
), due AS (
    SELECT found.* FROM free CROSS JOIN LATERAL (
        SELECT t.generation_id FROM poll_tasks t
        WHERE t.provider_id = free.provider_id AND t.late_poll_at <= now()
        ORDER BY t.late_poll_at LIMIT free.slots FOR UPDATE SKIP LOCKED) found
)
UPDATE poll_tasks t
SET late_poll_at = CASE WHEN now() < t.ended_at + make_interval(secs => :late_seconds) THEN now() + LEAST(
        make_interval(secs => :longest_seconds), GREATEST(
        make_interval(secs => :first_seconds), 2 * (now() - t.ended_at))) END
FROM generation_requests g
WHERE t.generation_id = ANY(ARRAY(SELECT generation_id FROM due)) AND g.id = t.generation_id
RETURNING t.provider_id, t.task_id, t.generation_id, g.model_identifier, g.request_id, t.check_url, g.parameters,
    g.number_of_outputs, g.media_type, CAST(EXTRACT(EPOCH FROM now() - t.created_at) AS float) AS age_seconds""")

_GET = statement("""
SELECT t.provider_id, t.task_id, t.generation_id, g.model_identifier, g.request_id, t.check_url, g.parameters,
    g.number_of_outputs, g.media_type, CAST(EXTRACT(EPOCH FROM now() - t.created_at) AS float) AS age_seconds
FROM poll_tasks t JOIN generation_requests g ON g.id = t.generation_id
WHERE t.provider_id = :provider_id AND t.task_id = :task_id AND t.state IN ('FAILED', 'CANCELLED')
    AND (:is_success OR t.last_error ->> 'code' = ANY(:codes))""")

_WAKE = statement("""
UPDATE poll_tasks SET late_poll_at = now()
WHERE provider_id = :provider_id AND task_id = :task_id AND ended_at IS NOT NULL
    AND last_error ->> 'code' = ANY(:codes)
RETURNING task_id""")

_NOTE_UNREAD = statement("""
UPDATE poll_tasks SET unread_reply = CAST(:reply AS jsonb) WHERE provider_id = :provider_id AND task_id = :task_id""")

# Locks the row of the task. A second transaction waits and then finds the task continued or resolved.
_LOCK = statement("""
SELECT t.generation_id, g.continues_id,
    t.state IN ('FAILED', 'CANCELLED') AND (:is_success OR g.error ->> 'code' = ANY(:codes)) AND g.cost_usd IS NULL
        AS is_open,
    g.cancel_requested_at IS NOT NULL OR g.deleted_at IS NOT NULL AS is_unwanted
FROM poll_tasks t JOIN generation_requests g ON g.id = t.generation_id
WHERE t.provider_id = :provider_id AND t.task_id = :task_id AND t.ended_at IS NOT NULL FOR UPDATE OF t""")

# The submission of a task that an operator attached belongs to the generation that this one continues.
_LOCK_SUBMISSION = statement("""
SELECT id, generation_id, billing, resolution_note, GREATEST(at_risk_usd, spent_usd) AS held_usd,
    CASE WHEN billing = 'BILLED' THEN CAST(spent_usd AS float) END AS billed_usd FROM submissions
WHERE provider_id = :provider_id AND (
    generation_id = :generation_id AND provider_task_id = :task_id AND state IN ('ACCEPTED', 'UNCERTAIN')
    OR generation_id = :continues_id AND resolution = 'ATTACHED')
ORDER BY id DESC LIMIT 1 FOR UPDATE""")

_CONTINUE = statement(f"""
INSERT INTO generation_requests (id, {", ".join(_COPIED)},
    state, reserved_usd, continues_id, is_late, provider_task_id, submitted_at)
SELECT :new_id, {listed(_COPIED, "g")},
    CASE WHEN CAST(:task_id AS text) IS NULL THEN 'DISPATCHING' ELSE 'PROCESSING' END, :reserved_usd, g.id, true,
    CAST(:task_id AS text), g.submitted_at
FROM generation_requests g WHERE g.id = :generation_id""")

_FOLLOW = statement("""
UPDATE poll_tasks
SET generation_id = :new_id, state = 'SUCCESS', progress = 100, last_error = NULL, late_poll_at = NULL,
    lease_token = lease_token + 1
WHERE provider_id = :provider_id AND task_id = :task_id""")

_MOVE = statement("""
UPDATE generation_requests
SET state = :state, sources = CAST(:sources AS jsonb), outputs = CAST(:outputs AS jsonb),
    cost_usd = COALESCE(cost_usd, :cost_usd),
    next_attempt_at = now(), updated_at = now(), ended_at = CASE WHEN :state = ANY(:terminal) THEN now() END
WHERE id = :new_id""")

_FORGET = statement("""
UPDATE poll_tasks SET late_poll_at = NULL WHERE provider_id = :provider_id AND task_id = :task_id""")

_BY_REPORT = "by the provider's report of the task's end"
_GIVEN_UP = [ErrorCode.TASK_TIMEOUT.value, ErrorCode.TASK_CANCELLED.value]


@dataclass(frozen=True, slots=True)
class LatePolicy:
    """The schedule of checks of a task that was given up, in seconds after its end.

    The first check is after `first_seconds`. The interval doubles with each check up to `longest_seconds`. The last
    check is after `last_seconds`.
    """

    first_seconds: float = 60.0
    longest_seconds: float = 3_600.0
    last_seconds: float = 86_400.0


@dataclass(frozen=True, slots=True)
class LateResult:
    """The end that a provider reports for a task that was given up.

    Attributes:
        state: STORING or SUCCESS for a result; FAILED for an end without a result, which is not billed.
        sources, outputs: of a result, as for `PollOutcome`.
        cost_usd: the cost of the result, in US dollars; None: unknown.
    """

    state: State
    sources: list[Json] | None = None
    outputs: list[Json] | None = None
    cost_usd: float | None = None


class LateStore:
    """Reads and writes of late checks."""

    def __init__(self, database: Database, policy: LatePolicy) -> None:
        self._database = database
        self._policy = policy

    async def claim(self, slots: Mapping[str, int]) -> list[LateTask]:
        """Claim tasks whose check is due, at most `slots[provider_id]` of each provider, and schedule their next."""
        parameters = {
            "slots": rows_as_json({"provider_id": provider_id, "slots": count} for provider_id, count in slots.items()),
            "first_seconds": self._policy.first_seconds,
            "longest_seconds": self._policy.longest_seconds,
            "late_seconds": self._policy.last_seconds,
        }
        return await self._database.transaction(
            "claim_late_tasks", lambda c: records(LateTask, c.execute(_CLAIM, parameters))
        )

    async def get(self, provider_id: str, task_id: str, *, is_success: bool) -> LateTask | None:
        """Return the task if it was given up; with `is_success`, also if its provider called it failed; else None."""
        key = {"provider_id": provider_id, "task_id": task_id, "codes": _GIVEN_UP, "is_success": is_success}
        found = await self._database.transaction("get_late_task", lambda c: records(LateTask, c.execute(_GET, key)))
        return found[0] if found else None

    async def wake(self, provider_id: str, task_id: str) -> bool:
        """Make the check of a task due now. Return False if the task was not given up."""
        parameters = {"provider_id": provider_id, "task_id": task_id, "codes": _GIVEN_UP}
        return await self._database.transaction(
            "wake_late_task", lambda c: c.execute(_WAKE, parameters).scalar_one_or_none() is not None
        )

    async def note_unread(self, task: LateTask, reply_json: str) -> None:
        """Store a reply that could not be read."""
        parameters = {"provider_id": task.provider_id, "task_id": task.task_id, "reply": reply_json}
        await self._database.transaction("note_unread_reply", lambda c: c.execute(_NOTE_UNREAD, parameters))

    async def record(self, task: LateTask, result: LateResult) -> str | None:
        """Record how a task that has ended here ended; return the id of the generation that holds its result, or None.

        Of concurrent calls for one task, one creates the continuation.
        """

        def work(connection: Connection) -> str | None:
            task_key = {"provider_id": task.provider_id, "task_id": task.task_id}
            is_success = result.state is not State.FAILED
            found = connection.execute(_LOCK, {**task_key, "codes": _GIVEN_UP, "is_success": is_success}).one_or_none()
            if found is None or not found.is_open:
                return None
            key = {**task_key, "generation_id": found.generation_id}
            of_task = {**key, "continues_id": found.continues_id}
            submission = connection.execute(_LOCK_SUBMISSION, of_task).one_or_none()
            connection.execute(_FORGET, key)
            if result.state is State.FAILED or found.is_unwanted:
                _resolve(connection, submission, result)
                return None
            return _continue(connection, key, submission, result)

        return await self._database.transaction("record_late_task", work)


def _resolve(connection: Connection, submission: Row[Any] | None, result: LateResult) -> None:
    """Record that the money is spent, where there is a result that nobody wants, or that it was never billed.

    The provider's answer replaces its own earlier one and what was counted as spent after the term, and nothing that an
    operator recorded.
    """
    if submission is None:
        return
    billing: Answer = "NOT_BILLED" if result.state is State.FAILED else "BILLED"
    is_by_operator = submission.billing is not None and submission.resolution_note != _BY_REPORT
    replaced = ("COUNTED",) if is_by_operator else ("COUNTED", "NOT_BILLED")
    note = _BY_REPORT if submission.billing in {None, *replaced} else None
    found = {submission.id: submission.generation_id}
    resolve_money(connection, found, billing, cost_usd=result.cost_usd, note=note, replaced=replaced)


def _continue(connection: Connection, key: dict[str, Any], submission: Row[Any] | None, result: LateResult) -> str:
    states.check(State.PROCESSING, result.state)
    # The amount of the provider's bill, which an operator recorded, wins over the catalog's price.
    billed_usd = submission.billed_usd if submission is not None else None
    if submission is not None:
        resolve_money(connection, {submission.id: submission.generation_id}, "CONTINUED")
    made = new_id("gen")
    insert_continuation(
        connection,
        made,
        generation_id=key["generation_id"],
        task_id=key["task_id"],
        reserved_usd=submission.held_usd if submission is not None else 0,
    )
    connection.execute(_FOLLOW, {**key, "new_id": made})
    cost_usd = result.cost_usd if billed_usd is None else billed_usd
    move_continuation(connection, made, replace(result, cost_usd=cost_usd))
    return made


def insert_continuation(
    connection: Connection, made: str, *, generation_id: str, task_id: str | None, reserved_usd: Any
) -> None:
    """Insert the generation `made`, which holds what was late for another one, in the state in which it waited.

    Args:
        connection: of the transaction.
        made: its id.
        generation_id: the one that it continues, which has ended or goes on without this result.
        task_id: the provider's task; None: the provider answered with the result itself.
        reserved_usd: what the submission had at risk, in US dollars.
    """
    parameters = {"new_id": made, "generation_id": generation_id, "task_id": task_id, "reserved_usd": reserved_usd}
    connection.execute(_CONTINUE, parameters)


def move_continuation(connection: Connection, made: str, result: LateResult) -> None:
    """Give the generation `made` its result, to be stored or stored already."""
    moved = {
        "new_id": made,
        "state": result.state.value,
        "sources": None if result.sources is None else rows_as_json(result.sources),
        "outputs": None if result.outputs is None else rows_as_json(result.outputs),
        "cost_usd": result.cost_usd,
        "terminal": sorted(states.TERMINAL),
    }
    connection.execute(_MOVE, moved)
