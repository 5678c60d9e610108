"""Attempts to submit as operators see them, and what they decide about uncertain ones."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from libs.common.database.engine import Database
from libs.common.database.records import NewTask, SubmissionRecord
from libs.common.database.stores.sets import records, statement
from libs.common.errors import FieldViolation, InvalidRequest, NotFound

Resolution = Literal["ATTACHED", "RESUBMITTED", "DISMISSED"]

_COLUMNS = """
SELECT id, generation_id, attempt, provider_id, model_identifier, state, provider_task_id, provider_request_id,
    http_status, error, latency_ms, started_at, ended_at, resolution, resolution_note, resolved_at
FROM submissions"""
_GET = statement(f"{_COLUMNS} WHERE id = :id")
_OF_GENERATION = statement(f"""
{_COLUMNS} WHERE generation_id = :generation_id AND id > :after ORDER BY id LIMIT :limit""")
_UNRESOLVED = statement(f"""
{_COLUMNS} WHERE state = 'UNCERTAIN' AND resolved_at IS NULL AND id > :after ORDER BY id LIMIT :limit""")

# The generation is locked as well, so that nobody else continues it; what was continued before is read once it is.
_LOCK = statement("""
SELECT s.generation_id, s.provider_id, s.resolution, s.state AS submission_state, g.state
FROM submissions s JOIN generation_requests g ON g.id = s.generation_id WHERE s.id = :id FOR UPDATE OF s, g""")
_CONTINUED_BY = statement("SELECT id FROM generation_requests WHERE continues_id = :id AND id > :id")

_RESOLVE = statement("""
UPDATE submissions SET resolution = :resolution, resolution_note = :note, resolved_at = now()
WHERE generation_id = :generation_id AND id = :id""")

# One of a batch takes its place there, and waits until that is free.
_CONTINUE = statement("""
INSERT INTO generation_requests (id, state, model_identifier, provider_id, media_type, prompt, input_images,
    number_of_outputs, parameters, priority, when_uncertain, user_id, labels, request_id, api_key_id, owner, turn_at,
    expected_cost_usd, reserved_usd, callback_url, request_hash, batch_id, batch_index, batch_ref, images_from,
    preprocess, continues_id, provider_task_id, submitted_at)
SELECT :new_id, CASE WHEN CAST(:state AS text) = 'PENDING' AND batch_id IS NOT NULL THEN 'HELD' ELSE :state END,
    model_identifier, provider_id, media_type, prompt, input_images,
    number_of_outputs, parameters, priority, when_uncertain, user_id, labels, request_id, api_key_id, owner, turn_at,
    expected_cost_usd, reserved_usd, callback_url, request_hash, batch_id, batch_index, batch_ref, images_from,
    preprocess, id, CAST(:task_id AS text),
    CASE WHEN CAST(:task_id AS text) IS NOT NULL THEN submitted_at END
FROM generation_requests WHERE id = :generation_id""")

_FOLLOW = statement("""
INSERT INTO poll_tasks (provider_id, task_id, generation_id, adapter_name, check_url, strategy, poll_interval_ms,
    next_poll_at, deadline_at)
VALUES (:provider_id, :task_id, :generation_id, :adapter_name, :check_url, :strategy, :poll_interval_ms,
    now(), now() + make_interval(secs => :max_duration_seconds))""")


@dataclass(frozen=True, slots=True)
class _Locked:
    """An attempt that this transaction has locked, with its generation's state and continuation."""

    generation_id: str
    provider_id: str
    resolution: str | None
    submission_state: str
    state: str
    continued_by_id: str | None


def _refused(field: str, rule: str, description: str) -> InvalidRequest:
    return InvalidRequest([FieldViolation(field, rule, description)])


class SubmissionStore:
    """Reads of attempts, and the resolution of uncertain ones."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, submission_id: str) -> SubmissionRecord | None:
        """The attempt of that id, or None."""
        found = await self._database.transaction(
            "get_submission", lambda c: records(SubmissionRecord, c.execute(_GET, {"id": submission_id}))
        )
        return found[0] if found else None

    async def list_page(self, limit: int, *, generation_id: str | None, after: str) -> list[SubmissionRecord]:
        """At most `limit` attempts after the id `after`: a generation's, or all that wait for an operator."""
        query = _UNRESOLVED if generation_id is None else _OF_GENERATION
        parameters = {"limit": limit, "generation_id": generation_id, "after": after}
        return await self._database.transaction(
            "list_submissions", lambda c: records(SubmissionRecord, c.execute(query, parameters))
        )

    async def resolve(
        self, submission_id: str, resolution: Resolution, *, note: str, new_id: str, task: NewTask | None
    ) -> str | None:
        """Write what an operator found out about an uncertain attempt.

        A generation that has failed stays as it is; ATTACHED (with the `task`) and RESUBMITTED make another one with
        the id `new_id` that continues it. Said again, the same resolution answers the same.

        Returns the id of the generation that continues it; None for DISMISSED.
        Raises NotFound, and InvalidRequest where there is nothing to resolve or it was resolved otherwise.
        """

        def work(connection: Connection) -> str | None:
            found = _lock(connection, submission_id)
            if found.resolution == resolution:
                return None if resolution == "DISMISSED" else found.continued_by_id
            _check(found, resolution)
            row = {"generation_id": found.generation_id, "id": submission_id}
            connection.execute(_RESOLVE, {**row, "resolution": resolution, "note": note or None})
            if resolution == "DISMISSED":
                return None
            _continue(connection, found, new_id, task)
            return new_id

        try:
            return await self._database.transaction("resolve_submission", work)
        except IntegrityError as error:
            raise _refused("task_id", "unique", "another generation follows this task already") from error


def _lock(connection: Connection, submission_id: str) -> _Locked:
    row = connection.execute(_LOCK, {"id": submission_id}).mappings().one_or_none()
    if row is None:
        raise NotFound("submission_id", f"There is no submission {submission_id[:100]!r}.")
    continued_by_id = connection.execute(_CONTINUED_BY, {"id": row["generation_id"]}).scalar_one_or_none()
    return _Locked(**row, continued_by_id=continued_by_id)


def _check(found: _Locked, resolution: Resolution) -> None:
    if found.submission_state != "UNCERTAIN":
        raise _refused("submission_id", "uncertain", f"its outcome is known: {found.submission_state}")
    if found.resolution is not None:
        raise _refused("submission_id", "unresolved", f"it was resolved already: {found.resolution}")
    if resolution == "DISMISSED":
        return
    if found.continued_by_id is not None:
        raise _refused("submission_id", "once", f"its generation is continued by {found.continued_by_id} already")
    if found.state != "FAILED":
        raise _refused("submission_id", "failed", f"its generation has not failed: it is {found.state}")


def _continue(connection: Connection, found: _Locked, new_id: str, task: NewTask | None) -> None:
    parameters = {
        "new_id": new_id,
        "state": "PENDING" if task is None else "PROCESSING",
        "task_id": task.task_id if task else None,
        "generation_id": found.generation_id,
    }
    connection.execute(_CONTINUE, parameters)
    if task is not None:
        connection.execute(_FOLLOW, {**asdict(task), "provider_id": found.provider_id, "generation_id": new_id})
