"""Money of submissions: whether what may have been billed was billed. The definitions are in docs/money.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from libs.common.database.engine import Database
from libs.common.database.stores.accounts import refund
from libs.common.database.stores.sets import statement
from libs.common.errors import GenerationError, OutcomeUnknown

Answer = Literal["BILLED", "NOT_BILLED"]
Concern = Literal["UNCERTAIN", "AT_RISK", "ANY"]

BILLINGS = ("BILLED", "NOT_BILLED", "COUNTED", "CONTINUED")
CHUNK = 500
"""How many submissions are resolved in one transaction."""
_CHUNKS = 20
PARTLY_RESOLVED: Final = "resolved_submissions"
"""The detail of an OutcomeUnknown that has the number of submissions that were resolved before the failure."""
# The same conditions as those of the partial indexes, so that Postgres uses these.
_CONCERNS: Mapping[Concern, str] = {
    "UNCERTAIN": "s.state = 'UNCERTAIN' AND s.resolved_at IS NULL",
    "AT_RISK": "s.at_risk_usd > 0",
    "ANY": "(s.state = 'UNCERTAIN' AND s.resolved_at IS NULL OR s.at_risk_usd > 0)",
}

# The daily spend of the provider account is refunded only on the day (UTC) on which it was charged.
_CHARGED = """
    CASE WHEN CAST(s.started_at AT TIME ZONE 'UTC' AS date) = CAST(clock_timestamp() AT TIME ZONE 'UTC' AS date) THEN
    CAST(s.expected_cost_usd AS float) ELSE 0 END"""

_RESOLVE_MONEY = statement(f"""
WITH before AS (
    SELECT s.generation_id, s.id, s.provider_id, s.at_risk_usd, s.spent_usd, s.billing, s.billing_at,
        s.billing IS NULL OR s.billing = ANY(:replaced) AS is_new,
        GREATEST(s.at_risk_usd, s.expected_cost_usd) AS expected_usd, {_CHARGED} AS charged_usd
    FROM submissions s
    WHERE s.generation_id = ANY(:generation_ids) AND s.id = ANY(:ids) FOR UPDATE
)
UPDATE submissions s
SET billing = CASE WHEN before.is_new THEN :billing ELSE before.billing END,
    billing_at = CASE WHEN before.is_new THEN now() ELSE before.billing_at END,
    at_risk_usd = 0,
    spent_usd = CASE WHEN NOT before.is_new THEN before.spent_usd WHEN :billing <> 'BILLED' THEN 0
        ELSE COALESCE(CAST(:cost_usd AS numeric), before.expected_usd) END,
    resolution = CASE WHEN :dismiss AND s.resolution IS NULL THEN 'DISMISSED' ELSE s.resolution END,
    resolved_at = CASE WHEN :dismiss AND s.resolution IS NULL THEN now() ELSE s.resolved_at END,
    resolution_note = COALESCE(:note, s.resolution_note)
FROM before WHERE s.generation_id = before.generation_id AND s.id = before.id
RETURNING s.provider_id, before.at_risk_usd, s.spent_usd,
    CASE WHEN NOT before.is_new THEN 0
        WHEN :billing = 'NOT_BILLED' AND before.billing IS DISTINCT FROM 'NOT_BILLED' THEN before.charged_usd
        WHEN :billing <> 'NOT_BILLED' AND before.billing = 'NOT_BILLED' THEN -before.charged_usd
        ELSE 0 END AS refund_usd""")

# What another backend submitted was never charged to the account: no attempt of ours was made.
_UNBILLED = statement(f"""
SELECT s.provider_id, sum({_CHARGED}) AS charged_usd
FROM submissions s JOIN generation_requests g ON g.id = s.generation_id
WHERE s.generation_id = ANY(:generation_ids) AND s.provider_task_id = g.provider_task_id AND s.state = 'ACCEPTED'
    AND s.billing IS NULL AND g.attempts > 0
