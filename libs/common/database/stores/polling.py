"""Claims and outcomes of the poller's checks. Every write is guarded by the claim's lease and token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy.engine import Connection

from libs.common.database import states
from libs.common.database.engine import Database
from libs.common.database.records import Lease, NewGeneration
from libs.common.database.records_dispatch import NewTask
from libs.common.database.records_tasks import ClaimedTask, PollOutcome, PollTaskRecord
from libs.common.database.states import State, TaskState
from libs.common.database.stores import repeats
from libs.common.database.stores.accounts import lock_accounts
from libs.common.database.stores.billing import refund_unbilled, risk_attached
from libs.common.database.stores.cancelling import CANCELLED_BY_CALLER
from libs.common.database.stores.inserting import COLUMNS, RECORD, inserted, row_of
from libs.common.database.stores.pauses import DEFAULT_PAUSES, PAUSED_SECONDS, TAKE_PROBE, PausePolicy, PauseStore
from libs.common.database.stores.sets import CLAIMS, claims_as_arrays, records, rows_as_json, statement
from libs.common.ids import new_id

# By keys in an array, for an estimate of how many are due would have the planner read both tables whole.
_LEASED = f"""
UPDATE poll_tasks t
SET lease_owner = :owner, lease_until = now() + make_interval(secs => :lease_seconds), lease_token = t.lease_token + 1,
    is_wanted = false
