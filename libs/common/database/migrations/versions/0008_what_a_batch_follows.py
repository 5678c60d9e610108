"""Triggers of batches: what ends is counted and makes room for the next; what is held is not under way."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# What is held waits by the caller's own wish: it reserves its money, and takes no place among those under way.
_CREATED = """
CREATE OR REPLACE FUNCTION generation_created() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO api_key_ledger (api_key_id, month, live, reserved_usd, spent_usd)
    SELECT api_key_id, date_trunc('month', created_at AT TIME ZONE 'UTC'), count(*){FILTER}, sum(reserved_usd), 0
    FROM made WHERE api_key_id <> '' AND ended_at IS NULL GROUP BY 1, 2;
    INSERT INTO callbacks (id, generation_id, sequence, owner, api_key_id, event, url, give_up_at)
    SELECT replace(id, 'gen_', 'cb_') || '_2', id, 2, owner, api_key_id, 'generation.' || lower(state), callback_url,
        now() + interval '24 hours'
    FROM made WHERE callback_url IS NOT NULL AND ended_at IS NOT NULL;
    RETURN NULL;
END $$"""
_ENDED = """
CREATE OR REPLACE FUNCTION generation_ended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO api_key_ledger (api_key_id, month, live, reserved_usd, spent_usd)
    VALUES (NEW.api_key_id, date_trunc('month', NEW.created_at AT TIME ZONE 'UTC'), {LIVE}, -NEW.reserved_usd,
        CASE WHEN NEW.state = 'SUCCESS' THEN COALESCE(NEW.cost_usd, 0) ELSE 0 END);
    RETURN NULL;
END $$"""
_MOVED = """
CREATE FUNCTION generation_moved() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO api_key_ledger (api_key_id, month, live, reserved_usd, spent_usd)
    VALUES (NEW.api_key_id, date_trunc('month', NEW.created_at AT TIME ZONE 'UTC'),
        CASE WHEN NEW.state = 'HELD' THEN -1 ELSE 1 END, 0, 0);
    RETURN NULL;
END $$"""
_COUNTED_OUT = """
CREATE OR REPLACE FUNCTION generation_counted_out() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO statistics_ledger (kind, at, model_identifier, provider_id, outcome, code, count, seconds, cost_usd)
    VALUES ('generation_ended', NEW.ended_at, NEW.model_identifier, NEW.provider_id, NEW.state,
        CASE WHEN NEW.state = 'FAILED' THEN NEW.error ->> 'code' ELSE '' END, 1,
        extract(epoch FROM NEW.ended_at - NEW.{SINCE}),
        CASE WHEN NEW.state = 'SUCCESS' THEN COALESCE(NEW.cost_usd, 0) ELSE 0 END);
    IF NEW.fallback_path <> '[]'::jsonb THEN
        INSERT INTO statistics_ledger (kind, at, model_identifier, provider_id, outcome, code, count)
        SELECT 'model_left', NEW.ended_at, step ->> 'model_identifier', step ->> 'provider_id', 'FAILED',
            COALESCE(step ->> 'code', ''), 1
        FROM jsonb_array_elements(NEW.fallback_path) AS step;
    END IF;
    RETURN NULL;
END $$"""

# What continues a generation takes its place: that is counted no more, and the batch has not ended. Its row is written
# in any case, for whoever closes it holds it.
_BATCH_MADE = """
CREATE FUNCTION batch_made() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM made WHERE batch_id IS NOT NULL AND (continues_id IS NOT NULL OR ended_at IS NOT NULL)) THEN
        RETURN NULL;
    END IF;
    UPDATE generation_batches SET ended_at = NULL
    WHERE id IN (SELECT batch_id FROM made WHERE continues_id IS NOT NULL);
    INSERT INTO batch_ledger (batch_id, batch_index, completed_tasks, failed_tasks, cancelled_tasks, skipped_tasks,
        cost_usd)
    SELECT made.batch_id, made.batch_index, 0, -(before.state = 'FAILED')::int,
        -(before.state = 'CANCELLED' AND before.error ->> 'code' IS DISTINCT FROM 'SKIPPED')::int,
        -(before.state = 'CANCELLED' AND before.error ->> 'code' IS NOT DISTINCT FROM 'SKIPPED')::int, 0
    FROM made JOIN generation_requests before ON before.id = made.continues_id WHERE made.batch_id IS NOT NULL
    UNION ALL
    SELECT batch_id, batch_index, 1, 0, 0, 0, COALESCE(cost_usd, 0)
    FROM made WHERE batch_id IS NOT NULL AND state = 'SUCCESS';
    RETURN NULL;
