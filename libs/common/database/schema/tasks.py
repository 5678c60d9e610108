"""The tables of what is done for a generation: attempts to submit, tasks at providers, outputs that wait."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    Numeric,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from libs.common.database.schema.metadata import WORK_STORAGE, metadata, one_of, time
from libs.common.database.states import SubmissionState, TaskState

submissions = Table(
    "submissions",
    metadata,
    Column("id", Text, nullable=False, comment="sub_ and a ULID; sent to vendors that take an id of ours."),
    Column("generation_id", Text, primary_key=True, comment="What was submitted."),
    Column("attempt", Integer, primary_key=True, autoincrement=False, comment="1 for the first attempt."),
    Column("provider_id", Text, nullable=False, comment="Where it was submitted to."),
    Column("model_identifier", Text, comment="The model it asked for, as the catalog names it."),
    Column("state", Text, nullable=False, comment="What became of it; STARTED was committed before the request left."),
    Column("provider_task_id", Text, comment="The task that the provider named."),
    Column("provider_request_id", Text, comment="The provider's own id of the call, for its support."),
    Column("http_status", SmallInteger, comment="The HTTP status of the reply, if there was one."),
    Column("error", JSONB, comment="Why it failed: code, message, details, is_retryable."),
    Column("latency_ms", Integer, comment="From sending to the reply, in milliseconds."),
    time("started_at", "When it was recorded, just before it left.", required=True, now=True),
    time("ended_at", "When its outcome was recorded."),
    Column(
        "resolution",
        Text,
        comment="What an operator did about an uncertain one: ATTACHED to its task, RESUBMITTED, or DISMISSED.",
    ),
    Column("resolution_note", Text, comment="What the operator wrote."),
    time("resolved_at", "When an operator resolved it."),
    Column(
        "expected_cost_usd",
        Numeric(14, 6),
        nullable=False,
        server_default="0",
        comment="What this attempt costs by the catalog, in US dollars.",
    ),
    Column(
        "at_risk_usd",
        Numeric(14, 6),
        nullable=False,
        server_default="0",
        comment="What may have been billed for it, while that is not known, in US dollars.",
    ),
    Column(
        "spent_usd",
        Numeric(14, 6),
        nullable=False,
        server_default="0",
        comment="What was billed for it without a result, in US dollars.",
    ),
    Column(
        "billing",
        Text,
        comment="How its money at risk was resolved: BILLED, NOT_BILLED, COUNTED as spent after the term, or "
        "CONTINUED: what it cost is the cost of the generation that continues it.",
    ),
    time("billing_at", "When its money at risk was resolved."),
    Column(
        "reply",
        JSONB,
        comment="A reply that could not be read, bounded and without secrets: http_status, content_type, size_bytes, "
        "body.",
    ),
    CheckConstraint("resolution IN ('ATTACHED', 'RESUBMITTED', 'DISMISSED')", name="resolution"),
    CheckConstraint("(resolved_at IS NULL) = (resolution IS NULL)", name="resolved"),
    CheckConstraint("resolution IS NULL OR state IN ('UNCERTAIN', 'ACCEPTED')", name="resolved_uncertain"),
    CheckConstraint("billing IN ('BILLED', 'NOT_BILLED', 'COUNTED', 'CONTINUED')", name="billing"),
    CheckConstraint("(billing IS NULL) = (billing_at IS NULL)", name="billing_at"),
    CheckConstraint("at_risk_usd = 0 OR billing IS NULL", name="at_risk_unresolved"),
    CheckConstraint(one_of("state", SubmissionState), name="state"),
    CheckConstraint("(ended_at IS NULL) = (state = 'STARTED')", name="ended"),
    comment="One row for each attempt to submit a generation to a provider. By month of the generation's id.",
    postgresql_partition_by="RANGE (generation_id)",
)
Index("ix_submissions_id", submissions.c.id)

# Law and last resort: while one attempt's outcome is unknown, the database takes no other.
Index(
    "uq_submissions_open",
    submissions.c.generation_id,
    unique=True,
    postgresql_where=text("state = 'STARTED'"),
)

# What waits for an operator.
Index(
    "ix_submissions_unresolved",
    submissions.c.id,
    postgresql_where=text("state = 'UNCERTAIN' AND resolved_at IS NULL"),
)

# Money at risk.
Index(
    "ix_submissions_at_risk",
    submissions.c.id,
    postgresql_where=text("at_risk_usd > 0"),
)

# Requests that were sent again and again.
Index(
    "ix_submissions_repeated",
    submissions.c.started_at,
    postgresql_where=text("attempt > 1"),
)

poll_tasks = Table(
    "poll_tasks",
    metadata,
    Column("provider_id", Text, primary_key=True, comment="The provider account that works on it."),
    Column("task_id", Text, primary_key=True, comment="The provider's own id of the task."),
    Column(
        "generation_id",
        Text,
        nullable=False,
        unique=True,
        comment="What it is for.",
    ),
    Column("adapter_name", Text, nullable=False, comment="The adapter that speaks the provider's wire format."),
    Column("check_url", Text, comment="Where to ask, for vendors that name a URL in their reply."),
    Column("state", Text, nullable=False, server_default="PENDING", comment="Where it stands, as of the last poll."),
    Column("strategy", Text, nullable=False, comment="fixed or exponential: how the waits between polls grow."),
    Column("poll_interval_ms", Integer, nullable=False, comment="The first wait, in milliseconds."),
    Column("attempts", Integer, nullable=False, server_default="0", comment="How often it was polled."),
    Column("retry_count", Integer, nullable=False, server_default="0", comment="How many polls in a row have failed."),
    Column("progress", SmallInteger, nullable=False, server_default="0", comment="In percent, 0 to 100."),
    Column("last_error", JSONB, comment="What the last failed poll said, or why the task failed."),
    time("next_poll_at", "When it is due.", required=True),
    Column(
        "is_wanted",
        Boolean,
        nullable=False,
        server_default="false",
        comment="Whether somebody asked for a look since the last claim: then it is due at once.",
    ),
    time("deadline_at", "When it counts as lost.", required=True),
    Column("lease_owner", Text, comment="The poller that checks it, while it is claimed."),
    time("lease_until", "When the claim ends unless it is renewed."),
    Column(
        "lease_token", BigInteger, nullable=False, server_default="0", comment="Fencing token: grows with each claim."
    ),
    time("created_at", "When it was handed over.", required=True, now=True),
    time("ended_at", "When the provider had ended it, or it was given up."),
    time("answered_at", "When a check was last answered with the task's state."),
    time("missing_since", "Since when the provider answers that it has no such task; it holds no concurrency slot."),
    time("late_poll_at", "When a task that was given up is checked again for a late result. Unset: never."),
    Column(
        "unread_reply",
        JSONB,
        comment="The last reply to a check that could not be read, bounded and without secrets: http_status, "
        "content_type, size_bytes, body.",
    ),
    CheckConstraint(one_of("state", TaskState), name="state"),
    CheckConstraint("strategy IN ('fixed', 'exponential')", name="strategy"),
    CheckConstraint("progress BETWEEN 0 AND 100", name="progress"),
    CheckConstraint("(ended_at IS NOT NULL) = (state IN ('SUCCESS', 'FAILED', 'CANCELLED'))", name="ended"),
    comment="One row for each task that a provider works on.",
    postgresql_with=WORK_STORAGE,
)
# What a poller claims, by provider, so that a slow provider's tasks stand in nobody's way.
Index(
    "ix_poll_tasks_due",
    poll_tasks.c.provider_id,
    poll_tasks.c.next_poll_at,
    postgresql_where=text("ended_at IS NULL"),
)

# Tasks that cannot be asked about.
Index(
    "ix_poll_tasks_failing",
    poll_tasks.c.provider_id,
    postgresql_where=text("ended_at IS NULL AND retry_count > 1"),
)

# Tasks that their provider does not know any more: they hold no concurrency slot.
Index(
    "ix_poll_tasks_missing",
    poll_tasks.c.provider_id,
    postgresql_where=text("ended_at IS NULL AND missing_since IS NOT NULL"),
)
# Tasks that were given up and are checked for late results.
Index(
    "ix_poll_tasks_late",
    poll_tasks.c.late_poll_at,
    postgresql_where=text("late_poll_at IS NOT NULL"),
)

output_spool = Table(
    "output_spool",
    metadata,
    Column("generation_id", Text, primary_key=True, comment="What it was made for."),
    Column("output_index", SmallInteger, primary_key=True, comment="0 for the first output."),
    Column("content", LargeBinary, nullable=False, comment="The bytes as the provider sent them."),
    time("created_at", "When it was put here.", required=True, now=True),
    comment="Outputs that came as bytes while object storage was away. Emptied as they are stored.",
)