FROM generation_requests g
WHERE t.generation_id = ANY(ARRAY(SELECT generation_id FROM due)) AND g.id = t.generation_id
RETURNING t.provider_id, t.task_id, t.generation_id, g.model_identifier, g.request_id, g.trace_parent, g.labels,
    g.batch_id, t.adapter_name,
    t.check_url, t.strategy, t.poll_interval_ms, t.attempts, t.retry_count, g.parameters, g.number_of_outputs,
    g.media_type, t.lease_token,
    CAST(EXTRACT(EPOCH FROM now() - t.created_at) AS float) AS age_seconds,
    CAST(EXTRACT(EPOCH FROM now() - g.released_at) AS float) AS generation_age_seconds,
    CAST(EXTRACT(EPOCH FROM now() - t.next_poll_at) AS float) AS lateness_seconds,
    CAST(EXTRACT(EPOCH FROM t.deadline_at - now()) + {PAUSED_SECONDS} AS float) AS seconds_left,
    g.cancel_requested_at IS NOT NULL AS is_cancel_requested, t.answered_at IS NOT NULL AS is_answered,
    COALESCE(t.retry_count > 0 AND (t.last_error ->> 'code' = 'AUTHENTICATION_FAILED'
        OR t.last_error -> 'details' ->> 'http_status' IN ('401', '403')), false) AS was_refused"""
_IS_FREE = "t.ended_at IS NULL AND (t.lease_until IS NULL OR t.lease_until < now())"

# Of a paused account one task is claimed as the probe, whether it is due or not, and whatever can be ended without the
# provider: what its caller has cancelled, and what is past its deadline.
_CLAIM = statement(f"""
WITH free AS (
    SELECT row.provider_id, row.slots, a.polls_paused_at IS NOT NULL AS is_paused
    FROM jsonb_to_recordset(CAST(:slots AS jsonb)) AS row(provider_id text, slots int)
    LEFT JOIN provider_accounts a USING (provider_id)
), ready AS (
    SELECT found.* FROM free CROSS JOIN LATERAL (
        SELECT t.generation_id FROM poll_tasks t
        WHERE t.provider_id = free.provider_id AND t.next_poll_at <= now() AND {_IS_FREE}
        ORDER BY t.next_poll_at LIMIT free.slots FOR UPDATE SKIP LOCKED) found
    WHERE NOT free.is_paused
), probe AS ({TAKE_PROBE}
        AND EXISTS (SELECT FROM poll_tasks t WHERE t.provider_id = a.provider_id AND {_IS_FREE})
    RETURNING a.provider_id
), probing AS (
    SELECT found.* FROM probe CROSS JOIN LATERAL (
        SELECT t.generation_id FROM poll_tasks t WHERE t.provider_id = probe.provider_id AND {_IS_FREE}
        ORDER BY t.next_poll_at LIMIT 1 FOR UPDATE SKIP LOCKED) found
), hopeless AS (
    SELECT found.* FROM free CROSS JOIN LATERAL (
        SELECT t.generation_id FROM poll_tasks t
        WHERE t.provider_id = free.provider_id AND t.next_poll_at <= now() AND {_IS_FREE}
            AND t.generation_id <> ALL(ARRAY(SELECT generation_id FROM probing))
            AND (t.deadline_at + make_interval(secs => {PAUSED_SECONDS}) <= now()
                OR t.is_wanted AND EXISTS (SELECT FROM generation_requests g
                    WHERE g.id = t.generation_id AND g.cancel_requested_at IS NOT NULL))
        ORDER BY t.next_poll_at LIMIT free.slots FOR UPDATE SKIP LOCKED) found
    WHERE free.is_paused
), due AS (
    SELECT generation_id FROM ready UNION ALL SELECT generation_id FROM probing
    UNION ALL SELECT generation_id FROM hopeless
){_LEASED},
    t.provider_id = ANY(ARRAY(SELECT provider_id FROM free WHERE is_paused)) AS is_paused,
    t.generation_id <> ALL(ARRAY(SELECT generation_id FROM hopeless)) AS may_call""")

_CLAIM_FORGOTTEN = statement(f"""
WITH due AS (
    SELECT t.generation_id FROM poll_tasks t
    WHERE t.provider_id <> ALL(:known) AND t.ended_at IS NULL AND t.deadline_at <= now()
        AND (t.lease_until IS NULL OR t.lease_until < now())
    LIMIT :limit FOR UPDATE SKIP LOCKED
){_LEASED}""")

# Whatever lease there is: what its holder finds is older than what is reported.
_TAKE = statement(f"""
WITH due AS (
    SELECT t.generation_id FROM poll_tasks t
    WHERE t.provider_id = :provider_id AND t.task_id = :task_id AND t.ended_at IS NULL FOR UPDATE
){_LEASED}""")

# By claim: the lease of a claim that this process does not hold expires, and an older claim never renews a newer one.
_HELD = f"""
FROM {CLAIMS}
WHERE t.generation_id = ANY(:ids) AND t.generation_id = claim.generation_id AND t.lease_owner = :owner
    AND t.lease_token = claim.lease_token"""

_RENEW = statement(f"""
UPDATE poll_tasks t SET lease_until = now() + make_interval(secs => :lease_seconds){_HELD}""")

_GIVE_BACK = statement(f"""
UPDATE poll_tasks t SET lease_owner = NULL, lease_until = NULL, lease_token = t.lease_token + 1{_HELD}""")

# A result that comes after the request for a cancel is dropped. A cost that is there already is the provider's bill. A
# refusal of our credentials may come with the last check before the deadline: the task gets another one once they are
# taken again.
_END = statement("""
WITH item AS (
    SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row(
        provider_id text, task_id text, lease_token bigint, state text, progress smallint, has_failed bool,
        delay_seconds float, error jsonb, generation_state text, sources jsonb, outputs jsonb, cost_usd float,
        is_answered bool, is_missing bool, is_refused bool, unread_reply jsonb, is_at_risk bool)
), polled AS (
    UPDATE poll_tasks t
    SET state = COALESCE(item.state, t.state), progress = GREATEST(t.progress, item.progress),
        attempts = t.attempts + 1,
        retry_count = CASE WHEN item.has_failed THEN t.retry_count + 1 ELSE 0 END,
        last_error = COALESCE(item.error, t.last_error),
        next_poll_at = CASE WHEN t.is_wanted THEN now()
            ELSE now() + make_interval(secs => item.delay_seconds) END,
        deadline_at = CASE WHEN item.is_refused THEN GREATEST(
            t.deadline_at, now() + make_interval(secs => 2 * :probe_seconds)) ELSE t.deadline_at END,
        answered_at = CASE WHEN item.is_answered THEN now() ELSE t.answered_at END,
        missing_since = CASE WHEN item.is_answered THEN NULL
            WHEN item.is_missing THEN COALESCE(t.missing_since, now()) ELSE t.missing_since END,
        unread_reply = COALESCE(item.unread_reply, t.unread_reply),
        late_poll_at = CASE WHEN item.is_at_risk THEN now() + make_interval(secs => :late_first_seconds) END,
        lease_owner = NULL, lease_until = NULL,
        ended_at = CASE WHEN item.generation_state IS NOT NULL THEN now() END
    FROM item
    WHERE t.provider_id = item.provider_id AND t.task_id = item.task_id
        AND t.lease_owner = :owner AND t.lease_token = item.lease_token AND t.ended_at IS NULL
    RETURNING t.provider_id, t.task_id, t.lease_token, t.generation_id, item.is_at_risk
), risked AS (
    UPDATE submissions s SET at_risk_usd = s.expected_cost_usd FROM polled
    WHERE polled.is_at_risk AND s.generation_id = polled.generation_id AND s.generation_id = ANY(:ids)
        AND s.provider_task_id = polled.task_id AND s.state = 'ACCEPTED' AND s.billing IS NULL
), moved AS (
    UPDATE generation_requests g
    SET state = next.state,
        sources = CASE WHEN next.state <> 'CANCELLED' THEN next.sources END,
        outputs = CASE WHEN next.state <> 'CANCELLED' THEN next.outputs END,
        error = COALESCE(next.error, CASE WHEN next.state = 'CANCELLED' THEN CAST(:cancelled AS jsonb) END),
        cost_usd = COALESCE(g.cost_usd, next.cost_usd), next_attempt_at = now(), updated_at = now(),
        ended_at = CASE WHEN next.state = ANY(:terminal) THEN now() END
    FROM (
        SELECT polled.generation_id, item.sources, item.outputs, item.error, item.cost_usd,
            CASE WHEN held.cancel_requested_at IS NOT NULL AND item.generation_state IN ('STORING', 'SUCCESS')
                THEN 'CANCELLED' ELSE item.generation_state END AS state
        FROM polled JOIN item USING (provider_id, task_id, lease_token)
        JOIN generation_requests held ON held.id = polled.generation_id AND held.id = ANY(:ids)
        WHERE item.generation_state IS NOT NULL AND held.state IS NOT DISTINCT FROM 'PROCESSING'
        FOR UPDATE OF held) next
    WHERE g.id = next.generation_id AND g.id = ANY(:ids) AND g.state IS NOT DISTINCT FROM 'PROCESSING'
    RETURNING g.id, g.state
)
SELECT polled.provider_id, polled.task_id, polled.lease_token, COALESCE(moved.state, 'PROCESSING') AS state
FROM polled LEFT JOIN moved ON moved.id = polled.generation_id""")

_TASK_COLUMNS = """
SELECT t.provider_id, t.task_id, t.generation_id, t.adapter_name, t.state, t.attempts, t.retry_count, t.progress,
    t.last_error, t.next_poll_at, t.deadline_at, t.ended_at, g.outputs
