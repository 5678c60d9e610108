"""Submissions: reads for operators, and the resolution of one that is uncertain or was given up."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from libs.common.database.engine import Database
from libs.common.database.records_dispatch import NewTask, SubmissionRecord
from libs.common.database.stores.billing import Answer, SubmissionFilter, keep_bill, resolve_money
from libs.common.database.stores.inserting import COPIED, copied
from libs.common.database.stores.second_payment import PRICE_USD, OpenPayment, check_consent, open_payments
from libs.common.database.stores.sets import records, statement
from libs.common.errors import FieldViolation, InvalidRequest, NotFound

Resolution = Literal["ATTACHED", "RESUBMITTED", "DISMISSED"]

_COLUMNS = """
SELECT s.id, s.generation_id, s.attempt, s.provider_id, s.model_identifier, s.state, s.provider_task_id,
    s.provider_request_id, s.http_status, s.error, s.latency_ms, s.started_at, s.ended_at, s.resolution,
    s.resolution_note, s.resolved_at, CAST(s.expected_cost_usd AS float) AS expected_cost_usd,
    CAST(s.at_risk_usd AS float) AS at_risk_usd, CAST(s.spent_usd AS float) AS spent_usd, s.billing, s.billing_at,
    s.reply
FROM submissions s"""
_GET = statement(f"{_COLUMNS} WHERE s.id = :id")

# Locks the generation as well, so that no other transaction continues it. Its continuation is read after the lock.
_LOCK = statement(f"""
SELECT s.id, s.generation_id, s.provider_id, s.resolution, s.state AS submission_state, s.started_at, s.billing,
    CAST(s.at_risk_usd AS float) AS at_risk_usd, g.state, {PRICE_USD} AS price_usd
FROM submissions s JOIN generation_requests g ON g.id = s.generation_id WHERE s.id = :id FOR UPDATE OF s, g""")
_CONTINUED_BY = statement("SELECT id FROM generation_requests WHERE continues_id = :id AND id > :id AND NOT is_late")

_RESOLVE = statement("""
UPDATE submissions SET resolution = :resolution, resolution_note = COALESCE(:note, resolution_note), resolved_at = now()
WHERE generation_id = :generation_id AND id = :id""")

# A generation of a batch has the place of the one that it continues, and is HELD until the batch has a free place.
_CONTINUE = statement(f"""
INSERT INTO generation_requests (id, {COPIED}, state, turn_at, continues_id, provider_task_id, submitted_at)
SELECT :new_id, {copied("g")},
    CASE WHEN CAST(:state AS text) = 'PENDING' AND g.batch_id IS NOT NULL THEN 'HELD' ELSE :state END,
    g.turn_at, g.id, CAST(:task_id AS text), CASE WHEN CAST(:task_id AS text) IS NOT NULL THEN g.submitted_at END
FROM generation_requests g WHERE g.id = :generation_id""")

# Polls a task again that was given up, for the generation that continues its first one.
_FOLLOW = statement("""
INSERT INTO poll_tasks AS t (provider_id, task_id, generation_id, adapter_name, check_url, strategy, poll_interval_ms,
    next_poll_at, deadline_at)
VALUES (:provider_id, :task_id, :generation_id, :adapter_name, :check_url, :strategy, :poll_interval_ms,
    now(), now() + make_interval(secs => :max_duration_seconds))
ON CONFLICT (provider_id, task_id) DO UPDATE
SET generation_id = EXCLUDED.generation_id, check_url = COALESCE(EXCLUDED.check_url, t.check_url), state = 'PENDING',
    strategy = EXCLUDED.strategy, poll_interval_ms = EXCLUDED.poll_interval_ms, attempts = 0, retry_count = 0,
    next_poll_at = EXCLUDED.next_poll_at, deadline_at = EXCLUDED.deadline_at, lease_owner = NULL, lease_until = NULL,
    lease_token = t.lease_token + 1, ended_at = NULL, missing_since = NULL, late_poll_at = NULL
