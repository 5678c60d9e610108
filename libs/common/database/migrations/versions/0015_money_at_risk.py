"""Columns for money at risk, replies that could not be read, missing and late tasks, and paused checks.

No statement blocks writers for longer than a moment: columns with constant defaults are added without a rewrite of the
table, checks are validated after they are in force, and indexes are built concurrently.
"""

from alembic import op

from libs.common.database.migrations.online import (
    attach_partition_indexes,
    declare_partitioned_index,
    execute,
    index_concurrently,
    index_partitions_concurrently,
    locked,
)

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_COST = "numeric(14, 6) NOT NULL DEFAULT '0'"
_SUM = "numeric(18, 6) NOT NULL DEFAULT '0'"
_TIME = "timestamp with time zone"
_UNREAD = "bounded and without secrets: http_status, content_type, size_bytes, body."
_BILLING = (
    "BILLED, NOT_BILLED, COUNTED as spent after the term, or CONTINUED: what it cost is the cost of the generation "
    "that continues it."
)
# By table: the name, type and comment of each column.
_COLUMNS = {
    "api_key_ledger": (("at_risk_usd", _SUM, "What came to be at risk, less what is at risk no more."),),
    "api_key_spend": (
        (
            "at_risk_usd",
            _SUM,
            "What may have been billed for submissions of the month, in US dollars, less what stands in the ledger.",
        ),
    ),
    "generation_requests": (
        (
            "is_late",
            "boolean NOT NULL DEFAULT 'false'",
            "Whether it holds the late result of the generation that it continues, which had timed out.",
        ),
        ("rerun_of_id", "text", "The generation that was run again with this one."),
    ),
    "poll_tasks": (
        ("answered_at", _TIME, "When a check was last answered with the task's state."),
        (
            "missing_since",
            _TIME,
            "Since when the provider answers that it has no such task; it holds no concurrency slot.",
        ),
        ("late_poll_at", _TIME, "When a task that was given up is checked again for a late result. Unset: never."),
        ("unread_reply", "jsonb", f"The last reply to a check that could not be read, {_UNREAD}"),
    ),
    "provider_accounts": (
        (
            "polls_paused_at",
            _TIME,
            "Since when the provider refuses our credentials for checks. Unset: it takes them.",
        ),
        (
            "polls_probe_at",
            _TIME,
            "While checks are paused: when the next one may be made to see whether they work again.",
        ),
    ),
    "submissions": (
        ("expected_cost_usd", _COST, "What this attempt costs by the catalog, in US dollars."),
        ("at_risk_usd", _COST, "What may have been billed for it, while that is not known, in US dollars."),
        ("spent_usd", _COST, "What was billed for it without a result, in US dollars."),
        (
            "billing",
            "text",
            f"How its money at risk was resolved: {_BILLING}",
        ),
        ("billing_at", _TIME, "When its money at risk was resolved."),
        ("reply", "jsonb", f"A reply that could not be read, {_UNREAD}"),
    ),
}
# Of the column spent_usd, by table: the comment before and after this migration.
_SPENT = {
    "api_key_ledger": ("What was settled.", "What became known to be spent."),
    "api_key_spend": (
        "What those that succeeded cost, in US dollars, less what stands in the ledger.",
        "What they are known to have cost, in US dollars, less what stands in the ledger.",
    ),
}
# By table: the condition of each check. The first replaces a narrower one.
_CHECKS = {
    "submissions": {
        "resolved_uncertain": "resolution IS NULL OR state IN ('UNCERTAIN', 'ACCEPTED')",
        "billing": "billing IN ('BILLED', 'NOT_BILLED', 'COUNTED', 'CONTINUED')",
        "billing_at": "(billing IS NULL) = (billing_at IS NULL)",
        "at_risk_unresolved": "at_risk_usd = 0 OR billing IS NULL",
    }
}
_RESOLVED_BEFORE = "resolution IS NULL OR state = 'UNCERTAIN'"
# The table, columns and predicate of each index.
_PARTITIONED_INDEXES = {
    "ix_generation_requests_rerun": ("generation_requests", "(rerun_of_id) WHERE rerun_of_id IS NOT NULL"),
    "ix_submissions_at_risk": ("submissions", "(id) WHERE at_risk_usd > 0"),
}
_INDEXES = {
    "ix_poll_tasks_late": ("poll_tasks", "(late_poll_at) WHERE late_poll_at IS NOT NULL"),
    "ix_poll_tasks_missing": ("poll_tasks", "(provider_id) WHERE ended_at IS NULL AND missing_since IS NOT NULL"),
}


