"""The error log: single errors, the groups they are of, and what was said about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from libs.common.database.engine import Database
from libs.common.database.records_monitor import (
    ErrorCount,
    ErrorFilter,
    ErrorGroup,
    GroupFilter,
    LoggedError,
    NewError,
)
from libs.common.database.states import ErrorLevel
from libs.common.database.stores.sets import records, rows_as_json, statement

_FAULT = "level, source, code, message, stack, context, request_id, generation_id, provider_task_id"
_RECENT_HOURS = 24
_GROUP = f"""id, {_FAULT}, count, first_seen_at, last_seen_at, resolved_at, resolved_by, resolution_note, regressions,
    regressed_at"""

# Groups are taken in one order, so that two replicas that keep the same faults do not wait for each other in a ring.
_KEEP = statement(f"""
WITH item AS (
    SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row(
        id text, fingerprint text, group_id text, level text, source text, code text, message text, stack text,
        context jsonb, request_id text, generation_id text, provider_task_id text, occurred_at timestamptz)
), fresh AS (
    SELECT * FROM item WHERE NOT EXISTS (SELECT FROM error_logs l WHERE l.id = item.id)
), latest AS (
    SELECT DISTINCT ON (fingerprint) * FROM fresh ORDER BY fingerprint, occurred_at DESC
), counted AS (
    SELECT fingerprint, count(*) AS count, min(occurred_at) AS first_at FROM fresh GROUP BY fingerprint
), kept AS (
    INSERT INTO error_groups AS g (id, fingerprint, {_FAULT}, count, first_seen_at, last_seen_at)
    SELECT group_id, fingerprint, {_FAULT}, counted.count, counted.first_at, occurred_at
    FROM latest JOIN counted USING (fingerprint) ORDER BY fingerprint
    ON CONFLICT (fingerprint) DO UPDATE SET
        level = EXCLUDED.level, message = EXCLUDED.message, stack = EXCLUDED.stack, context = EXCLUDED.context,
        request_id = EXCLUDED.request_id, generation_id = EXCLUDED.generation_id,
        provider_task_id = EXCLUDED.provider_task_id, count = g.count + EXCLUDED.count,
        first_seen_at = LEAST(g.first_seen_at, EXCLUDED.first_seen_at),
        last_seen_at = GREATEST(g.last_seen_at, EXCLUDED.last_seen_at),
        regressions = g.regressions + CASE WHEN g.resolved_at < EXCLUDED.last_seen_at THEN 1 ELSE 0 END,
        regressed_at = CASE WHEN g.resolved_at < EXCLUDED.last_seen_at THEN EXCLUDED.last_seen_at
            ELSE g.regressed_at END,
        resolved_at = CASE WHEN g.resolved_at < EXCLUDED.last_seen_at THEN NULL ELSE g.resolved_at END,
        resolved_by = CASE WHEN g.resolved_at < EXCLUDED.last_seen_at THEN NULL ELSE g.resolved_by END
    RETURNING id, fingerprint
), by_hour AS (
    INSERT INTO error_group_hours AS h (group_id, at, count)
    SELECT kept.id, date_trunc('hour', occurred_at), count(*) FROM fresh JOIN kept USING (fingerprint)
    GROUP BY 1, 2 ORDER BY 1, 2
    ON CONFLICT (group_id, at) DO UPDATE SET count = h.count + EXCLUDED.count
)
INSERT INTO error_logs (id, group_id, {_FAULT}, occurred_at)
SELECT fresh.id, kept.id, {", ".join(f"fresh.{name}" for name in _FAULT.split(", "))}, fresh.occurred_at
FROM fresh JOIN kept USING (fingerprint)
ON CONFLICT (id) DO NOTHING
RETURNING id""")

_LIST = statement(f"""
SELECT {_GROUP}, ARRAY(
    SELECT COALESCE(h.count, 0)
    FROM generate_series(date_trunc('hour', now()) - interval '{_RECENT_HOURS - 1} hours', now(), '1 hour') AS hour (at)
    LEFT JOIN error_group_hours h ON h.group_id = error_groups.id AND h.at = hour.at ORDER BY hour.at
) AS recent_counts
FROM error_groups
WHERE (:id = '' OR id = :id)
    AND (:level = '' OR level = :level) AND (:source = '' OR source = :source) AND (:code = '' OR code = :code)
    AND (:text = '' OR words @@ websearch_to_tsquery('simple', :text))
    AND (:include_resolved OR :id <> '' OR resolved_at IS NULL)
    AND (CAST(:before_at AS timestamptz) IS NULL OR (last_seen_at, id) < (:before_at, :before_id))
ORDER BY last_seen_at DESC, id DESC LIMIT :limit""")

_RESOLVE = statement(f"""
UPDATE error_groups SET resolved_at = now(), resolved_by = :by, resolution_note = :note
WHERE id = :id RETURNING {_GROUP}""")

_LIST_LOGS = statement(f"""
SELECT id, {_FAULT}, occurred_at FROM error_logs
WHERE (:group_id = '' OR group_id = :group_id) AND (:request_id = '' OR request_id = :request_id AND request_id <> '')
    AND (:generation_id = '' OR generation_id = :generation_id AND generation_id <> '')
    AND (CAST(:before AS text) IS NULL OR id < :before)
