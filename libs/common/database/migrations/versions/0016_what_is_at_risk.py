"""Triggers that keep money at risk and what is known to be spent."""

import sqlalchemy as sa
from alembic import op

from libs.common.database.migrations.online import execute, locked

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_MONEY = "round(CAST(COALESCE({}, 0) AS numeric), 6)"
_COST = _MONEY.format("NEW.cost_usd")
_COST_OF_SUCCESS = "CASE WHEN NEW.state = 'SUCCESS' THEN COALESCE(NEW.cost_usd, 0) ELSE 0 END"

# What a generation cost is spent whatever state it ended in: a vendor bills a result that cannot be stored as well.
_ENDED = """
CREATE OR REPLACE FUNCTION generation_ended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO api_key_ledger (api_key_id, month, live, reserved_usd, spent_usd)
    VALUES (NEW.api_key_id, date_trunc('month', NEW.created_at AT TIME ZONE 'UTC'),
        CASE WHEN OLD.state = 'HELD' THEN 0 ELSE -1 END, -NEW.reserved_usd, {COST});
    RETURN NULL;
END $$"""
_COUNTED_OUT = """
CREATE OR REPLACE FUNCTION generation_counted_out() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO statistics_ledger (kind, at, model_identifier, provider_id, outcome, code, count, seconds, cost_usd)
    VALUES ('generation_ended', NEW.ended_at, NEW.model_identifier, NEW.provider_id, NEW.state,
        CASE WHEN NEW.state = 'FAILED' THEN NEW.error ->> 'code' ELSE '' END, 1,
        extract(epoch FROM NEW.ended_at - NEW.released_at), {COST});
    IF NEW.fallback_path <> '[]'::jsonb THEN
        INSERT INTO statistics_ledger (kind, at, model_identifier, provider_id, outcome, code, count)
        SELECT 'model_left', NEW.ended_at, step ->> 'model_identifier', step ->> 'provider_id', 'FAILED',
            COALESCE(step ->> 'code', ''), 1
        FROM jsonb_array_elements(NEW.fallback_path) AS step;
    END IF;
    RETURN NULL;
END $$"""

# A generation may be inserted with its end, and with what it cost.
_MADE_ENDED = """
CREATE OR REPLACE FUNCTION generation_made_ended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO api_key_ledger (api_key_id, month, live, reserved_usd, spent_usd)
    SELECT NEW.api_key_id, date_trunc('month', NEW.created_at AT TIME ZONE 'UTC'), 0, 0, {COST}
    WHERE NEW.api_key_id <> '';
    INSERT INTO statistics_ledger (kind, at, model_identifier, provider_id, outcome, count, cost_usd)
    VALUES ('generation_ended', NEW.ended_at, NEW.model_identifier, NEW.provider_id, NEW.state, 0, {COST});
    RETURN NULL;
END $$"""

# An uncertain submission that was repeated under the same id is at risk only once its generation has ended and no
# later attempt has told what became of it: until then the reservation holds its money.
_LEFT_UNCERTAIN = """
CREATE OR REPLACE FUNCTION generation_left_uncertain() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE submissions s
    SET at_risk_usd = COALESCE(NULLIF(s.expected_cost_usd, 0), CAST(NEW.expected_cost_usd AS numeric))
    WHERE s.generation_id = NEW.id AND s.state = 'UNCERTAIN' AND s.at_risk_usd = 0 AND s.billing IS NULL
        AND NOT EXISTS (
            SELECT FROM submissions later WHERE later.generation_id = NEW.id AND later.attempt > s.attempt
                AND later.state IN ('UNCERTAIN', 'ACCEPTED', 'COMPLETED'));
    RETURN NULL;
END $$"""