FROM poll_tasks t JOIN generation_requests g ON g.id = t.generation_id"""
_GET = statement(f"{_TASK_COLUMNS} WHERE t.provider_id = :provider_id AND t.task_id = :task_id")
_LIST = statement(f"""{_TASK_COLUMNS}
WHERE (CAST(:provider_id AS text) IS NULL OR t.provider_id = :provider_id)
    AND (:include_ended OR t.ended_at IS NULL)
    AND (CAST(:after_time AS timestamptz) IS NULL
        OR (t.next_poll_at, t.provider_id, t.task_id) > (:after_time, :after_provider, :after_task))
ORDER BY t.next_poll_at, t.provider_id, t.task_id LIMIT :limit""")

_WAKE = statement("""
UPDATE poll_tasks SET next_poll_at = LEAST(next_poll_at, now()), is_wanted = true,
    state = COALESCE(CAST(:state AS text), state), progress = GREATEST(progress, CAST(:progress AS smallint))
WHERE provider_id = :provider_id AND task_id = :task_id AND ended_at IS NULL
RETURNING task_id""")

_ADOPT_GENERATION = statement(f"""
INSERT INTO generation_requests ({COLUMNS}, state, provider_task_id, submitted_at)
SELECT {inserted("row")}, 'PROCESSING', :task_id, now()
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row({RECORD})""")

_ADOPT_TASK = statement("""
INSERT INTO poll_tasks (provider_id, task_id, generation_id, adapter_name, check_url, strategy, poll_interval_ms,
    next_poll_at, deadline_at)
VALUES (:provider_id, :task_id, :generation_id, :adapter_name, :check_url, :strategy, :poll_interval_ms,
    now() + make_interval(secs => :poll_interval_ms / 1000.0), now() + make_interval(secs => :max_duration_seconds))""")

# The account pays for the task: its money is at risk like that of any other, once it is given up.
_ADOPT_SUBMISSION = statement("""
INSERT INTO submissions (id, generation_id, attempt, provider_id, model_identifier, state, provider_task_id, ended_at,
    expected_cost_usd)
SELECT :submission_id, id, 1, provider_id, model_identifier, 'ACCEPTED', provider_task_id, now(),
    CAST(expected_cost_usd AS numeric)
