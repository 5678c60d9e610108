"""What beside generations fills the console's pages, made by SQL: batches, errors, alerts, keys, records."""

from __future__ import annotations

import psycopg2

BATCH, BATCH_SIZE = "batch_large", 100_000
_STATEMENTS = (
    f"""
    INSERT INTO generation_batches (id, owner, api_key_id, request_id, total_tasks, is_parallel, max_concurrency,
        stop_on_error, estimated_low_usd, estimated_usd, estimated_high_usd, estimated_seconds, completed_tasks,
        failed_tasks, ended_at)
    SELECT CASE WHEN i = 1 THEN '{BATCH}' ELSE 'batch_' || lpad(i::text, 26, '0') END, 'owner-1', 'key_1', 'req',
        CASE WHEN i = 1 THEN {BATCH_SIZE} ELSE 10 END, true, 3, false, 0, 0, 0, 0,
        CASE WHEN i = 1 THEN {BATCH_SIZE} * 9 / 10 ELSE 10 END, CASE WHEN i = 1 THEN {BATCH_SIZE} / 10 ELSE 0 END,
        now()
    FROM generate_series(1, 20000) AS i""",
    f"""
    UPDATE generation_requests g SET batch_id = '{BATCH}', batch_index = numbered.place
    FROM (SELECT id, row_number() OVER (ORDER BY id DESC) - 1 AS place
        FROM (SELECT id FROM generation_requests WHERE id < 'gen_a' ORDER BY id DESC LIMIT {BATCH_SIZE}) newest
    ) numbered
    WHERE g.id = numbered.id""",
    """
    INSERT INTO error_groups (id, fingerprint, level, source, code, message, count, first_seen_at, last_seen_at)
    SELECT 'err_' || lpad(i::text, 26, '0'), 'print-' || i, 'ERROR', 'adapter:provider-' || i % 8, 'PROVIDER_ERROR',
        'the provider answered ' || i, 100, now() - interval '20 days', now() - make_interval(secs => i)
    FROM generate_series(1, 20000) AS i""",
    """
    INSERT INTO error_group_hours (group_id, at, count)
    SELECT 'err_' || lpad(i::text, 26, '0'), date_trunc('hour', now()) - make_interval(hours => h), i % 50
    FROM generate_series(1, 20000) AS i, generate_series(0, 40) AS h""",
    """
    INSERT INTO error_logs (id, group_id, level, source, code, message, occurred_at)
    SELECT 'log_' || lpad(i::text, 26, '0'), 'err_' || lpad((1 + i % 20000)::text, 26, '0'), 'ERROR', 'adapter:x',
        'PROVIDER_ERROR', 'the provider answered', now() - make_interval(secs => i)
    FROM generate_series(1, 1000000) AS i""",
    """
    INSERT INTO system_alerts (id, type, subject, severity, state, message, value, threshold, channels, started_at,
        seen_at, resolved_at)
    SELECT 'alert_' || lpad(i::text, 26, '0'), 'QUEUE_STANDS_STILL', 'provider-' || i, 'WARNING', 'RESOLVED', 'x', 1, 1,
        '[]', now() - make_interval(mins => i), now(), now()
    FROM generate_series(1, 100000) AS i""",
    """
    INSERT INTO api_keys (id, prefix, key_hash, role, owner)
    SELECT 'key_' || i, 'drk_' || i, sha256(i::text::bytea), 'client', 'owner-' || i % 10
    FROM generate_series(0, 5000) AS i""",
    "INSERT INTO api_key_usage (api_key_id) SELECT id FROM api_keys ON CONFLICT DO NOTHING",
    """
    INSERT INTO audit_records (id, api_key_id, owner, action, subject, outcome, address, request_id)
    SELECT 'aud_' || lpad(i::text, 26, '0'), 'key_1', 'admin', 'generation.cancel', 'gen_x', 'done', '127.0.0.1', 'req'
    FROM generate_series(1, 1000000) AS i""",
)


def add(url: str) -> None:
    """Make them. `url`: of libpq."""
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        for statement in _STATEMENTS:
            cursor.execute(statement)
    vacuuming = psycopg2.connect(url)
    vacuuming.autocommit = True
    with vacuuming.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
    vacuuming.close()