# Money of a submission counts in the month and at the time of the submission, whenever it changes: so it leaves the
# window in which it came.
_SUBMISSION = """
CREATE OR REPLACE FUNCTION submission_money() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    risk numeric := NEW.at_risk_usd;
    spent numeric := NEW.spent_usd;
    risks integer := (NEW.at_risk_usd > 0)::int;
    spendings integer := (NEW.spent_usd > 0)::int;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        risk := risk - OLD.at_risk_usd;
        spent := spent - OLD.spent_usd;
        risks := risks - (OLD.at_risk_usd > 0)::int;
        spendings := spendings - (OLD.spent_usd > 0)::int;
    END IF;
    INSERT INTO api_key_ledger (api_key_id, month, live, reserved_usd, spent_usd, at_risk_usd)
    SELECT g.api_key_id, date_trunc('month', NEW.started_at AT TIME ZONE 'UTC'), 0, 0, spent, risk
    FROM generation_requests g WHERE g.id = NEW.generation_id AND g.api_key_id <> '';
    INSERT INTO statistics_ledger (kind, at, model_identifier, provider_id, count, cost_usd)
    SELECT money.kind, NEW.started_at, COALESCE(NEW.model_identifier, ''), NEW.provider_id, money.count, money.usd
    FROM (VALUES ('money_at_risk', risks, risk), ('money_spent', spendings, spent)) AS money (kind, count, usd)
    WHERE money.usd <> 0 OR money.count <> 0;
    RETURN NULL;
END $$"""

_BATCH_COST = """
CREATE OR REPLACE FUNCTION batch_cost() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO batch_ledger (batch_id, batch_index, completed_tasks, failed_tasks, cancelled_tasks, skipped_tasks,
        cost_usd)
    VALUES (NEW.batch_id, NEW.batch_index, 0, 0, 0, 0, NEW.cost_usd);
    RETURN NULL;
END $$"""

_TRIGGERS = {
    "generation_made_ended": (
        "generation_requests",
        """
    AFTER INSERT ON generation_requests
    FOR EACH ROW WHEN (NEW.ended_at IS NOT NULL AND NEW.cost_usd > 0) EXECUTE FUNCTION generation_made_ended()""",
    ),
    "generation_left_uncertain": (
        "generation_requests",
        """
    AFTER UPDATE ON generation_requests
    FOR EACH ROW WHEN (OLD.ended_at IS NULL AND NEW.state IN ('FAILED', 'CANCELLED') AND NEW.attempts > 0)
    EXECUTE FUNCTION generation_left_uncertain()""",
    ),
    "batch_cost": (
        "generation_requests",
        """
    AFTER UPDATE ON generation_requests
    FOR EACH ROW WHEN (OLD.ended_at IS NULL AND NEW.state IN ('FAILED', 'CANCELLED') AND NEW.batch_id IS NOT NULL
        AND NEW.cost_usd > 0)
    EXECUTE FUNCTION batch_cost()""",
    ),
    "submission_money_made": (
        "submissions",
        """
    AFTER INSERT ON submissions
    FOR EACH ROW WHEN (NEW.at_risk_usd > 0 OR NEW.spent_usd > 0) EXECUTE FUNCTION submission_money()""",
    ),
    "submission_money": (
        "submissions",
        """
    AFTER UPDATE ON submissions
    FOR EACH ROW WHEN (OLD.at_risk_usd <> NEW.at_risk_usd OR OLD.spent_usd <> NEW.spent_usd)
    EXECUTE FUNCTION submission_money()""",
    ),
}
_FUNCTIONS = (
    "generation_made_ended",
    "generation_left_uncertain",
    "batch_cost",
    "submission_money",
)

# What attempts of before may cost. Those that ended otherwise need no figure.
_EXPECTED = """
UPDATE submissions s SET expected_cost_usd = CAST(g.expected_cost_usd AS numeric) FROM generation_requests g
WHERE g.id = s.generation_id AND s.expected_cost_usd = 0 AND g.expected_cost_usd > 0
    AND (s.state = 'UNCERTAIN' OR s.state IN ('STARTED', 'ACCEPTED') AND g.state <> 'SUCCESS')"""

# Uncertain ones of which nobody has said that the provider had nothing: an operator who submitted again has. A repeat
# by policy leaves the first one at risk only where the request asked for it; else the provider bills an id once.
_UNCERTAIN = """
UPDATE submissions s SET at_risk_usd = s.expected_cost_usd FROM generation_requests g
WHERE g.id = s.generation_id AND s.state = 'UNCERTAIN' AND s.expected_cost_usd > 0
    AND s.at_risk_usd = 0 AND s.spent_usd = 0 AND s.billing IS NULL
    AND (s.resolution IS NULL OR s.resolution = 'DISMISSED'
        OR s.resolution = 'RESUBMITTED' AND s.resolution_note = 'by policy' AND g.when_uncertain = 'resubmit')"""