def upgrade() -> None:
    """Change one table after the other, each in a transaction of its own: no table is locked while another is awaited.

    All steps can be repeated: a migration that was cut off is run again.
    """
    for table in _COLUMNS:
        with locked([table]):
            _alter(table)
        # Entering the block commits.
        with op.get_context().autocommit_block():
            _validate(table)
            _build_indexes(table)
    with locked([table for table, _ in _PARTITIONED_INDEXES.values()]):
        for name, (table, _) in _PARTITIONED_INDEXES.items():
            attach_partition_indexes(name, table)


def _alter(table: str) -> None:
    """Add the columns, the checks of new rows, and the definitions of partitioned indexes. No row is read."""
    for column, definition, comment in _COLUMNS[table]:
        execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {column} {definition}")
        _comment(table, column, comment)
    if table in _SPENT:
        _comment(table, "spent_usd", _SPENT[table][1])
    for name, condition in _CHECKS.get(table, {}).items():
        _replace_check(table, name, condition, "NOT VALID")
    for name, (indexed, definition) in _PARTITIONED_INDEXES.items():
        if indexed == table:
            declare_partitioned_index(name, table, definition)


def _validate(table: str) -> None:
    """Check the rows of before. Rows are read and written meanwhile."""
    for name in _CHECKS.get(table, {}):
        execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT ck_{table}_{name}")


def _build_indexes(table: str) -> None:
    for name, (indexed, definition) in _PARTITIONED_INDEXES.items():
        if indexed == table:
            index_partitions_concurrently(name, table, definition)
    for name, (indexed, definition) in _INDEXES.items():
        if indexed == table:
            index_concurrently(name, f"{table} {definition}")


def downgrade() -> None:
    """Drop all of it. Rows are checked under the lock: writers wait."""
    with locked(list(_COLUMNS)):
        for name in (*_PARTITIONED_INDEXES, *_INDEXES):
            execute(f"DROP INDEX {name}")
        for table, checks in _CHECKS.items():
            for name in checks:
                execute(f"ALTER TABLE {table} DROP CONSTRAINT ck_{table}_{name}")
        _forget_resolutions()
        _replace_check("submissions", "resolved_uncertain", _RESOLVED_BEFORE)
        for table, columns in _COLUMNS.items():
            for column, _, _ in columns:
                execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        for table, (before, _) in _SPENT.items():
            _comment(table, "spent_usd", before)


def _forget_resolutions() -> None:
    """Unset resolutions of accepted submissions, which the check of before refuses."""
    execute(
        "UPDATE submissions SET resolution = NULL, resolution_note = NULL, resolved_at = NULL"
        " WHERE state <> 'UNCERTAIN' AND resolution IS NOT NULL"
    )


def _replace_check(table: str, name: str, condition: str, option: str = "") -> None:
    """Put a check in force, in place of one of its name. `option`: NOT VALID, to check new rows alone."""
    execute(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS ck_{table}_{name}")
    execute(f"ALTER TABLE {table} ADD CONSTRAINT ck_{table}_{name} CHECK ({condition}) {option}")


def _comment(table: str, column: str, comment: str) -> None:
    quoted = comment.replace("'", "''")
    execute(f"COMMENT ON COLUMN {table}.{column} IS '{quoted}'")