WHERE t.generation_id = :continues_id AND t.ended_at IS NOT NULL
RETURNING task_id""")


@dataclass(frozen=True, slots=True)
class Decision:
    """An operator's decision about a submission.

    Attributes:
        resolution: the new resolution; None: keep the present one.
        billing: whether it was billed; None: keep the present record.
        cost_usd: with BILLED, the cost in US dollars. None: the expected cost.
        task: with ATTACHED, the provider's task.
        note: the operator's note.
        accepted_usd: the second payment to which the operator consents, in US dollars. None: no consent.
    """

    resolution: Resolution | None = None
    billing: Answer | None = None
    cost_usd: float | None = None
    task: NewTask | None = None
    note: str = ""
    accepted_usd: float | None = None


@dataclass(frozen=True, slots=True)
class _Locked:
    """A submission that this transaction has locked, with its generation's state, price and continuation."""

    id: str
    generation_id: str
    provider_id: str
    resolution: str | None
    submission_state: str
    started_at: datetime
    billing: str | None
    at_risk_usd: float
    state: str
    price_usd: float
    continued_by_id: str | None

    @property
    def is_open(self) -> bool:
        """Whether the submission can be resolved, or was."""
        return self.submission_state == "UNCERTAIN" or self.at_risk_usd > 0 or self.billing is not None


def _refused(field: str, rule: str, description: str) -> InvalidRequest:
    return InvalidRequest([FieldViolation(field, rule, description)])