GROUP BY s.provider_id""")

_KEEP_BILL = statement("""
UPDATE generation_requests g SET cost_usd = s.spent_usd FROM submissions s
WHERE g.id = :made AND s.generation_id = :generation_id AND s.id = :id AND s.billing = 'BILLED'""")

_RISK_ATTACHED = statement("""
UPDATE submissions s SET at_risk_usd = s.expected_cost_usd, billing = NULL, billing_at = NULL
FROM generation_requests g
WHERE g.id = ANY(:ids) AND s.generation_id = g.continues_id AND s.resolution = 'ATTACHED' AND s.billing = 'CONTINUED'
""")

_COUNT = """
WITH due AS (
    SELECT s.generation_id, s.id FROM submissions s
    WHERE s.at_risk_usd > 0 AND {condition} ORDER BY s.id LIMIT :limit FOR UPDATE SKIP LOCKED
)
UPDATE submissions s SET spent_usd = s.at_risk_usd, at_risk_usd = 0, billing = 'COUNTED', billing_at = now()
FROM due WHERE s.generation_id = due.generation_id AND s.id = due.id
RETURNING CAST(s.spent_usd AS float) AS spent_usd"""
_COUNT_OLD = statement(_COUNT.format(condition="s.started_at < now() - make_interval(days => :days)"))
_COUNT_FORGOTTEN = statement(_COUNT.format(condition="s.generation_id < :before"))


@dataclass(frozen=True, slots=True)
class SubmissionFilter:
    """A filter of submissions. None: any.

    Attributes:
        generation_id: those of this generation.
        concern: those that concern an operator: UNCERTAIN and unresolved, with money AT_RISK, or ANY of both.
        started_after: submitted at this time or later.
        started_before: submitted before this time.
    """

    generation_id: str | None = None
    concern: Concern | None = None
    provider_id: str | None = None
    model_identifier: str | None = None
    started_after: datetime | None = None
    started_before: datetime | None = None

    @property
    def condition(self) -> str:
        """The condition of a query of `submissions s`, with the names of `parameters`."""
        parts = {
            "s.generation_id = :generation_id": self.generation_id,
            _CONCERNS[self.concern] if self.concern else "": self.concern,
            "s.provider_id = :provider_id": self.provider_id,
            "s.model_identifier = :model_identifier": self.model_identifier,
            "s.started_at >= :started_after": self.started_after,
            "s.started_at < :started_before": self.started_before,
        }
        return " AND ".join(part for part, wanted in parts.items() if wanted is not None) or "true"

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of the condition, by name."""
        names = ("generation_id", "provider_id", "model_identifier", "started_after", "started_before")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass(frozen=True, slots=True)
class Resolved:
    """The result of a resolution. `at_risk_usd`: the sum at risk before it; `spent_usd`: the sum spent after it."""

    submissions: int = 0
    at_risk_usd: float = 0.0
    spent_usd: float = 0.0
    has_more: bool = False

    def __add__(self, other: Resolved) -> Resolved:
        """Return the sums of both; `has_more` is that of `other`, the later one."""
        return Resolved(
            self.submissions + other.submissions,
            self.at_risk_usd + other.at_risk_usd,
            self.spent_usd + other.spent_usd,
            other.has_more,
        )


def keep_bill(connection: Connection, submission_id: str, generation_id: str, *, made: str) -> None:
    """Let the generation `made`, which follows the submission's task from now on, cost what an operator has recorded.

    The amount of the provider's bill wins over the price in the catalog. Nothing is written where none is recorded.
    """
    connection.execute(_KEEP_BILL, {"id": submission_id, "generation_id": generation_id, "made": made})


