"""Triggers that count a continuation in its experiment.

A continuation is no new assignment. When it is made, the outcome of what it continues is taken back from the ledger's
sums (`reopened`), and its own outcome is counted once it has ended: so the sums hold one outcome for each assignment.
"""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_COMMENTS = {"before": "assigned, ended or rated.", "after": "assigned, ended, reopened or rated."}

# A continuation that takes over a task which was submitted before it was made measures no duration: part of the time
# passed while nobody waited for the task.
_SECONDS = """
CREATE FUNCTION experiment_seconds(continues_id text, is_late boolean, submitted_at timestamptz, created_at timestamptz,
    ended_at timestamptz) RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN continues_id IS NULL OR NOT is_late AND submitted_at >= created_at
        THEN CAST(extract(epoch FROM ended_at - created_at) AS double precision) END
$$"""
# A generation may be continued twice: resumed, and by a late result of its first task. The first continuation counts.
_IS_FIRST = """
CREATE FUNCTION is_first_continuation(own_id text, original_id text, own_created_at timestamptz) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT NOT EXISTS (SELECT FROM generation_requests other
        WHERE other.continues_id = original_id AND (other.created_at, other.id) < (own_created_at, own_id))
$$"""
_ASSIGNED = """
CREATE OR REPLACE FUNCTION experiment_assigned() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO experiment_ledger (experiment_id, variant_id, version, unit, owner, user_id, kind)
    SELECT experiment_id, variant_id, experiment_version, experiment_unit(owner, user_id), owner, user_id, 'assigned'
    FROM made WHERE experiment_id IS NOT NULL AND continues_id IS NULL;
    IF EXISTS (SELECT FROM made WHERE experiment_id IS NOT NULL AND continues_id IS NOT NULL) THEN
        INSERT INTO experiment_ledger (experiment_id, variant_id, version, unit, owner, user_id, kind, outcome, seconds,
            cost_usd)
        SELECT g.experiment_id, g.variant_id, g.experiment_version, experiment_unit(g.owner, g.user_id), g.owner,
            g.user_id, kind, g.state,
            experiment_seconds(g.continues_id, g.is_late, g.submitted_at, g.created_at, g.ended_at),
            COALESCE(g.cost_usd, 0)
        FROM made CROSS JOIN LATERAL (VALUES ('reopened', made.continues_id), ('ended', made.id)) AS line(kind, id)
        JOIN generation_requests g ON g.id = line.id
        WHERE made.experiment_id IS NOT NULL AND made.continues_id IS NOT NULL AND g.ended_at IS NOT NULL
            AND g.experiment_id = made.experiment_id
            AND is_first_continuation(made.id, made.continues_id, made.created_at);
    END IF;
    RETURN NULL;
END $$"""
_ENDED = """
CREATE OR REPLACE FUNCTION experiment_ended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.continues_id IS NULL OR is_first_continuation(NEW.id, NEW.continues_id, NEW.created_at) THEN
        INSERT INTO experiment_ledger (experiment_id, variant_id, version, unit, owner, user_id, kind, outcome, seconds,
            cost_usd)
        VALUES (NEW.experiment_id, NEW.variant_id, NEW.experiment_version,
            experiment_unit(NEW.owner, NEW.user_id), NEW.owner, NEW.user_id, 'ended', NEW.state,
            experiment_seconds(NEW.continues_id, NEW.is_late, NEW.submitted_at, NEW.created_at, NEW.ended_at),
            COALESCE(NEW.cost_usd, 0));
    END IF;
    RETURN NULL;
END $$"""
_ASSIGNED_BEFORE = """
CREATE OR REPLACE FUNCTION experiment_assigned() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO experiment_ledger (experiment_id, variant_id, version, unit, owner, user_id, kind)
    SELECT experiment_id, variant_id, experiment_version, experiment_unit(owner, user_id), owner, user_id, 'assigned'
    FROM made WHERE experiment_id IS NOT NULL;
    RETURN NULL;
END $$"""
_ENDED_BEFORE = """
CREATE OR REPLACE FUNCTION experiment_ended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO experiment_ledger (experiment_id, variant_id, version, unit, owner, user_id, kind, outcome, seconds,
        cost_usd)
    VALUES (NEW.experiment_id, NEW.variant_id, NEW.experiment_version,
        experiment_unit(NEW.owner, NEW.user_id), NEW.owner, NEW.user_id, 'ended', NEW.state,
        extract(epoch FROM NEW.ended_at - NEW.created_at), COALESCE(NEW.cost_usd, 0));
    RETURN NULL;
END $$"""


def upgrade() -> None:
    for statement in (_SECONDS, _IS_FIRST, _ASSIGNED, _ENDED):
        op.execute(statement)
    _comment("before", "after")


def downgrade() -> None:
    for statement in (_ASSIGNED_BEFORE, _ENDED_BEFORE):
        op.execute(statement)
    op.execute("DROP FUNCTION is_first_continuation")
    op.execute("DROP FUNCTION experiment_seconds")
    # What an older version cannot add up.
    op.execute("DELETE FROM experiment_ledger WHERE kind = 'reopened'")
    _comment("after", "before")


def _comment(old: str, new: str) -> None:
    op.alter_column(
        "experiment_ledger",
        "kind",
        comment=_COMMENTS[new],
        existing_comment=_COMMENTS[old],
        existing_nullable=False,
    )