END $$"""

# The place that becomes free goes to the next of the same provider account, which has a place free as well; else to the
# first that may go. What cannot be had at once (a row that somebody holds, a batch whose order is strict) is left to
# whoever looks after batches, who counts.
_BATCH_FOLLOWED = """
CREATE FUNCTION batch_followed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    batch record;
    next_id text;
BEGIN
    INSERT INTO batch_ledger (batch_id, batch_index, completed_tasks, failed_tasks, cancelled_tasks, skipped_tasks,
        cost_usd)
    VALUES (NEW.batch_id, NEW.batch_index, (NEW.state = 'SUCCESS')::int, (NEW.state = 'FAILED')::int,
        (NEW.state = 'CANCELLED' AND NEW.error ->> 'code' IS DISTINCT FROM 'SKIPPED')::int,
        (NEW.state = 'CANCELLED' AND NEW.error ->> 'code' IS NOT DISTINCT FROM 'SKIPPED')::int,
        CASE WHEN NEW.state = 'SUCCESS' THEN COALESCE(NEW.cost_usd, 0) ELSE 0 END);
    IF NEW.state = 'FAILED' THEN
        UPDATE generation_batches SET stopped_at = now()
        WHERE id = NEW.batch_id AND stop_on_error AND stopped_at IS NULL;
    END IF;
    IF OLD.state = 'HELD' THEN
        RETURN NULL;
    END IF;
    SELECT max_concurrency INTO batch FROM generation_batches
    WHERE id = NEW.batch_id AND is_parallel AND stopped_at IS NULL AND cancel_requested_at IS NULL;
    IF NOT FOUND OR NEW.continues_id IS NOT NULL AND batch.max_concurrency <= (
        SELECT count(*) FROM generation_requests
        WHERE batch_id = NEW.batch_id AND state IN ('PENDING', 'DISPATCHING', 'PROCESSING', 'STORING')) THEN
        RETURN NULL;
    END IF;
    SELECT id INTO next_id FROM generation_requests
    WHERE batch_id = NEW.batch_id AND provider_id = NEW.provider_id AND state = 'HELD' AND waits_for = 0
    ORDER BY batch_index LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF next_id IS NULL THEN
        SELECT id INTO next_id FROM generation_requests
        WHERE batch_id = NEW.batch_id AND state = 'HELD' AND waits_for = 0
        ORDER BY batch_index LIMIT 1 FOR UPDATE SKIP LOCKED;
    END IF;
    UPDATE generation_requests
    SET state = 'PENDING', released_at = now(), updated_at = now(), next_attempt_at = now(),
        turn_at = now() - make_interval(mins => priority)
    WHERE id = next_id;
    RETURN NULL;
END $$"""
_TRIGGERS = (
    """
    CREATE TRIGGER generation_moved AFTER UPDATE ON generation_requests
    FOR EACH ROW WHEN (NEW.api_key_id <> '' AND NEW.ended_at IS NULL AND (OLD.state = 'HELD') <> (NEW.state = 'HELD'))
    EXECUTE FUNCTION generation_moved()""",
    """
    CREATE TRIGGER batch_made AFTER INSERT ON generation_requests REFERENCING NEW TABLE AS made
    FOR EACH STATEMENT EXECUTE FUNCTION batch_made()""",
    """
    CREATE TRIGGER batch_followed AFTER UPDATE ON generation_requests
    FOR EACH ROW WHEN (OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL AND NEW.batch_id IS NOT NULL)
    EXECUTE FUNCTION batch_followed()""",
)
_FUNCTIONS = ("generation_moved", "batch_made", "batch_followed")


def _replaced(*, filtered: str, live: str, since: str) -> tuple[str, ...]:
    return (
        _CREATED.replace("{FILTER}", filtered),
        _ENDED.replace("{LIVE}", live),
        _COUNTED_OUT.replace("{SINCE}", since),
    )


def upgrade() -> None:
    live = "CASE WHEN OLD.state = 'HELD' THEN 0 ELSE -1 END"
    replaced = _replaced(filtered=" FILTER (WHERE state <> 'HELD')", live=live, since="released_at")
    for statement in (*replaced, _MOVED, _BATCH_MADE, _BATCH_FOLLOWED, *_TRIGGERS):
        op.execute(statement)


def downgrade() -> None:
    for name in _FUNCTIONS:
        op.execute(f"DROP FUNCTION {name} CASCADE")
    for statement in _replaced(filtered="", live="-1", since="created_at"):
        op.execute(statement)
