"""The tables of access: API keys, what they have used, and requests that must not be made twice."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Date,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Numeric,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import JSONB

from libs.common.database.schema.metadata import metadata, time

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True, comment="key_ and a ULID."),
    Column("prefix", Text, nullable=False, unique=True, comment="The visible beginning of the key."),
    Column(
        "key_hash", LargeBinary, nullable=False, comment="Keyed hash (HMAC-SHA-256) of the key; the key is nowhere."
    ),
    Column("role", Text, nullable=False, comment="client or admin."),
    Column("owner", Text, nullable=False, comment="Who uses it."),
    Column("requests_per_minute", Integer, comment="How many generations it may create in a minute. Unset: no bound."),
    Column("live_generations", Integer, comment="How many of its generations may be under way. Unset: no bound."),
    Column(
        "monthly_budget_usd",
        Numeric(14, 6),
        comment="What its generations of a calendar month (UTC) may cost, in US dollars. Unset: no bound.",
    ),
    Column(
        "callback_url", Text, comment="Where changes of its generations are delivered to, unless they say otherwise."
    ),
    time("expires_at", "Not valid from then on."),
    time("revoked_at", "Not valid since then."),
    time("last_used_at", "When it was last seen, to the minute."),
    time("created_at", "When it was made.", required=True, now=True),
    CheckConstraint("role IN ('client', 'admin')", name="role"),
    comment="Who may come in.",
)

api_key_usage = Table(
    "api_key_usage",
    metadata,
    Column("api_key_id", Text, ForeignKey("api_keys.id"), primary_key=True, comment="The key."),
    Column(
        "live_generations",
        Integer,
        nullable=False,
        server_default="0",
        comment="How many of its generations are under way, less what stands in the ledger.",
    ),
    Column(
        "tokens",
        Float,
        nullable=False,
        server_default="0",
        comment="Generations that it may create at once, as of tokens_at; they come back at its rate.",
    ),
    time("tokens_at", "When the tokens were last counted. Unset: the bucket is full."),
    comment="What a key has used. Whoever admits its generations holds its row, so that replicas count as one.",
)

api_key_spend = Table(
    "api_key_spend",
    metadata,
    Column("api_key_id", Text, ForeignKey("api_keys.id"), primary_key=True, comment="The key."),
    Column(
        "month", Date, primary_key=True, comment="The first day of the month, in UTC, its generations were made in."
    ),
    Column(
        "reserved_usd",
        Numeric(18, 6),
        nullable=False,
        server_default="0",
        comment="What those under way hold of the budget, in US dollars, less what stands in the ledger.",
    ),
    Column(
        "spent_usd",
        Numeric(18, 6),
        nullable=False,
        server_default="0",
        comment="What they are known to have cost, in US dollars, less what stands in the ledger.",
    ),
    Column(
        "at_risk_usd",
        Numeric(18, 6),
        nullable=False,
        server_default="0",
        comment="What may have been billed for submissions of the month, in US dollars, less what stands in the "
        "ledger.",
    ),
    comment="What a key's generations cost, month by month.",
)

api_key_ledger = Table(
    "api_key_ledger",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True, comment="In no order that matters."),
    Column("api_key_id", Text, nullable=False, comment="The key."),
    Column("month", Date, nullable=False, comment="The month, as in api_key_spend."),
    Column("live", Integer, nullable=False, comment="Generations that began, less those that ended."),
    Column("reserved_usd", Numeric(18, 6), nullable=False, comment="What was reserved, less what was given back."),
    Column("spent_usd", Numeric(18, 6), nullable=False, comment="What became known to be spent."),
    Column(
        "at_risk_usd",
        Numeric(18, 6),
        nullable=False,
        server_default="0",
        comment="What came to be at risk, less what is at risk no more.",
    ),
    comment="Changes of usage not yet added up: whoever ends a generation writes here and waits for nobody.",
)
Index("ix_api_key_ledger_api_key_id", api_key_ledger.c.api_key_id)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("owner", Text, primary_key=True, comment="The owner of the API key that used it."),
    Column("key", Text, primary_key=True, comment="The caller's own name for the request."),
    Column("generation_id", Text, nullable=False, comment="What it was given."),
    Column("fields", JSONB, nullable=False, comment="By field that was set, a digest of its value."),
    time("created_at", "When it was first used; it is free again 24 hours later.", required=True, now=True),
    comment="Requests that must not be made twice.",
)
Index("ix_idempotency_keys_created_at", idempotency_keys.c.created_at)
