"""Looking after batches: one transaction that adds up what has ended and does what follows from it.

All of it follows from rows, so a turn that is lost costs latency: the next one finds the same and more.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy.engine import Connection

from libs.common.database import states
from libs.common.database.engine import Database
from libs.common.database.ranges import IN_RANGE, IdRange
from libs.common.database.records_batches import BatchTurn, EndedInBatch
from libs.common.database.states import BatchStatus, State
from libs.common.database.stores.batch_ledger import fold
from libs.common.database.stores.batch_steps import RELEASED_STATES, fill, release, settle
from libs.common.database.stores.cancelling import cancel_all
from libs.common.database.stores.inserting import IDEMPOTENCY_HOURS
from libs.common.database.stores.sets import rows_as_json, statement
from libs.common.errors import ErrorCode, GenerationError

_FOLD_LIMIT = 2_000
_CANCEL_LIMIT = 1_000
# Longer than an upload can be without a new part, and than opening it takes.
_UPLOAD_MINUTES = 5

# One at a time, whichever dispatcher: others would count the same places. Where there is nothing to look after, this is
# all that is asked.
_LOCK = statement("""
SELECT CASE WHEN EXISTS (SELECT FROM generation_batches WHERE ended_at IS NULL) OR EXISTS (SELECT FROM batch_ledger)
    THEN pg_try_advisory_xact_lock(hashtext('darkroom.batches')) ELSE false END""")

# What was sent is let to its end; what holds a claim may be on its way.
_NOT_BEGUN = statement(f"""
WITH doomed AS (
    SELECT g.id, b.cancel_requested_at IS NOT NULL AS is_cancelled FROM generation_batches b
    CROSS JOIN LATERAL (
        SELECT id FROM generation_requests WHERE batch_id = b.id AND state = 'HELD' AND id {IN_RANGE}
        UNION ALL
        SELECT id FROM generation_requests
        WHERE batch_id = b.id AND state = 'PENDING' AND id {IN_RANGE}) g
    WHERE b.ended_at IS NULL AND (b.stopped_at IS NOT NULL OR b.cancel_requested_at IS NOT NULL)
    LIMIT :limit
)
UPDATE generation_requests g
SET state = 'CANCELLED', ended_at = now(), updated_at = now(), lease_token = g.lease_token + 1,
    error = CASE WHEN doomed.is_cancelled THEN CAST(:cancelled AS jsonb) ELSE CAST(:stopped AS jsonb) END
FROM doomed
WHERE g.id = doomed.id AND g.id {IN_RANGE} AND g.id = ANY(ARRAY(
    SELECT id FROM generation_requests WHERE id = ANY(ARRAY(SELECT id FROM doomed)) AND id {IN_RANGE}
        AND state IN ('HELD', 'PENDING')
    FOR UPDATE SKIP LOCKED))
RETURNING g.id, g.batch_id, g.model_identifier, g.provider_id, g.error->>'code' AS code,
    CAST(EXTRACT(EPOCH FROM now() - g.created_at) AS float) AS seconds""")

_UNDER_WAY = statement(f"""
SELECT g.id FROM generation_batches b JOIN generation_requests g ON g.batch_id = b.id
WHERE b.ended_at IS NULL AND b.cancel_requested_at IS NOT NULL
    AND g.state IN {RELEASED_STATES} AND g.cancel_requested_at IS NULL AND g.id {IN_RANGE}