ORDER BY id DESC LIMIT :limit""")

_COUNT = statement("""
SELECT code, source, count(*) AS count FROM error_logs
WHERE level = ANY(ARRAY['WARN', 'ERROR', 'CRITICAL']) AND created_at >= :from_time AND created_at < :to_time
GROUP BY code, source ORDER BY count(*) DESC, code, source""")

_LAST_OF_SOURCES = statement(f"""
SELECT found.* FROM unnest(CAST(:sources AS text[])) AS wanted (source) CROSS JOIN LATERAL (
    SELECT {_GROUP} FROM error_groups g WHERE g.source = wanted.source ORDER BY last_seen_at DESC LIMIT 1) AS found""")

_FORGET_LOGS = statement("""
DELETE FROM error_logs WHERE id = ANY(ARRAY(
    SELECT id FROM error_logs WHERE level = :level AND created_at < now() - make_interval(days => :days)
    ORDER BY created_at LIMIT :limit))""")

_FORGET_HOURS = statement(f"""
DELETE FROM error_group_hours WHERE (group_id, at) IN (
    SELECT group_id, at FROM error_group_hours WHERE at < now() - interval '{2 * _RECENT_HOURS} hours' LIMIT :limit)""")

_FORGET_GROUPS = statement("""
DELETE FROM error_groups WHERE id = ANY(ARRAY(
    SELECT id FROM error_groups g
    WHERE g.level = :level AND g.last_seen_at < now() - make_interval(days => :days)
        AND NOT EXISTS (SELECT FROM error_logs l WHERE l.group_id = g.id)
    LIMIT :limit))""")


class ErrorStore:
    """What the monitor keeps, shows and forgets."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep(self, errors: Sequence[NewError]) -> int:
        """Keep errors, each once however often it comes. Answers how many were new."""
        rows = [
            {**asdict(error.fault), "fingerprint": error.fingerprint, "group_id": error.group_id} for error in errors
        ]
        for row in rows:
            row["occurred_at"] = row["occurred_at"].isoformat()
        parameters = {"rows": rows_as_json(rows)}
        return await self._database.transaction("keep_errors", lambda c: len(c.execute(_KEEP, parameters).all()))

    async def list_groups(
        self, wanted: GroupFilter, limit: int, *, before: tuple[datetime, str] | None
    ) -> list[ErrorGroup]:
        """At most `limit` groups, the most recently seen first, seen before that time (and id)."""
        before_at, before_id = before or (None, "")
        parameters = {**asdict(wanted), "limit": limit, "before_at": before_at, "before_id": before_id}
        found = await self._database.transaction(
            "list_error_groups", lambda c: records(ErrorGroup, c.execute(_LIST, parameters))
        )
        return [_typed(group) for group in found]

    async def resolve(self, group_id: str, *, by: str, note: str) -> ErrorGroup | None:
        """Mark a group as mended; it as it stands then, or None."""
        parameters = {"id": group_id, "by": by, "note": note}
        found = await self._database.transaction(
            "resolve_error_group", lambda c: records(ErrorGroup, c.execute(_RESOLVE, parameters))
        )
        return _typed(found[0]) if found else None

    async def list_logs(self, wanted: ErrorFilter, limit: int, *, before: str | None) -> list[LoggedError]:
        """At most `limit` single errors, the newest first, older than the id `before`."""
        parameters = {**asdict(wanted), "limit": limit, "before": before}
        found = await self._database.transaction(
            "list_error_logs", lambda c: records(LoggedError, c.execute(_LIST_LOGS, parameters))
        )
        return [replace(error, level=ErrorLevel(error.level)) for error in found]

    async def count(self, from_time: datetime, to_time: datetime) -> list[ErrorCount]:
        """How often each source saw each code, the most frequent first."""
        parameters = {"from_time": from_time, "to_time": to_time}
        return await self._database.transaction(
            "count_errors", lambda c: records(ErrorCount, c.execute(_COUNT, parameters))
        )

    async def last_of(self, sources: Sequence[str]) -> dict[str, ErrorGroup]:
        """Of each source that saw any, the group it saw last."""
        parameters: dict[str, Any] = {"sources": list(sources)}
        found = await self._database.transaction(
            "last_errors", lambda c: records(ErrorGroup, c.execute(_LAST_OF_SOURCES, parameters))
        )
        return {group.source: _typed(group) for group in found}

    async def forget(self, level: ErrorLevel, *, days: int, limit: int) -> int:
        """Delete at most `limit` errors of a level that are older than that, and groups without any. How many."""
        parameters = {"level": level.value, "days": days, "limit": limit}

        def work(c: Any) -> int:
            c.execute(_FORGET_HOURS, {"limit": limit})
            return int(c.execute(_FORGET_LOGS, parameters).rowcount + c.execute(_FORGET_GROUPS, parameters).rowcount)

        return await self._database.transaction("forget_errors", work)


def _typed(group: ErrorGroup) -> ErrorGroup:
    return replace(group, level=ErrorLevel(group.level))
