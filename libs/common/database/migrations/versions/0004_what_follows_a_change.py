"""Triggers that settle a key's usage and write a callback with the change that they follow from."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Whatever ends a generation, now or in a later version, settles its key's usage and tells its owner with the same
# commit. The usage is written as a line of a ledger, so that those who end generations never wait for each other.
_CREATED = """
CREATE FUNCTION generation_created() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO api_key_ledger (api_key_id, month, live, reserved_usd, spent_usd)
    SELECT api_key_id, date_trunc('month', created_at AT TIME ZONE 'UTC'), count(*), sum(reserved_usd), 0
    FROM made WHERE api_key_id <> '' AND ended_at IS NULL GROUP BY 1, 2;
    INSERT INTO callbacks (id, generation_id, sequence, owner, api_key_id, event, url, give_up_at)
    SELECT replace(id, 'gen_', 'cb_') || '_2', id, 2, owner, api_key_id, 'generation.' || lower(state), callback_url,
        now() + interval '24 hours'
    FROM made WHERE callback_url IS NOT NULL AND ended_at IS NOT NULL;
    RETURN NULL;
END $$"""
_ENDED = """
CREATE FUNCTION generation_ended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO api_key_ledger (api_key_id, month, live, reserved_usd, spent_usd)
    VALUES (NEW.api_key_id, date_trunc('month', NEW.created_at AT TIME ZONE 'UTC'), -1, -NEW.reserved_usd,
        CASE WHEN NEW.state = 'SUCCESS' THEN COALESCE(NEW.cost_usd, 0) ELSE 0 END);
    RETURN NULL;
END $$"""
_CHANGED = """
CREATE FUNCTION generation_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE place smallint := CASE WHEN NEW.ended_at IS NULL THEN 1 ELSE 2 END;
BEGIN
    INSERT INTO callbacks (id, generation_id, sequence, owner, api_key_id, event, url, give_up_at)
    VALUES (replace(NEW.id, 'gen_', 'cb_') || '_' || place, NEW.id, place, NEW.owner, NEW.api_key_id,
        'generation.' || CASE place WHEN 1 THEN 'processing' ELSE lower(NEW.state) END, NEW.callback_url,
        now() + interval '24 hours')
    ON CONFLICT (generation_id, sequence) DO NOTHING;
    RETURN NULL;
END $$"""
_TRIGGERS = (
    """
    CREATE TRIGGER generation_created AFTER INSERT ON generation_requests REFERENCING NEW TABLE AS made
    FOR EACH STATEMENT EXECUTE FUNCTION generation_created()""",
    """
    CREATE TRIGGER generation_ended AFTER UPDATE ON generation_requests
    FOR EACH ROW WHEN (OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL AND NEW.api_key_id <> '')
    EXECUTE FUNCTION generation_ended()""",
    """
    CREATE TRIGGER generation_changed AFTER UPDATE ON generation_requests
    FOR EACH ROW WHEN (NEW.callback_url IS NOT NULL AND (
        OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL
        OR OLD.state IN ('HELD', 'PENDING', 'DISPATCHING') AND NEW.state IN ('PROCESSING', 'STORING')))
    EXECUTE FUNCTION generation_changed()""",
)
_FUNCTIONS = ("generation_created", "generation_ended", "generation_changed")


def upgrade() -> None:
    for statement in (_CREATED, _ENDED, _CHANGED, *_TRIGGERS):
        op.execute(statement)


def downgrade() -> None:
    for name in _FUNCTIONS:
        op.execute(f"DROP FUNCTION {name} CASCADE")
