"""The ledger of batches: lines that triggers write at the end of generations, added up to the counters of batches."""

from __future__ import annotations

import structlog
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from libs.common.database.stores.sets import statement

log = structlog.get_logger()
Place = tuple[str, int]
"""A batch, and the index of one of its requests."""

_FOLD = statement("""
WITH taken AS (
    DELETE FROM batch_ledger WHERE id = ANY(ARRAY(
        SELECT id FROM batch_ledger WHERE CAST(:batch_id AS text) IS NULL OR batch_id = :batch_id
        ORDER BY id LIMIT :limit)) RETURNING *
), folded AS (
    UPDATE generation_batches b
    SET completed_tasks = b.completed_tasks + sums.completed_tasks,
        failed_tasks = b.failed_tasks + sums.failed_tasks,
        cancelled_tasks = b.cancelled_tasks + sums.cancelled_tasks,
        skipped_tasks = b.skipped_tasks + sums.skipped_tasks, cost_usd = b.cost_usd + sums.cost_usd
    FROM (
        SELECT batch_id, sum(completed_tasks) AS completed_tasks, sum(failed_tasks) AS failed_tasks,
            sum(cancelled_tasks) AS cancelled_tasks, sum(skipped_tasks) AS skipped_tasks, sum(cost_usd) AS cost_usd
        FROM taken GROUP BY batch_id) sums
    WHERE b.id = sums.batch_id
)
SELECT batch_id, batch_index FROM taken""")
_IN_LEDGER = statement("""
SELECT DISTINCT batch_id FROM (SELECT batch_id FROM batch_ledger ORDER BY id LIMIT :limit) first ORDER BY batch_id""")
_DROP_LINES = statement("DELETE FROM batch_ledger WHERE batch_id = :batch_id RETURNING batch_id, batch_index")


def fold(connection: Connection, limit: int) -> list[Place]:
    """Add up at most `limit` lines of the ledger, in this transaction, and return the places that they are about.

    Lines that the counters of their batch do not take are dropped and logged, so that they hold up no other batch.
    """
    try:
        return _folded(connection, None, limit)
    except IntegrityError:
        touched: list[Place] = []
        for batch_id in connection.execute(_IN_LEDGER, {"limit": limit}).scalars().all():
            touched += _folded_or_dropped(connection, batch_id, limit)
        return touched


def _folded(connection: Connection, batch_id: str | None, limit: int) -> list[Place]:
    with connection.begin_nested():
        parameters = {"limit": limit, "batch_id": batch_id}
        return [(row.batch_id, row.batch_index) for row in connection.execute(_FOLD, parameters)]


def _folded_or_dropped(connection: Connection, batch_id: str, limit: int) -> list[Place]:
    try:
        return _folded(connection, batch_id, limit)
    except IntegrityError:
        log.exception("batch counters do not take their changes, which are dropped", batch_id=batch_id)
        return [(row.batch_id, row.batch_index) for row in connection.execute(_DROP_LINES, {"batch_id": batch_id})]