def resolve_money(
    connection: Connection,
    submissions: Mapping[str, str],
    billing: Literal["BILLED", "NOT_BILLED", "CONTINUED"],
    *,
    cost_usd: float | None = None,
    note: str | None = None,
    dismiss: bool = False,
    replaced: Sequence[str] = BILLINGS,
) -> Resolved:
    """Record whether submissions were billed, in this transaction.

    The daily spend of the provider account is refunded for a submission of the same day (UTC) that was not billed, and
    charged again where that record is replaced.

    Args:
        connection: of the transaction.
        submissions: the generation of each, by the submission's id.
        billing: the new record; CONTINUED: the generation that continues the submission has its cost.
        cost_usd: with BILLED, the cost of each, in US dollars. None: the expected cost.
        note: the operator's note. None: keep the present one.
        dismiss: resolve unresolved submissions as DISMISSED.
        replaced: the earlier records that are replaced; other records are kept.
    """
    parameters = {
        "replaced": list(replaced),
        "ids": list(submissions),
        "generation_ids": list(submissions.values()),
        "billing": billing,
        "cost_usd": cost_usd,
        "note": note,
        "dismiss": dismiss,
    }
    refunds: defaultdict[str, float] = defaultdict(float)
    found = connection.execute(_RESOLVE_MONEY, parameters).all()
    for row in found:
        refunds[row.provider_id] += row.refund_usd
    refund(connection, refunds)
    return Resolved(
        len(found), float(sum(row.at_risk_usd for row in found)), float(sum(row.spent_usd for row in found))
    )


def refund_unbilled(connection: Connection, generation_ids: Sequence[str]) -> None:
    """Give the provider accounts back what they were charged today (UTC) for tasks that were not billed.

    Args:
        connection: of the transaction.
        generation_ids: the generations that this transaction ends, since their tasks ended without a result.
    """
    if generation_ids:
        found = connection.execute(_UNBILLED, {"generation_ids": list(generation_ids)})
        refund(connection, {row.provider_id: row.charged_usd for row in found})


def risk_attached(connection: Connection, generation_ids: Sequence[str]) -> None:
    """Put the money of attached tasks at risk again, in this transaction.

    Args:
        connection: of the transaction.
        generation_ids: generations whose tasks were given up. If an operator attached the task, its submission
            belongs to the generation that this one continues.
    """
    if generation_ids:
        connection.execute(_RISK_ATTACHED, {"ids": list(generation_ids)})


def count_forgotten(connection: Connection, *, before: str, limit: int) -> int:
    """Count money at risk as spent, of at most `limit` submissions of generations whose ids sort before `before`.

    Returns how many were counted.
    """
    return len(connection.execute(_COUNT_FORGOTTEN, {"before": before, "limit": limit}).all())


