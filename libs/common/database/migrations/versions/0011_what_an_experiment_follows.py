"""Triggers that write what happens in experiments into their ledger."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

# As with usage and statistics: whatever makes or ends a generation, now or in a later version, is told with the same
# commit, and waits for nobody. What takes part in no experiment writes nothing.
_ASSIGNED = """
CREATE FUNCTION experiment_assigned() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO experiment_ledger (experiment_id, variant_id, version, unit, owner, user_id, kind)
    SELECT experiment_id, variant_id, experiment_version,
        CASE WHEN user_id IS NOT NULL THEN md5(owner || chr(10) || user_id)::uuid END, owner, user_id, 'assigned'
    FROM made WHERE experiment_id IS NOT NULL;
    RETURN NULL;
END $$"""
_ENDED = """
CREATE FUNCTION experiment_ended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO experiment_ledger (experiment_id, variant_id, version, unit, owner, user_id, kind, outcome, seconds,
        cost_usd)
    VALUES (NEW.experiment_id, NEW.variant_id, NEW.experiment_version,
        CASE WHEN NEW.user_id IS NOT NULL THEN md5(NEW.owner || chr(10) || NEW.user_id)::uuid END,
        NEW.owner, NEW.user_id, 'ended', NEW.state, extract(epoch FROM NEW.ended_at - NEW.created_at),
        COALESCE(NEW.cost_usd, 0));
    RETURN NULL;
END $$"""
_TRIGGERS = (
    """
    CREATE TRIGGER experiment_assigned AFTER INSERT ON generation_requests REFERENCING NEW TABLE AS made
    FOR EACH STATEMENT EXECUTE FUNCTION experiment_assigned()""",
    """
    CREATE TRIGGER experiment_ended AFTER UPDATE ON generation_requests FOR EACH ROW
    WHEN (OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL AND NEW.experiment_id IS NOT NULL)
    EXECUTE FUNCTION experiment_ended()""",
)


def upgrade() -> None:
    for statement in (_ASSIGNED, _ENDED, *_TRIGGERS):
        op.execute(statement)


def downgrade() -> None:
    for name in ("experiment_assigned", "experiment_ended"):
        op.execute(f"DROP FUNCTION {name} CASCADE")
