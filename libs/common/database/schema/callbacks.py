"""The table of callbacks to owners."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from libs.common.database.schema.metadata import metadata, one_of, time
from libs.common.database.states import CallbackState

callbacks = Table(
    "callbacks",
    metadata,
    Column("id", Text, primary_key=True, comment="cb_, its subject's ULID and the sequence; sent as webhook-id."),
    Column("generation_id", Text, comment="The generation that it is about."),
    Column("batch_id", Text, ForeignKey("generation_batches.id"), comment="The batch that it is about."),
    Column("sequence", Integer, nullable=False, comment="Its place among those of its subject: 1 before 2."),
    Column("content", JSONB, comment="About a batch: its counters at that moment."),
    Column("owner", Text, nullable=False, comment="Who may see it."),
    Column("api_key_id", Text, nullable=False, comment="The key whose secret signs it."),
    Column("event", Text, nullable=False, comment="generation.processing, .success, …; batch.progress, .completed, …"),
    Column("url", Text, nullable=False, comment="Where it goes to."),
    Column("state", Text, nullable=False, server_default="PENDING", comment="What became of it."),
    Column("attempts", Integer, nullable=False, server_default="0", comment="How often it was tried."),
    Column("last_http_status", SmallInteger, comment="The status of the last answer, if there was one."),
    Column("last_error", Text, comment="Why the last try failed."),
    time("next_attempt_at", "When it is due.", required=True, now=True),
    time("give_up_at", "When it becomes a dead letter.", required=True),
    Column("lease_owner", Text, comment="The process that delivers it, while it is claimed."),
    time("lease_until", "When the claim ends."),
    Column(
        "lease_token", BigInteger, nullable=False, server_default="0", comment="Fencing token: grows with each claim."
    ),
    time("created_at", "When it happened.", required=True, now=True),
    time("ended_at", "When it was delivered or given up."),
    UniqueConstraint("generation_id", "sequence"),
    UniqueConstraint("batch_id", "sequence"),
    CheckConstraint("num_nonnulls(generation_id, batch_id) = 1", name="one_subject"),
    CheckConstraint("(batch_id IS NULL) = (content IS NULL)", name="content_of_batch"),
    CheckConstraint(one_of("state", CallbackState), name="state"),
    CheckConstraint("(ended_at IS NULL) = (state = 'PENDING')", name="ended"),
    comment="Changes of the status of a generation or a batch, to be delivered to its owner's URL.",
)
Index("ix_callbacks_due", callbacks.c.next_attempt_at, postgresql_where=text("state = 'PENDING'"))
Index("ix_callbacks_owner", callbacks.c.owner, callbacks.c.id)