LIMIT :limit""")

# Where an account takes nothing now: something that may go has stood there for a while. Of what one batch has standing
# there, one stays for its turn, unless that leaves nothing to the others.
_STUCK = statement(f"""
WITH full_accounts AS (
    SELECT p.provider_id FROM unnest(CAST(:provider_ids AS text[])) AS p(provider_id)
    WHERE EXISTS (SELECT FROM generation_requests g WHERE g.provider_id = p.provider_id AND g.state = 'PENDING'
        AND g.next_attempt_at <= now()
        AND g.released_at < now() - make_interval(secs => :patience_seconds) AND g.id {IN_RANGE})
), released AS (
    SELECT g.id, g.batch_id, g.provider_id,
        g.state = 'PENDING' AND full_accounts.provider_id IS NOT NULL AS is_stuck,
        row_number() OVER (PARTITION BY g.batch_id, g.provider_id, g.state ORDER BY g.batch_index) AS place
    FROM generation_batches b JOIN generation_requests g
        ON g.batch_id = b.id AND g.state IN {RELEASED_STATES} AND g.id {IN_RANGE}
    LEFT JOIN full_accounts ON full_accounts.provider_id = g.provider_id
    WHERE b.ended_at IS NULL AND b.stopped_at IS NULL AND b.cancel_requested_at IS NULL AND b.is_parallel
        AND EXISTS (SELECT FROM full_accounts)
), movable AS (
    SELECT id, batch_id, row_number() OVER (PARTITION BY batch_id ORDER BY place DESC) AS place FROM (
        SELECT *, every(is_stuck) OVER (PARTITION BY batch_id) AS is_barred FROM released) r
    WHERE is_stuck AND (place > 1 OR is_barred)
        AND NOT EXISTS (SELECT FROM submissions s WHERE s.generation_id = r.id AND s.generation_id {IN_RANGE}
            AND s.state IN ('STARTED', 'UNCERTAIN'))
), others AS (
    SELECT waiting.batch_id, ready.id, row_number() OVER (PARTITION BY waiting.batch_id ORDER BY ready.batch_index)
        AS place
    FROM (SELECT batch_id, count(*) AS count FROM movable GROUP BY batch_id) waiting
    CROSS JOIN LATERAL (
        SELECT g.id, g.batch_index FROM generation_requests g
        WHERE g.batch_id = waiting.batch_id AND g.state = 'HELD' AND g.waits_for = 0 AND g.id {IN_RANGE}
            AND g.provider_id <> ALL(ARRAY(SELECT provider_id FROM full_accounts))
        ORDER BY g.batch_index LIMIT waiting.count) ready
)
SELECT movable.id AS stuck_id, others.id AS next_id FROM movable JOIN others USING (batch_id, place) LIMIT :limit""")

_HOLD = statement("""
UPDATE generation_requests SET state = 'HELD', updated_at = now()
WHERE id = ANY(ARRAY(SELECT id FROM generation_requests WHERE id = ANY(:ids) AND state = 'PENDING'
    FOR UPDATE SKIP LOCKED))
RETURNING id""")

_CONTENT = """jsonb_build_object('batch_id', b.id, 'total_tasks', b.total_tasks, 'completed_tasks', b.completed_tasks,
    'failed_tasks', b.failed_tasks, 'cancelled_tasks', b.cancelled_tasks, 'skipped_tasks', b.skipped_tasks,
    'cost_usd', b.cost_usd)"""

# Who resumes a batch, or continues one of its generations, locks its row: so what is read once it is held stays so.
_HOLD_ENDED = statement("""
SELECT id FROM generation_batches
WHERE ended_at IS NULL AND completed_tasks + failed_tasks + cancelled_tasks + skipped_tasks = total_tasks
FOR UPDATE SKIP LOCKED""")
_CLOSE = statement(f"""
UPDATE generation_batches b SET ended_at = now()
WHERE b.id = ANY(:ids) AND b.completed_tasks + b.failed_tasks + b.cancelled_tasks + b.skipped_tasks = b.total_tasks
    AND NOT EXISTS (SELECT FROM batch_ledger l WHERE l.batch_id = b.id)
RETURNING b.id, b.cancel_requested_at IS NOT NULL AS is_cancel_requested, b.callback_url IS NOT NULL AS has_callback,
    CAST(EXTRACT(EPOCH FROM now() - b.created_at) AS float) AS seconds, {_CONTENT} AS content""")

_DUE_PROGRESS = statement(f"""
SELECT b.id, {_CONTENT} AS content FROM (
    SELECT *, completed_tasks + failed_tasks + cancelled_tasks + skipped_tasks AS ended_tasks
    FROM generation_batches WHERE ended_at IS NULL AND callback_url IS NOT NULL) b
WHERE b.ended_tasks > b.told_tasks AND b.ended_tasks < b.total_tasks
    AND (b.ended_tasks - b.told_tasks >= b.callback_every_tasks
        OR now() - COALESCE(b.told_at, b.created_at) >= make_interval(secs => b.callback_every_seconds))""")

_TELL = statement("""
WITH item AS (
    SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row(id text, event text, content jsonb)
), told AS (
    UPDATE generation_batches b SET callback_sequence = b.callback_sequence + 1, told_at = now(),
        told_tasks = b.completed_tasks + b.failed_tasks + b.cancelled_tasks + b.skipped_tasks
    FROM item WHERE b.id = item.id
    RETURNING b.id, b.callback_sequence, b.owner, b.api_key_id, b.callback_url, item.event, item.content
)
INSERT INTO callbacks (id, batch_id, sequence, owner, api_key_id, event, url, content, give_up_at)
SELECT replace(id, 'batch_', 'cb_') || '_' || callback_sequence, id, callback_sequence, owner, api_key_id, event,
    callback_url, content, now() + interval '24 hours'
