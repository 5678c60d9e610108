"""Generations, their submissions and errors lie by month, so that a month is forgotten by dropping a table."""

from datetime import UTC, datetime

from alembic import op
from ulid import ULID

from libs.common.database.migrations.online import execute, index_concurrently, locked, merge, partition

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

# Each table with the id that says which month a row belongs to, and how that id begins.
_TABLES = {
    "generation_requests": ("id", "gen_"),
    "submissions": ("generation_id", "gen_"),
    "error_logs": ("id", "log_"),
}
_COMMENTS = {
    "generation_requests": "One row for each generation that was accepted: the truth about it.",
    "submissions": "One row for each attempt to submit a generation to a provider.",
    "error_logs": "One row for each error, until it is too old for its level.",
}
_CONTINUES = "The generation whose uncertain submit an operator resolved with this one."
# What refers to a generation, and what becomes of it when that is deleted. Postgres would look through all of these,
# under a lock, whenever a month is dropped: so they refer without a key, and are deleted before.
_REFERRING = {
    "submissions": "",
    "poll_tasks": "",
    "output_spool": "",
    "callbacks": "",
    "generation_ratings": " ON DELETE CASCADE",
}


# A row that is at work changes half a dozen times within minutes, and then never again. What is dead is cleared away
# after some thousand rows and without pauses, not after a fifth of a table that grows all month; and what Postgres
# knows of a month is known minutes after that has begun.
_QUEUES = ("generation_requests_first", "submissions_first", "error_logs_first", "poll_tasks")
_QUEUE = {
    "fillfactor": "85",
    "autovacuum_vacuum_scale_factor": "0.01",
    "autovacuum_vacuum_threshold": "2000",
    "autovacuum_vacuum_insert_scale_factor": "0.05",
    "autovacuum_analyze_scale_factor": "0.02",
    "autovacuum_analyze_threshold": "200",
    "autovacuum_vacuum_cost_delay": "0",
}
# Services may be of a role that owns no tables. Whoever may delete rows may make and drop months, and nothing else.
_MAY = """
    IF part !~ ('^' || parent || '_{NAMES}$') OR parent NOT IN ('generation_requests', 'submissions', 'error_logs') THEN
        RAISE EXCEPTION '% is no month of %', part, parent;
    ELSIF NOT has_table_privilege(session_user, parent, 'DELETE') THEN
        RAISE EXCEPTION '% may not change %', session_user, parent USING ERRCODE = 'insufficient_privilege';
    END IF;"""
_MAKE_MONTH = """
CREATE FUNCTION make_month(parent text, part text, begins_at text, ends_before text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {SCHEMA}, pg_temp AS $$
BEGIN{MAY}
    EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L) WITH ({STORAGE})',
        part, parent, begins_at, ends_before);
END $$"""
_DROP_MONTH = """
CREATE FUNCTION drop_month(parent text, part text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {SCHEMA}, pg_temp AS $$
DECLARE
    live_id text;
BEGIN{MAY}
    IF parent = 'generation_requests' THEN
        EXECUTE format('SELECT id FROM %I WHERE state <> ''SUCCESS'' AND ended_at IS NULL LIMIT 1', part) INTO live_id;
        IF live_id IS NOT NULL THEN
            RAISE EXCEPTION '% of % is under way', live_id, part;
        END IF;
    END IF;
    EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', parent, part);
    EXECUTE format('DROP TABLE %I', part);
END $$"""


