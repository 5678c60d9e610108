"""Triggers that write what happens in experiments into their ledger."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# As with usage and statistics: whatever makes or ends a generation, now or in a later version, is told with the same
# commit, and waits for nobody. What takes part in no experiment writes nothing.
# A user among those of all owners; nobody without a user_id.
_UNIT = """
CREATE FUNCTION experiment_unit(owner text, user_id text) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT md5(owner || chr(10) || user_id)::uuid
$$"""
_ASSIGNED = """
CREATE FUNCTION experiment_assigned() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO experiment_ledger (experiment_id, variant_id, version, unit, owner, user_id, kind)
    SELECT experiment_id, variant_id, experiment_version, experiment_unit(owner, user_id), owner, user_id, 'assigned'
    FROM made WHERE experiment_id IS NOT NULL;
    RETURN NULL;
END $$"""
_ENDED = """
CREATE FUNCTION experiment_ended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO experiment_ledger (experiment_id, variant_id, version, unit, owner, user_id, kind, outcome, seconds,
        cost_usd)
    VALUES (NEW.experiment_id, NEW.variant_id, NEW.experiment_version,
        experiment_unit(NEW.owner, NEW.user_id), NEW.owner, NEW.user_id, 'ended', NEW.state,
        extract(epoch FROM NEW.ended_at - NEW.created_at), COALESCE(NEW.cost_usd, 0));
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
    for statement in (_UNIT, _ASSIGNED, _ENDED, *_TRIGGERS):
        op.execute(statement)


def downgrade() -> None:
    for name in ("experiment_assigned", "experiment_ended"):
        op.execute(f"DROP FUNCTION {name} CASCADE")
    op.execute("DROP FUNCTION experiment_unit")