FROM told""")

_FORGET = statement(f"""
WITH left_behind AS (
    DELETE FROM batch_uploads WHERE batch_id IN (
        SELECT batch_id FROM batch_uploads GROUP BY batch_id
        HAVING max(created_at) < now() - interval '{_UPLOAD_MINUTES} minutes')
)
UPDATE generation_batches SET idempotency_key = NULL, request_digest = NULL
WHERE idempotency_key IS NOT NULL AND created_at < now() - interval '{IDEMPOTENCY_HOURS} hours'""")

_OPEN = statement("SELECT count(*) FROM generation_batches WHERE ended_at IS NULL")


def _ended_because(what: str) -> str:
    return json.dumps(GenerationError(ErrorCode.TASK_CANCELLED, f"It was not begun: {what}.").to_json())


_STOPPED, _CANCELLED = (
    _ended_because("another of its batch failed, which stops it"),
    _ended_because("its batch was cancelled"),
)


class BatchProgressStore:
    """What the dispatchers write of batches, one of them at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def look_after(self, provider_ids: Sequence[str], *, patience_seconds: float) -> BatchTurn:
        """Do what has become due for all batches.

        Counters are added up; what depends on what has ended may go, or is skipped; what was stopped or cancelled is
        ended; free places are filled; what has stood at a full account for `patience_seconds` makes way for others of
        its batch; owners are told; what has ended is closed. Nothing while another dispatcher does.
        """

        def work(connection: Connection) -> BatchTurn:
            if not connection.execute(_LOCK).scalar_one():
                return BatchTurn()
            live = self._database.live_ids.range
            touched = fold(connection, _FOLD_LIMIT)
            ended = [EndedInBatch(*row[:6]) for row in settle(connection, touched)]
            stopped = _stop(connection, live)
            cancelling = _cancel(connection, live)
            released = fill(connection, live)
            made_way = _make_way(connection, live, provider_ids, patience_seconds)
            return BatchTurn(
                folded=len(touched),
                released=len(released),
                made_way=made_way,
                ended=ended + stopped,
                cancelling=cancelling,
                closed=_close(connection),
                has_more=bool(ended or stopped) or len(touched) == _FOLD_LIMIT,
            )

        return await self._database.transaction("look_after_batches", work)

    async def forget(self) -> None:
        """Remove uploads without a new part for 5 minutes, whose gateway has died, and expired idempotency keys."""
        await self._database.transaction("forget_batch_uploads", lambda c: c.execute(_FORGET))

    async def open_batches(self) -> int:
        """How many batches have not ended."""
        return await self._database.transaction("count_open_batches", lambda c: int(c.execute(_OPEN).scalar_one()))


def _stop(connection: Connection, live: IdRange) -> list[EndedInBatch]:
    for state in (State.HELD, State.PENDING):
        states.check(state, State.CANCELLED)
    parameters = {"limit": _CANCEL_LIMIT, "stopped": _STOPPED, "cancelled": _CANCELLED, **live.parameters}
    return [EndedInBatch(*row) for row in connection.execute(_NOT_BEGUN, parameters)]


def _cancel(connection: Connection, live: IdRange) -> list[str]:
    """Ask for what is under way to be cancelled, as far as nobody is writing it at this moment."""
    ids = list(connection.execute(_UNDER_WAY, {"limit": _CANCEL_LIMIT, **live.parameters}).scalars())
    return cancel_all(connection, ids) if ids else []


def _make_way(connection: Connection, live: IdRange, provider_ids: Sequence[str], patience_seconds: float) -> int:
    states.check(State.PENDING, State.HELD)
    parameters = {
        **live.parameters,
        "provider_ids": list(provider_ids),
        "patience_seconds": patience_seconds,
        "limit": _CANCEL_LIMIT,
    }
    pairs = {row.stuck_id: row.next_id for row in connection.execute(_STUCK, parameters)}
    if not pairs:
        return 0
    held = connection.execute(_HOLD, {"ids": list(pairs)}).scalars()
    return len(release(connection, [pairs[stuck_id] for stuck_id in held]))


def _close(connection: Connection) -> list[dict[str, object]]:
    """Close what has ended, and write down what owners are told."""
    told = [
        {"id": row.id, "event": "batch.progress", "content": {**row.content, "status": BatchStatus.PROCESSING}}
        for row in connection.execute(_DUE_PROGRESS)
    ]
    ids = list(connection.execute(_HOLD_ENDED).scalars())
    closed = []
    for row in connection.execute(_CLOSE, {"ids": ids}) if ids else ():
        content = row.content
        status = BatchStatus.of(
            total_tasks=content["total_tasks"],
            completed_tasks=content["completed_tasks"],
            ended_tasks=content["total_tasks"],
            is_cancel_requested=row.is_cancel_requested,
        )
        closed.append({**content, "status": status, "seconds": row.seconds})
        if row.has_callback:
            event = f"batch.{status.lower()}"
            told.append({"id": row.id, "event": event, "content": {**content, "status": status}})
    if told:
        connection.execute(_TELL, {"rows": rows_as_json(told)})
    return closed