def upgrade() -> None:
    """In three steps, of which the first two can be repeated: a migration that was cut off is simply run again."""
    with locked(list(_TABLES)):
        for table, (column, prefix) in _TABLES.items():
            execute(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS ck_{table}_first")
            check = f"CHECK ({column} < '{_bound(prefix)}') NOT VALID"
            execute(f"ALTER TABLE {table} ADD CONSTRAINT ck_{table}_first {check}")
    with op.get_context().autocommit_block():
        _prepare()
    with locked([*_REFERRING, "generation_requests", "error_logs", "error_groups"]):
        for table in _REFERRING:
            execute(f"ALTER TABLE {table} DROP CONSTRAINT fk_{table}_generation_id")
        # What it continued may be forgotten before it is. That it does so once is seen to by who locks that.
        execute("ALTER TABLE generation_requests DROP CONSTRAINT fk_generation_requests_continues_id")
        execute("ALTER TABLE generation_requests DROP CONSTRAINT uq_generation_requests_continues_id")
        execute("ALTER TABLE submissions DROP CONSTRAINT pk_submissions")
        execute("ALTER TABLE submissions DROP CONSTRAINT uq_submissions_generation_id_attempt")
        execute("ALTER TABLE submissions ADD CONSTRAINT pk_submissions PRIMARY KEY USING INDEX uq_submissions_attempt")
        for table, (column, prefix) in _TABLES.items():
            partition(table, column, _bound(prefix))
            execute(f"CREATE TABLE {table}_rest PARTITION OF {table} DEFAULT")
        _comment("By month of its id.", "By month of the generation's id.", "It may be forgotten by now.")
        for table in _QUEUES:
            execute(f"ALTER TABLE {table} SET ({_settings(_QUEUE)})")
        _make_function(_MAKE_MONTH, "[0-9]{4}_[0-9]{2}")
        _make_function(_DROP_MONTH, "([0-9]{4}_[0-9]{2}|first)")


def _prepare() -> None:
    index_concurrently("uq_submissions_attempt", "submissions (generation_id, attempt)", unique=True)
    index_concurrently("ix_submissions_id", "submissions (id)")
    index_concurrently(
        "ix_generation_requests_continues_id", "generation_requests (continues_id) WHERE continues_id IS NOT NULL"
    )
    for table in _TABLES:
        execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT ck_{table}_first")


def _bound(prefix: str) -> str:
    """Where the first partition ends: a month from now and more."""
    months = datetime.now(UTC).year * 12 + datetime.now(UTC).month + 1
    ends_at = datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)
    return f"{prefix}{str(ULID.from_datetime(ends_at))[:10].lower()}"


def _settings(storage: dict[str, str]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in storage.items())


def _make_function(sql: str, names: str) -> None:
    # What a caller calls by the same names, temporary tables for instance, is found last.
    schema = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    may = _MAY.replace("{NAMES}", names)
    execute(sql.replace("{SCHEMA}", schema).replace("{MAY}", may).replace("{STORAGE}", _settings(_QUEUE)))


def _comment(by_id: str, by_generation: str, forgotten: str) -> None:
    for table, comment in _COMMENTS.items():
        then = by_generation if table == "submissions" else by_id
        execute(f"COMMENT ON TABLE {table} IS '{_quoted(comment, then)}'")
    execute(f"COMMENT ON COLUMN generation_requests.continues_id IS '{_quoted(_CONTINUES, forgotten)}'")


def _quoted(*parts: str) -> str:
    return " ".join(part for part in parts if part).replace("'", "''")


def downgrade() -> None:
    with locked([*_REFERRING, "generation_requests", "error_logs", "error_groups"]):
        for function in ("make_month", "drop_month"):
            execute(f"DROP FUNCTION {function}")
        for table in _TABLES:
            merge(table)
        _comment("", "", "")
        execute("DROP INDEX ix_generation_requests_continues_id")
        execute("DROP INDEX ix_submissions_id")
        execute("ALTER TABLE submissions DROP CONSTRAINT pk_submissions")
        execute("ALTER TABLE submissions ADD CONSTRAINT pk_submissions PRIMARY KEY (id)")
        _unique("submissions", "generation_id, attempt")
        _unique("generation_requests", "continues_id")
        _refer("generation_requests", "continues_id", "")
        for table, then in _REFERRING.items():
            _refer(table, "generation_id", then)
        execute(f"ALTER TABLE poll_tasks RESET ({', '.join(_QUEUE)})")


def _unique(table: str, columns: str) -> None:
    execute(f"ALTER TABLE {table} ADD CONSTRAINT uq_{table}_{columns.replace(', ', '_')} UNIQUE ({columns})")


def _refer(table: str, column: str, then: str) -> None:
    execute(
        f"ALTER TABLE {table} ADD CONSTRAINT fk_{table}_{column}"
        f" FOREIGN KEY ({column}) REFERENCES generation_requests (id){then}"
    )