class SubmissionStore:
    """Reads of submissions, and the resolution of one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, submission_id: str) -> SubmissionRecord | None:
        """The submission of that id, or None."""
        found = await self._database.transaction(
            "get_submission", lambda c: records(SubmissionRecord, c.execute(_GET, {"id": submission_id}))
        )
        return found[0] if found else None

    async def list_page(self, limit: int, wanted: SubmissionFilter, *, after: str = "") -> list[SubmissionRecord]:
        """At most `limit` submissions that match, after the id `after`, the oldest first."""
        query = statement(f"{_COLUMNS} WHERE {wanted.condition} AND s.id > :after ORDER BY s.id LIMIT :limit")
        parameters = {**wanted.parameters, "limit": limit, "after": after}
        return await self._database.transaction(
            "list_submissions", lambda c: records(SubmissionRecord, c.execute(query, parameters))
        )

    async def totals(self, wanted: SubmissionFilter) -> tuple[int, float]:
        """How many match, and their money at risk, in US dollars."""
        query = statement(
            f"SELECT count(*) AS number, COALESCE(sum(s.at_risk_usd), 0)::float AS usd"
            f" FROM submissions s WHERE {wanted.condition}"
        )
        row = await self._database.transaction("total_submissions", lambda c: c.execute(query, wanted.parameters).one())
        return row.number, row.usd

    async def resolve(self, submission_id: str, decision: Decision, *, new_id: str) -> str | None:
        """Write an operator's decision about a submission, in one transaction.

        The failed generation is not changed; ATTACHED and RESUBMITTED create a generation with the id `new_id` that
        continues it. ATTACHED moves the money to the new one. A repeat of the same decision returns the same id.

        Returns the id of the generation that continues the failed one; None: there is none.
        Raises NotFound; InvalidRequest where nothing can be resolved or another resolution is recorded; GenerationError
        INVALID_REQUEST where a second payment was not accepted.
        """

        def work(connection: Connection) -> str | None:
            found = _lock(connection, submission_id)
            if decision.billing is not None:
                _check_billing(found)
            continued_by = found.continued_by_id if found.resolution in {"ATTACHED", "RESUBMITTED"} else None
            if decision.resolution is not None and found.resolution != decision.resolution:
                continued_by = _resolve(connection, found, decision, new_id)
            if decision.billing is not None:
                resolve_money(
                    connection,
                    {found.id: found.generation_id},
                    decision.billing,
                    cost_usd=decision.cost_usd,
                    note=decision.note or None,
                )
            return continued_by

        try:
            return await self._database.transaction("resolve_submission", work)
        except IntegrityError as error:
            raise _task_taken() from error


def _task_taken() -> InvalidRequest:
    return _refused("task_id", "unique", "must be a task that no other generation polls")


def _lock(connection: Connection, submission_id: str) -> _Locked:
    row = connection.execute(_LOCK, {"id": submission_id}).mappings().one_or_none()
    if row is None:
        raise NotFound("submission_id", f"There is no submission {submission_id[:100]!r}.")
    continued_by_id = connection.execute(_CONTINUED_BY, {"id": row["generation_id"]}).scalar_one_or_none()
    return _Locked(**row, continued_by_id=continued_by_id)


def _resolve(connection: Connection, found: _Locked, decision: Decision, new_id: str) -> str | None:
    assert decision.resolution is not None
    _check(found, decision.resolution)
    if decision.resolution == "RESUBMITTED":
        _check_second_payment(connection, found, decision)
    row = {"generation_id": found.generation_id, "id": found.id}
    connection.execute(_RESOLVE, {**row, "resolution": decision.resolution, "note": decision.note or None})
    if decision.resolution == "DISMISSED":
        return None
    _continue(connection, found, new_id, decision.task)
    if decision.resolution == "ATTACHED":
        keep_bill(connection, found.id, found.generation_id, made=new_id)
        resolve_money(connection, {found.id: found.generation_id}, "CONTINUED")
    return new_id


def _check(found: _Locked, resolution: Resolution) -> None:
    if not found.is_open:
        raise _refused(
            "submission_id", "uncertain", f"must be uncertain or at risk: its state is {found.submission_state}"
        )
    if found.resolution is not None:
        raise _refused("submission_id", "unresolved", f"must be unresolved: it is resolved as {found.resolution}")
    if resolution == "DISMISSED":
        return
    if found.continued_by_id is not None:
        raise _refused(
            "submission_id",
            "once",
            f"must be of a generation without a continuation: {found.continued_by_id} continues it",
        )
    if found.state != "FAILED":
        raise _refused("submission_id", "failed", f"must be of a failed generation: its state is {found.state}")


def _check_billing(found: _Locked) -> None:
    if not found.is_open:
        raise _refused(
            "submission_id", "uncertain", f"must be uncertain or at risk: its state is {found.submission_state}"
        )
    if found.billing == "CONTINUED":
        described = "must be unset: the generation that continues the submission's has the cost"
        raise _refused("billing", "continued", described)
    if found.at_risk_usd == 0 and found.billing is None and found.state not in {"SUCCESS", "FAILED", "CANCELLED"}:
        described = f"must be of a generation that has ended: its state is {found.state}"
        raise _refused("submission_id", "at_risk", described)


def _check_second_payment(connection: Connection, found: _Locked, decision: Decision) -> None:
    """Refuse a second payment that was not accepted. This submission needs consent unless it was not billed."""
    is_not_billed = (decision.billing or found.billing) == "NOT_BILLED"
    payments = open_payments(connection, [found.generation_id], not_billed_id=found.id)
    if not is_not_billed:
        mine = OpenPayment(
            found.id,
            found.generation_id,
            found.provider_id,
            found.submission_state,
            found.started_at,
            found.at_risk_usd,
        )
        payments = [mine, *payments]
    check_consent(payments, found.price_usd, decision.accepted_usd)


def _continue(connection: Connection, found: _Locked, new_id: str, task: NewTask | None) -> None:
    parameters = {
        "new_id": new_id,
        "state": "PENDING" if task is None else "PROCESSING",
        "task_id": task.task_id if task else None,
        "generation_id": found.generation_id,
    }
    connection.execute(_CONTINUE, parameters)
    if task is None:
        return
    row = {
        **asdict(task),
        "provider_id": found.provider_id,
        "generation_id": new_id,
        "continues_id": found.generation_id,
    }
    if connection.execute(_FOLLOW, row).scalar_one_or_none() is None:
        raise _task_taken()
