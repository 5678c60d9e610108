"""The tables that all dispatchers share of provider accounts: limits, breakers, turns."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, Date, Float, Integer, Table, Text

from libs.common.database.schema.metadata import metadata, one_of, time
from libs.common.database.states import BreakerState

provider_accounts = Table(
    "provider_accounts",
    metadata,
    Column("provider_id", Text, primary_key=True, comment="The provider account, as the catalog names it."),
    Column(
        "tokens",
        Float,
        nullable=False,
        server_default="0",
        comment="Requests that may leave at once, as of tokens_at; they come back at the account's rate.",
    ),
    time("tokens_at", "When the tokens were last counted. Unset: the bucket is full."),
    Column("spend_day", Date, comment="The day, in UTC, that spend_usd is of."),
    Column(
        "spend_usd",
        Float,
        nullable=False,
        server_default="0",
        comment="What was sent on that day, by the catalog's prices, in US dollars.",
    ),
    Column(
        "breaker_state",
        Text,
        nullable=False,
        server_default="CLOSED",
        comment="CLOSED: all may pass; OPEN: nothing until breaker_retry_at; HALF_OPEN: one probe is out.",
    ),
    Column(
        "breaker_successes",
        Float,
        nullable=False,
        server_default="0",
        comment="Submits answered, fading with time, as of breaker_counted_at.",
    ),
    Column(
        "breaker_failures",
        Float,
        nullable=False,
        server_default="0",
        comment="Submits that the provider failed, fading with time, as of breaker_counted_at.",
    ),
    time("breaker_counted_at", "When the two were last counted."),
    time("breaker_retry_at", "When the next probe may leave; also when one that is out counts as lost."),
    Column(
        "breaker_opens",
        Integer,
        nullable=False,
        server_default="0",
        comment="How often in a row it has opened; each time it stays open twice as long.",
    ),
    time("breaker_changed_at", "When breaker_state last changed."),
    time("polls_paused_at", "Since when the provider refuses our credentials for checks. Unset: it takes them."),
    time("polls_probe_at", "While checks are paused: when the next one may be made to see whether they work again."),
    CheckConstraint(one_of("breaker_state", BreakerState), name="breaker_state"),
    comment="What all dispatchers know together of a provider account: its rate, its spend, its circuit breaker.",
)

api_key_turns = Table(
    "api_key_turns",
    metadata,
    Column("provider_id", Text, primary_key=True, comment="The provider account."),
    Column("api_key_id", Text, primary_key=True, comment="The API key; empty for requests without one."),
    time("claimed_at", "When something of this key was last claimed; the one longest ago is next.", required=True),
    comment="Whose turn it is among the API keys that wait for a provider account.",
)
