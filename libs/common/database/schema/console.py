"""The tables of the console: who is signed in, and who pressed what."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Index, LargeBinary, Table, Text

from libs.common.database.schema.metadata import metadata, time

console_sessions = Table(
    "console_sessions",
    metadata,
    Column("token_hash", LargeBinary, primary_key=True, comment="HMAC-SHA-256 of the cookie; the cookie is nowhere."),
    Column("api_key_id", Text, ForeignKey("api_keys.id"), nullable=False, comment="The admin key that signed in."),
    time("created_at", "When that was.", required=True, now=True),
    time("seen_at", "When it was last used, to the minute.", required=True, now=True),
    time("expires_at", "Not valid from then on, however busy.", required=True),
    comment="Operators who are signed in to the console.",
)
Index("ix_console_sessions_expires_at", console_sessions.c.expires_at)
Index("ix_console_sessions_api_key_id", console_sessions.c.api_key_id)

audit_records = Table(
    "audit_records",
    metadata,
    Column("id", Text, primary_key=True, comment="aud_ and a ULID; sorts by time."),
    time("created_at", "When it was pressed.", required=True, now=True),
    Column("api_key_id", Text, nullable=False, comment="The admin key of who pressed it; empty: nobody signed in."),
    Column("owner", Text, nullable=False, comment="The owner of that key."),
    Column("action", Text, nullable=False, comment="What was pressed, for instance generation.cancel."),
    Column("subject", Text, nullable=False, comment="What it was about: an id; empty: the whole."),
    Column("outcome", Text, nullable=False, comment="done, or the code of the error."),
    Column("address", Text, nullable=False, comment="Where it came from."),
    Column("request_id", Text, nullable=False, comment="The id that all log lines about it carry."),
    comment="Who pressed what in the console. Rows are never changed.",
)
Index("ix_audit_records_created_at", audit_records.c.created_at)
