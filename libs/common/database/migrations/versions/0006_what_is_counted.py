"""Triggers that write what happened into the statistics ledger."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# As with usage: whatever ends something, now or in a later version, is counted with the same commit, and waits for
# nobody, for each writes a line of its own. The monitor adds them up.
_CREATED = """
CREATE FUNCTION generation_counted_in() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO statistics_ledger (kind, at, model_identifier, provider_id, count)
    SELECT 'generation_created', now(), model_identifier, provider_id, count(*)
    FROM made GROUP BY model_identifier, provider_id;
    RETURN NULL;
END $$"""
_ENDED = """
CREATE FUNCTION generation_counted_out() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO statistics_ledger (kind, at, model_identifier, provider_id, outcome, code, count, seconds, cost_usd)
    VALUES ('generation_ended', NEW.ended_at, NEW.model_identifier, NEW.provider_id, NEW.state,
        CASE WHEN NEW.state = 'FAILED' THEN NEW.error ->> 'code' ELSE '' END, 1,
        extract(epoch FROM NEW.ended_at - NEW.created_at),
        CASE WHEN NEW.state = 'SUCCESS' THEN COALESCE(NEW.cost_usd, 0) ELSE 0 END);
    IF NEW.fallback_path <> '[]'::jsonb THEN
        INSERT INTO statistics_ledger (kind, at, model_identifier, provider_id, outcome, code, count)
        SELECT 'model_left', NEW.ended_at, step ->> 'model_identifier', step ->> 'provider_id', 'FAILED',
            COALESCE(step ->> 'code', ''), 1
        FROM jsonb_array_elements(NEW.fallback_path) AS step;
    END IF;
    RETURN NULL;
END $$"""
_SUBMITTED = """
CREATE FUNCTION submission_counted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO statistics_ledger (kind, at, model_identifier, provider_id, outcome, code, count, seconds)
    VALUES ('submission_ended', NEW.ended_at, COALESCE(NEW.model_identifier, ''), NEW.provider_id, NEW.state,
        COALESCE(NEW.error ->> 'code', ''), 1, NEW.latency_ms / 1000.0);
    RETURN NULL;
END $$"""
_FOLLOWED = """
CREATE FUNCTION task_counted_in() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO statistics_ledger (kind, at, model_identifier, provider_id, count)
    SELECT 'task_created', now(), '', provider_id, count(*) FROM made GROUP BY provider_id;
    RETURN NULL;
END $$"""
_TASK_ENDED = """
CREATE FUNCTION task_counted_out() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO statistics_ledger (kind, at, model_identifier, provider_id, outcome, code, count, seconds)
    VALUES ('task_ended', NEW.ended_at, '', NEW.provider_id, NEW.state,
        CASE WHEN NEW.state = 'FAILED' THEN COALESCE(NEW.last_error ->> 'code', '') ELSE '' END, 1,
        extract(epoch FROM NEW.ended_at - NEW.created_at));
    RETURN NULL;
END $$"""
_ENDS = "FOR EACH ROW WHEN (OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL)"
_TRIGGERS = (
    """
    CREATE TRIGGER generation_counted_in AFTER INSERT ON generation_requests REFERENCING NEW TABLE AS made
    FOR EACH STATEMENT EXECUTE FUNCTION generation_counted_in()""",
    f"""
    CREATE TRIGGER generation_counted_out AFTER UPDATE ON generation_requests
    {_ENDS} EXECUTE FUNCTION generation_counted_out()""",
    f"CREATE TRIGGER submission_counted AFTER UPDATE ON submissions {_ENDS} EXECUTE FUNCTION submission_counted()",
    """
    CREATE TRIGGER task_counted_in AFTER INSERT ON poll_tasks REFERENCING NEW TABLE AS made
    FOR EACH STATEMENT EXECUTE FUNCTION task_counted_in()""",
    f"CREATE TRIGGER task_counted_out AFTER UPDATE ON poll_tasks {_ENDS} EXECUTE FUNCTION task_counted_out()",
)
_FUNCTIONS = (
    "generation_counted_in",
    "generation_counted_out",
    "submission_counted",
    "task_counted_in",
    "task_counted_out",
)


def upgrade() -> None:
    for statement in (_CREATED, _ENDED, _SUBMITTED, _FOLLOWED, _TASK_ENDED, *_TRIGGERS):
        op.execute(statement)


def downgrade() -> None:
    for name in _FUNCTIONS:
        op.execute(f"DROP FUNCTION {name} CASCADE")