_TIMED_OUT = """
UPDATE submissions s SET at_risk_usd = s.expected_cost_usd FROM generation_requests g
WHERE g.id = s.generation_id AND s.state = 'ACCEPTED' AND s.expected_cost_usd > 0
    AND s.at_risk_usd = 0 AND s.spent_usd = 0 AND s.billing IS NULL
    AND g.state = 'FAILED' AND g.error ->> 'code' = 'TASK_TIMEOUT' AND g.cost_usd IS NULL"""

# What generations cost that had not succeeded when the triggers changed.
_SPENT_BEFORE = (
    """
    INSERT INTO api_key_ledger (api_key_id, month, live, reserved_usd, spent_usd)
    SELECT api_key_id, date_trunc('month', created_at AT TIME ZONE 'UTC'), 0, 0, sum({COST})
    FROM generation_requests WHERE api_key_id <> '' AND {OTHERS} GROUP BY 1, 2""",
    """
    INSERT INTO statistics_ledger (kind, at, model_identifier, provider_id, outcome, code, count, cost_usd)
    SELECT 'generation_ended', ended_at, model_identifier, provider_id, state,
        CASE WHEN state = 'FAILED' THEN error ->> 'code' ELSE '' END, 0, {COST}
    FROM generation_requests WHERE {OTHERS}""",
    """
    INSERT INTO batch_ledger (batch_id, batch_index, completed_tasks, failed_tasks, cancelled_tasks, skipped_tasks,
        cost_usd)
    SELECT batch_id, batch_index, 0, 0, 0, 0, {COST}
    FROM generation_requests WHERE batch_id IS NOT NULL AND {OTHERS}""",
)


def upgrade() -> None:
    """In three steps, of which the first two can be repeated: a migration that was cut off is simply run again."""
    with locked(["generation_requests", "submissions"]):
        _make_triggers()
    before = _changed_at()
    with op.get_context().autocommit_block():
        for statement in (_EXPECTED, _UNCERTAIN, _TIMED_OUT):
            execute(statement)
    _add_spent(before, sign=1)
    execute("COMMENT ON FUNCTION submission_money IS NULL")


def downgrade() -> None:
    execute(
        "UPDATE submissions SET at_risk_usd = 0, spent_usd = 0, billing = NULL, billing_at = NULL"
        " WHERE at_risk_usd > 0 OR spent_usd > 0 OR billing IS NOT NULL"
    )
    _add_spent("infinity", sign=-1)
    for name in _FUNCTIONS:
        execute(f"DROP FUNCTION {name} CASCADE")
    for function in (_ENDED, _COUNTED_OUT):
        execute(function.replace("{COST}", _COST_OF_SUCCESS))


def _make_triggers() -> None:
    is_first_try = op.get_bind().execute(sa.text("SELECT to_regproc('submission_money') IS NULL")).scalar_one()
    for function in (_ENDED, _COUNTED_OUT, _MADE_ENDED):
        execute(function.replace("{COST}", _COST))
    for function in (_LEFT_UNCERTAIN, _BATCH_COST, _SUBMISSION):
        execute(function)
    for name, (table, definition) in _TRIGGERS.items():
        execute(f"DROP TRIGGER IF EXISTS {name} ON {table}")
        execute(f"CREATE TRIGGER {name}{definition}")
    if is_first_try:
        now = op.get_bind().execute(sa.text("SELECT clock_timestamp()::text")).scalar_one()
        execute(f"COMMENT ON FUNCTION submission_money IS '{now}'")


def _changed_at() -> str:
    """When the triggers changed, as the first try of this migration noted it."""
    sql = "SELECT obj_description(to_regproc('submission_money'), 'pg_proc')"
    return str(op.get_bind().execute(sa.text(sql)).scalar_one())


def _add_spent(before: str, *, sign: int) -> None:
    cost = f"{_MONEY.format('cost_usd')} * {sign}"
    others = f"state IN ('FAILED', 'CANCELLED') AND cost_usd > 0 AND ended_at < '{before}'"
    for statement in _SPENT_BEFORE:
        execute(statement.replace("{COST}", cost).replace("{OTHERS}", others))
