"""The tables of batches: what was asked for, what is counted, what waits for what."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Numeric,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from libs.common.database.schema.metadata import metadata, time


def _counter(name: str, comment: str) -> Column[int]:
    return Column(name, Integer, nullable=False, server_default="0", comment=comment)


generation_batches = Table(
    "generation_batches",
    metadata,
    Column("id", Text, primary_key=True, comment="batch_ and a ULID; sorts by the time it was made."),
    Column("owner", Text, nullable=False, comment="Who may see it."),
    Column("api_key_id", Text, nullable=False, comment="The API key that handed it in."),
    Column("request_id", Text, nullable=False, comment="The id that all log lines about it carry."),
    Column("total_tasks", Integer, nullable=False, comment="How many generations it has."),
    Column("is_parallel", Boolean, nullable=False, comment="If not, one runs after the other, in their order."),
    Column("max_concurrency", Integer, nullable=False, comment="How many of its generations may be released at once."),
    Column("stop_on_error", Boolean, nullable=False, comment="Whether the first failure stops it."),
    Column("priority", Integer, comment="The priority of all of its generations, if it was given for all."),
    Column("budget_usd", Double, comment="It was not to be accepted if it was expected to cost more, in US dollars."),
    Column("callback_url", Text, comment="Where its end, and its progress if that was asked for, are delivered to."),
    Column("callback_every_tasks", Integer, comment="Progress is told each time that so many more have ended."),
    Column("callback_every_seconds", Double, comment="Progress is told after so many seconds with a change."),
    Column("estimated_low_usd", Double, nullable=False, comment="The least that it was to cost, in US dollars."),
    Column("estimated_usd", Double, nullable=False, comment="What it was expected to cost, in US dollars."),
    Column("estimated_high_usd", Double, nullable=False, comment="The most that it was to cost, in US dollars."),
    Column("estimated_seconds", Double, nullable=False, comment="How long it was expected to take, in seconds."),
    _counter("completed_tasks", "How many have succeeded, less what stands in the ledger."),
    _counter("failed_tasks", "How many have failed, less what stands in the ledger."),
    _counter("cancelled_tasks", "How many were cancelled, less what stands in the ledger."),
    _counter("skipped_tasks", "How many were skipped for what they depend on, less what stands in the ledger."),
    Column(
        "cost_usd",
        Numeric(18, 6),
        nullable=False,
        server_default="0",
        comment="What it has cost, in US dollars, less what stands in the ledger.",
    ),
    Column("idempotency_key", Text, comment="The caller's own name for it; free again 24 hours later."),
    Column("request_digest", LargeBinary, comment="The SHA-256 of what was asked for under that name."),
    _counter("told_tasks", "How many had ended when its progress was last told."),
    time("told_at", "When its progress was last told."),
    _counter("callback_sequence", "How many callbacks it has."),
    time("stopped_at", "When a failure stopped it."),
    time("cancel_requested_at", "When somebody asked for it to be cancelled."),
    time("created_at", "When it was accepted.", required=True, now=True),
    time("ended_at", "When the last of its generations had ended. Unset again if it is resumed."),
    CheckConstraint("total_tasks BETWEEN 1 AND 100000", name="total_tasks"),
    CheckConstraint("max_concurrency BETWEEN 1 AND 10000", name="max_concurrency"),
    CheckConstraint("is_parallel OR max_concurrency = 1", name="one_after_the_other"),
    CheckConstraint(
        "completed_tasks + failed_tasks + cancelled_tasks + skipped_tasks BETWEEN 0 AND total_tasks", name="counters"
    ),
    comment="One row for each batch that was accepted. No generation that ends waits for it.",
)
Index("ix_generation_batches_owner", generation_batches.c.owner, generation_batches.c.id)
# What is looked after in the background.
Index("ix_generation_batches_open", generation_batches.c.id, postgresql_where=text("ended_at IS NULL"))
Index(
    "uq_generation_batches_idempotency_key",
    generation_batches.c.owner,
    generation_batches.c.idempotency_key,
    unique=True,
    postgresql_where=text("idempotency_key IS NOT NULL"),
)

batch_ledger = Table(
    "batch_ledger",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True, comment="In no order that matters."),
    Column("batch_id", Text, nullable=False, comment="The batch."),
    Column("batch_index", Integer, nullable=False, comment="The place in the batch of what has ended."),
    Column("completed_tasks", Integer, nullable=False, comment="Generations that succeeded."),
    Column("failed_tasks", Integer, nullable=False, comment="Generations that failed, less those that are resumed."),
    Column("cancelled_tasks", Integer, nullable=False, comment="Those cancelled, less those that are resumed."),
    Column("skipped_tasks", Integer, nullable=False, comment="Those skipped, less those that are resumed."),
    Column("cost_usd", Numeric(18, 6), nullable=False, comment="What they cost, in US dollars."),
    time("at", "When it happened.", required=True, now=True),
    comment="Changes of counters not yet added up: whoever ends a generation writes here, and waits for nobody.",
)
Index("ix_batch_ledger_batch_id", batch_ledger.c.batch_id)

batch_dependencies = Table(
    "batch_dependencies",
    metadata,
    Column("batch_id", Text, ForeignKey("generation_batches.id"), primary_key=True, comment="The batch."),
    Column("batch_index", Integer, primary_key=True, comment="The place of what waits."),
    Column("needs_index", Integer, primary_key=True, comment="The place of what it waits for."),
    Column(
        "is_required",
        Boolean,
        nullable=False,
        comment="Whether it is skipped if that does not succeed; if not, it runs all the same.",
    ),
    comment="What of a batch waits for what. Places, not ids: a generation that is resumed keeps its place.",
)
Index("ix_batch_dependencies_needs_index", batch_dependencies.c.batch_id, batch_dependencies.c.needs_index)

batch_uploads = Table(
    "batch_uploads",
    metadata,
    Column("batch_id", Text, primary_key=True, comment="The batch that they will be."),
    Column("part", Integer, primary_key=True, comment="0 for the first part."),
    Column("requests", JSONB, nullable=False, comment="Requests that were found good, as rows of generation_requests."),
    time("created_at", "When it came.", required=True, now=True),
    comment="Parts of batches that are being handed in. Not logged: a crash of Postgres ends the upload anyway.",
    prefixes=["UNLOGGED"],
)
Index("ix_batch_uploads_created_at", batch_uploads.c.created_at)