FROM generation_requests WHERE id = :generation_id""")

# Two calls for the same task queue here, so that it gets one generation.
_ADOPT_LOCK = statement("SELECT pg_advisory_xact_lock(hashtextextended(:provider_id || ' ' || :task_id, 0))")

_OWNER_OF_TASK = statement("""
SELECT generation_id FROM poll_tasks WHERE provider_id = :provider_id AND task_id = :task_id""")

# The provider goes on with it, and may bill it.
_REMOVE = statement("""
WITH removed AS (
    UPDATE poll_tasks SET state = 'CANCELLED', ended_at = now(), lease_owner = NULL, lease_until = NULL,
        lease_token = lease_token + 1, last_error = CAST(:error AS jsonb),
        late_poll_at = now() + make_interval(secs => :late_first_seconds)
    WHERE provider_id = :provider_id AND task_id = :task_id AND ended_at IS NULL
    RETURNING generation_id, task_id
), risked AS (
    UPDATE submissions s SET at_risk_usd = s.expected_cost_usd FROM removed
    WHERE s.generation_id = removed.generation_id AND s.provider_task_id = removed.task_id
        AND s.state = 'ACCEPTED' AND s.billing IS NULL
), ended AS (
    UPDATE generation_requests g
    SET state = 'CANCELLED', error = CAST(:error AS jsonb), ended_at = now(), updated_at = now()
    FROM removed WHERE g.id = removed.generation_id AND g.state = ANY(:sources)
)
SELECT generation_id FROM removed""")


class PollStore:
    """Reads and writes of one poller process.

    Args:
        database, owner, lease_seconds: as for `ClaimStore`.
        pauses: how pauses of accounts go.
        late_first_seconds: after so long a task that was given up is checked for a late result.
    """

    def __init__(
        self,
        database: Database,
        *,
        owner: str,
        lease_seconds: float,
        pauses: PausePolicy = DEFAULT_PAUSES,
        late_first_seconds: float = 60.0,
    ) -> None:
        self._database = database
        self._pauses = PauseStore(database, pauses)
        self._late: Mapping[str, Any] = {"late_first_seconds": late_first_seconds}
        self._lease: Mapping[str, Any] = {"owner": owner, "lease_seconds": lease_seconds, **pauses.parameters}

    async def claim(self, slots: Mapping[str, int]) -> list[ClaimedTask]:
        """Lease due tasks, the longest due first, at most `slots[provider_id]` of each provider."""
        asked = rows_as_json({"provider_id": provider_id, "slots": count} for provider_id, count in slots.items())
        return await self._database.transaction(
            "claim_tasks", lambda c: records(ClaimedTask, c.execute(_CLAIM, {**self._lease, "slots": asked}))
        )

    async def claim_forgotten(self, limit: int, *, known: Sequence[str]) -> list[ClaimedTask]:
        """Lease tasks past their deadline whose provider is not among the `known`: nobody else looks at them."""
        parameters = {**self._lease, "limit": limit, "known": list(known)}
        return await self._database.transaction(
            "claim_forgotten_tasks", lambda c: records(ClaimedTask, c.execute(_CLAIM_FORGOTTEN, parameters))
        )

    async def renew(self, claims: Sequence[Lease]) -> None:
        """Renew the leases of these claims, as far as they still hold."""
        parameters = {**self._lease, **claims_as_arrays(claims)}
        await self._database.transaction("renew_tasks", lambda c: c.execute(_RENEW, parameters))

    async def take(self, provider_id: str, task_id: str) -> ClaimedTask | None:
        """Lease one task, whoever holds it and whenever it is due; None where there is none or it has ended."""
        parameters = {**self._lease, "provider_id": provider_id, "task_id": task_id}
        found = await self._database.transaction(
            "take_task", lambda c: records(ClaimedTask, c.execute(_TAKE, parameters))
        )
        return found[0] if found else None

    async def give_back(self, claims: Sequence[Lease]) -> None:
        """End the leases of these claims, as far as they still hold; other pollers may then check the tasks."""
        parameters = {"owner": self._lease["owner"], **claims_as_arrays(claims)}
        await self._database.transaction("give_back_tasks", lambda c: c.execute(_GIVE_BACK, parameters))

    async def end(self, outcomes: Sequence[PollOutcome]) -> list[State | None]:
        """Write outcomes; in the order given, the state of each generation then, or None where the lease was lost.

        An outcome that an earlier call has committed, whose reply was lost, is answered as that call would have been.
        One statement for all. A generation is CANCELLED instead of ended with its results where that was asked for.
        Pauses of accounts begin and end before, in transactions of their own: their locks and those of the tasks must
        not wait for each other in a circle.
        """
        for outcome in outcomes:
            if outcome.generation_state is not None:
                states.check(State.PROCESSING, outcome.generation_state)

        def work(connection: Connection) -> dict[repeats.TaskClaim, State]:
            parameters = {
                "ids": [outcome.generation_id for outcome in outcomes if outcome.has_ended],
                "owner": self._lease["owner"],
                "terminal": sorted(states.TERMINAL),
                "cancelled": CANCELLED_BY_CALLER,
                "rows": rows_as_json(asdict(outcome) for outcome in outcomes),
                "probe_seconds": self._pauses.policy.probe_seconds,
                **self._late,
            }
            unbilled = [outcome for outcome in outcomes if outcome.is_unbilled]
            if unbilled:
                # The end of a pause locks accounts before tasks, too.
                lock_accounts(connection, {outcome.provider_id for outcome in unbilled})
            ended = repeats.states_of(connection.execute(_END, parameters))
            refund_unbilled(connection, [one.generation_id for one in unbilled if _claim_of(one) in ended])
            risk_attached(
                connection, [one.generation_id for one in outcomes if one.is_at_risk and _claim_of(one) in ended]
            )
            return ended if len(ended) == len(outcomes) else repeats.polled(connection, parameters) | ended

        await self._pauses.pause([outcome.provider_id for outcome in outcomes if outcome.is_refused])
        await self._pauses.resume([outcome.provider_id for outcome in outcomes if outcome.ends_pause])
        written = await self._database.transaction("end_polls", work)
        return [written.get(_claim_of(outcome)) for outcome in outcomes]

    async def get(self, provider_id: str, task_id: str) -> PollTaskRecord | None:
        """The task, or None."""
        key = {"provider_id": provider_id, "task_id": task_id}
        found = await self._database.transaction("get_task", lambda c: records(PollTaskRecord, c.execute(_GET, key)))
        return found[0] if found else None

    async def list_page(
        self, limit: int, *, provider_id: str | None, include_ended: bool, after: tuple[str, str, str] | None
    ) -> list[PollTaskRecord]:
        """At most `limit` tasks by due time, after the (time, provider, task) of the page before."""
        after_time, after_provider, after_task = after or (None, None, None)
        parameters = {
            "limit": limit,
            "provider_id": provider_id,
            "include_ended": include_ended,
            "after_time": after_time,
            "after_provider": after_provider,
            "after_task": after_task,
        }
        return await self._database.transaction(
            "list_tasks", lambda c: records(PollTaskRecord, c.execute(_LIST, parameters))
        )

    async def wake(
        self, provider_id: str, task_id: str, *, state: TaskState | None = None, progress: int | None = None
    ) -> bool:
        """Make a task due now, and note how far it is said to be. False where there is none or it has ended."""
        parameters = {"provider_id": provider_id, "task_id": task_id, "state": state, "progress": progress}
        return await self._database.transaction(
            "wake_task", lambda c: c.execute(_WAKE, parameters).scalar_one_or_none() is not None
        )

    async def adopt(self, generation: NewGeneration, task: NewTask) -> tuple[str, bool]:
        """Take in a task that another backend submitted, with a generation made for it.

        Answers the generation's id, and whether the task was new; a known one keeps the generation it has.
        """

        def work(connection: Connection) -> tuple[str, bool]:
            key = {"provider_id": generation.provider_id, "task_id": task.task_id}
            connection.execute(_ADOPT_LOCK, key)
            known = connection.execute(_OWNER_OF_TASK, key).scalar_one_or_none()
            if known is not None:
                return known, False
            rows = rows_as_json([row_of(generation)])
            connection.execute(_ADOPT_GENERATION, {"rows": rows, "task_id": task.task_id})
            row = {**asdict(task), "provider_id": generation.provider_id, "generation_id": generation.id}
            connection.execute(_ADOPT_TASK, row)
            connection.execute(_ADOPT_SUBMISSION, {"submission_id": new_id("sub"), "generation_id": generation.id})
            return generation.id, True

        return await self._database.transaction("adopt_task", work)

    async def remove(self, provider_id: str, task_id: str, error_json: str) -> bool:
        """End a task and its generation as CANCELLED. False where it had ended already."""
        parameters = {
            "provider_id": provider_id,
            "task_id": task_id,
            "error": error_json,
            "sources": states.sources(State.CANCELLED),
            **self._late,
        }

        def work(connection: Connection) -> bool:
            removed = list(connection.execute(_REMOVE, parameters).scalars())
            risk_attached(connection, removed)
            return bool(removed)

        return await self._database.transaction("remove_task", work)


def _claim_of(outcome: PollOutcome) -> repeats.TaskClaim:
    # Two reports of one task may be written together, each with a claim of its own.
    return outcome.provider_id, outcome.task_id, outcome.lease_token
