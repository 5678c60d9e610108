"""Rows as a month of work leaves them, made by SQL."""

from __future__ import annotations

from collections.abc import Callable

import psycopg2
import psycopg2.extensions

DAYS = 30
WAITING, LIVE = 20_000, 5_000
_BATCH = 1_000_000
_TABLES = ("generation_requests", "submissions", "poll_tasks")

_GENERATIONS = """
INSERT INTO generation_requests (id, state, model_identifier, provider_id, media_type, prompt, number_of_outputs,
    when_uncertain, request_id, api_key_id, owner, attempts, outputs, error, cost_usd, created_at, updated_at,
    submitted_at, ended_at)
SELECT 'gen_' || lpad(i::text, 26, '0'),
    CASE WHEN i % 100 < 90 THEN 'SUCCESS' WHEN i % 100 < 99 THEN 'FAILED' ELSE 'CANCELLED' END,
    'model-' || i % 12, 'provider-' || i % 8, 'image', 'a red apple on a wooden table', 1, 'fail',
    'req_' || lpad(i::text, 26, '0'), 'key_' || i % 20, 'owner-' || i % 10, 1,
    CASE WHEN i % 100 < 90 THEN '[]'::jsonb END,
    CASE WHEN i % 100 BETWEEN 90 AND 98 THEN jsonb_build_object('code', (ARRAY['PROVIDER_UNAVAILABLE',
        'CONTENT_REJECTED', 'TASK_TIMEOUT', 'TASK_FAILED'])[1 + i % 4], 'message', 'x') END,
    0.04, made.at, made.at, made.at, made.at + make_interval(secs => 2 + (i::bigint * 7919) % 90)
FROM generate_series(%(first)s, %(last)s) AS i,
    LATERAL (SELECT now() - make_interval(secs => (%(all)s - i) * %(apart)s + 100) AS at) AS made"""

_SUBMISSIONS = """
INSERT INTO submissions (id, generation_id, attempt, provider_id, model_identifier, state, latency_ms, started_at,
    ended_at)
SELECT 'sub_' || lpad(i::text, 26, '0'), 'gen_' || lpad(i::text, 26, '0'), 1 + (i %% 50 = 0)::int,
    'provider-' || i %% 8, 'model-' || i %% 12, CASE WHEN i %% 100 < 97 THEN 'ACCEPTED' ELSE 'NOT_ACCEPTED' END, 800,
    made.at, made.at + interval '1 second'
FROM generate_series(%(first)s, %(last)s) AS i,
    LATERAL (SELECT now() - make_interval(secs => (%(all)s - i) * %(apart)s + 100) AS at) AS made"""

_TASKS = """
INSERT INTO poll_tasks (provider_id, task_id, generation_id, adapter_name, state, strategy, poll_interval_ms,
    next_poll_at, deadline_at, created_at, ended_at)
SELECT 'provider-' || i %% 8, 'task-' || i, 'gen_' || lpad(i::text, 26, '0'), 'flux', 'SUCCESS', 'fixed', 2000, now(),
    now(), made.at, made.at + interval '1 minute'
FROM generate_series(%(first)s, %(last)s) AS i,
    LATERAL (SELECT now() - make_interval(secs => (%(all)s - i) * %(apart)s + 100) AS at) AS made"""

# What the triggers would have written; whatever is made of it is made by the monitor's own fold.
_LEDGER = """
INSERT INTO statistics_ledger (kind, at, model_identifier, provider_id, outcome, code, count, seconds, cost_usd)
SELECT 'generation_ended', ended_at, model_identifier, provider_id, state, COALESCE(error ->> 'code', ''), 1,
    extract(epoch FROM ended_at - created_at), cost_usd
FROM generation_requests
WHERE id BETWEEN 'gen_' || lpad(%(first)s::text, 26, '0') AND 'gen_' || lpad(%(last)s::text, 26, '0')
UNION ALL
SELECT 'submission_ended', ended_at, model_identifier, provider_id, state, '', 1, 0.8, 0
FROM submissions
WHERE id BETWEEN 'sub_' || lpad(%(first)s::text, 26, '0') AND 'sub_' || lpad(%(last)s::text, 26, '0')"""

_NOW = (
    f"""
    INSERT INTO generation_requests (id, state, model_identifier, provider_id, media_type, prompt, number_of_outputs,
        when_uncertain, request_id, api_key_id, owner)
    SELECT 'gen_w' || lpad(i::text, 25, '0'), 'PENDING', 'model-' || i % 12, 'provider-' || i % 8, 'image', 'x', 1,
        'fail', 'req', 'key_' || i % 20, 'owner'
    FROM generate_series(1, {WAITING}) AS i""",
    f"""
    INSERT INTO generation_requests (id, state, model_identifier, provider_id, media_type, prompt, number_of_outputs,
        when_uncertain, request_id, api_key_id, owner, provider_task_id)
    SELECT 'gen_p' || lpad(i::text, 25, '0'), 'PROCESSING', 'model-' || i % 12, 'provider-' || i % 8, 'image', 'x', 1,
        'fail', 'req', 'key_' || i % 20, 'owner', 'live-' || i
    FROM generate_series(1, {LIVE}) AS i""",
    f"""
    INSERT INTO poll_tasks (provider_id, task_id, generation_id, adapter_name, state, strategy, poll_interval_ms,
        next_poll_at, deadline_at, retry_count)
    SELECT 'provider-' || i % 8, 'live-' || i, 'gen_p' || lpad(i::text, 25, '0'), 'flux', 'PROCESSING', 'fixed', 2000,
        now() + interval '5 minutes', now() + interval '1 hour', CASE WHEN i % 100 = 0 THEN 5 ELSE 0 END
    FROM generate_series(1, {LIVE}) AS i""",
    """
    INSERT INTO submissions (id, generation_id, attempt, provider_id, state, ended_at)
    SELECT 'sub_u' || i, 'gen_p' || lpad(i::text, 25, '0'), 1, 'provider-1', 'UNCERTAIN', now()
    FROM generate_series(1, 50) AS i""",
)


def fill(url: str, generations: int, tell: Callable[[str], None]) -> None:
    """Make so many generations that have ended within the month, and some that have not.

    Args:
        url: of libpq.
        generations: how many.
        tell: is told each step.
    """
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        indexes = _drop_indexes(connection)
        for first in range(1, generations + 1, _BATCH):
            last = min(generations, first + _BATCH - 1)
            numbers = {"first": first, "last": last, "all": generations, "apart": DAYS * 86_400 / generations}
            for statement in (_GENERATIONS.replace("% ", "%% "), _SUBMISSIONS, _TASKS, _LEDGER):
                cursor.execute(statement, numbers)
            connection.commit()
            tell(f"{last:,} generations, each with its attempt and its task")
        for statement in _NOW:
            cursor.execute(statement)
        for index in indexes:
            cursor.execute(index)
        connection.commit()
        tell("indexes")
    vacuuming = psycopg2.connect(url)
    vacuuming.autocommit = True
    with vacuuming.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
    vacuuming.close()
    tell("vacuumed and analyzed, as Postgres does by itself in time")


def _drop_indexes(connection: psycopg2.extensions.connection) -> list[str]:
    """Those that no constraint needs; what makes them anew."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT i.indexname, i.indexdef FROM pg_indexes i
            WHERE i.tablename = ANY(%s) AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conname = i.indexname)""",
            (list(_TABLES),),
        )
        found = cursor.fetchall()
        for name, _ in found:
            cursor.execute(f'DROP INDEX "{name}"')
    return [definition for _, definition in found]