class BillingStore:
    """Resolves the money of many submissions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def count_old(self, *, days: int, limit: int) -> tuple[int, float]:
        """Count as spent the money that has been at risk for `days` days, of at most `limit` submissions.

        Returns the number of submissions and the sum, in US dollars.
        """
        parameters = {"days": days, "limit": limit}
        found = await self._database.transaction(
            "count_money_at_risk", lambda c: list(c.execute(_COUNT_OLD, parameters).scalars())
        )
        return len(found), sum(found)

    async def preview(self, wanted: SubmissionFilter, answer: Answer, *, dismiss: bool) -> Resolved:
        """Return the result of calling `resolve_all` until `has_more` is false, without resolving anything."""
        query = _matching(wanted, dismiss, _sums(answer, replaced=()))
        return await self._previewed(query, wanted.parameters)

    async def preview_named(self, ids: Sequence[str], answer: Answer, *, dismiss: bool) -> Resolved:
        """Return the result of `resolve_named` without resolving anything."""
        query = _named(dismiss, _sums(answer, replaced=("COUNTED",)))
        return await self._previewed(query, {"ids": list(ids)})

    async def _previewed(self, query: sa.TextClause, parameters: Mapping[str, Any]) -> Resolved:
        row = await self._database.transaction("preview_money", lambda c: c.execute(query, parameters).one())
        return Resolved(row.submissions, row.at_risk_usd, row.spent_usd)

    async def resolve_all(self, wanted: SubmissionFilter, answer: Answer, *, dismiss: bool, note: str) -> Resolved:
        """Record the answer for all submissions that match, in at most twenty transactions of `CHUNK`.

        With `dismiss`, uncertain submissions whose money is resolved match as well and keep that record.

        Raises OutcomeUnknown, with the number of resolved submissions in the details, where a transaction fails after
        others were committed; what `Database.transaction` raises where the first one fails.
        """
        query = _matching(wanted, dismiss, "s.id, s.generation_id", "ORDER BY s.id LIMIT :limit FOR UPDATE")

        def work(connection: Connection) -> Resolved:
            found = connection.execute(query, {**wanted.parameters, "limit": CHUNK}).all()
            submissions = {row.id: row.generation_id for row in found}
            done = resolve_money(connection, submissions, answer, note=note or None, dismiss=dismiss, replaced=())
            return Resolved(done.submissions, done.at_risk_usd, done.spent_usd, has_more=len(found) == CHUNK)

        total = Resolved()
        for _ in range(_CHUNKS):
            total = await self._added(total, work)
            if not total.has_more:
                break
        return total

    async def resolve_named(self, ids: Sequence[str], answer: Answer, *, dismiss: bool, note: str) -> Resolved:
        """Record the answer for the unresolved submissions among `ids`, in transactions of `CHUNK`.

        The record COUNTED is replaced; an operator's earlier record is kept.

        Raises as `resolve_all` does.
        """
        query = _named(dismiss, "s.id, s.generation_id", "ORDER BY s.id FOR UPDATE")
        total = Resolved()
        for start in range(0, len(ids), CHUNK):
            chunk = list(ids[start : start + CHUNK])

            def work(connection: Connection, chunk: list[str] = chunk) -> Resolved:
                found = connection.execute(query, {"ids": chunk}).all()
                submissions = {row.id: row.generation_id for row in found}
                return resolve_money(
                    connection, submissions, answer, note=note or None, dismiss=dismiss, replaced=("COUNTED",)
                )

            total = await self._added(total, work)
        return total

    async def _added(self, total: Resolved, work: Callable[[Connection], Resolved]) -> Resolved:
        """Run the next transaction of a bulk resolution; return the sum of `total` and its result.

        Args:
            total: what the transactions before it resolved.
            work: resolves one chunk.

        Raises OutcomeUnknown where it fails and `total` is not empty; else what `Database.transaction` raises.
        """
        try:
            return total + await self._database.transaction("resolve_money", work)
        except (GenerationError, DBAPIError) as error:
            if not total.submissions:
                raise
            raise _partly_resolved(total, error) from error


def _partly_resolved(total: Resolved, error: GenerationError | DBAPIError) -> OutcomeUnknown:
    cause = error.message if isinstance(error, GenerationError) else "a statement of the database failed."
    details = error.details if isinstance(error, GenerationError) else {}
    return OutcomeUnknown(
        f"{total.submissions} submissions were resolved and committed. A later transaction failed: {cause} Repeating "
        "the call resolves the rest and skips those that are resolved.",
        {**details, PARTLY_RESOLVED: total.submissions},
    )


def _sums(answer: Answer, *, replaced: Sequence[str]) -> str:
    """The columns of a preview: as `resolve_money` would answer."""
    is_new = " OR ".join(["s.billing IS NULL", *(f"s.billing = '{billing}'" for billing in replaced)])
    spent = "GREATEST(s.at_risk_usd, s.expected_cost_usd)" if answer == "BILLED" else "0"
    return f"""count(*) AS submissions, COALESCE(sum(s.at_risk_usd), 0)::float AS at_risk_usd,
    COALESCE(sum(CASE WHEN {is_new} THEN {spent} ELSE s.spent_usd END), 0)::float AS spent_usd"""


def _matching(wanted: SubmissionFilter, dismiss: bool, columns: str, then: str = "") -> sa.TextClause:
    concern = _CONCERNS["ANY" if dismiss else "AT_RISK"]
    return statement(f"SELECT {columns} FROM submissions s WHERE {concern} AND {wanted.condition} {then}")


def _named(dismiss: bool, columns: str, then: str = "") -> sa.TextClause:
    concern = _CONCERNS["ANY" if dismiss else "AT_RISK"]
    condition = f"s.id = ANY(:ids) AND ({concern} OR s.billing = 'COUNTED')"
    return statement(f"SELECT {columns} FROM submissions s WHERE {condition} {then}")
