"""The tables of the monitor: errors, alerts, notices, statistics, running processes."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR

from libs.common.database.schema.metadata import metadata, one_of, time
from libs.common.database.states import AlertSeverity, AlertState, DeliveryState, ErrorLevel


def _fault_columns() -> list[Column[object]]:
    """What is kept of an error, whether by itself or as a group's example."""
    return [
        Column("level", Text, nullable=False, comment="WARN, ERROR or CRITICAL."),
        Column("source", Text, nullable=False, comment="Who saw it: a service, or adapter: and a provider account."),
        Column("code", Text, nullable=False, comment="What it was, in the words of the error codes."),
        Column("message", Text, nullable=False, comment="For people; free of credentials."),
        Column("stack", Text, nullable=False, server_default="", comment="The stack, where there is one."),
        Column("context", JSONB, nullable=False, server_default="{}", comment="Facts around it."),
        Column("request_id", Text, nullable=False, server_default="", comment="The request it belongs to, if any."),
        Column("generation_id", Text, nullable=False, server_default="", comment="The generation, if any."),
        Column("provider_task_id", Text, nullable=False, server_default="", comment="The provider's task, if any."),
    ]


error_groups = Table(
    "error_groups",
    metadata,
    Column("id", Text, primary_key=True, comment="err_ and a ULID."),
    Column("fingerprint", Text, nullable=False, unique=True, comment="The same for all errors that are one fault."),
    *_fault_columns(),
    Column("count", BigInteger, nullable=False, comment="How often it was seen."),
    time("first_seen_at", "When it was first seen.", required=True),
    time("last_seen_at", "When it was last seen.", required=True),
    time("resolved_at", "When somebody said that it is mended. Unset while it is open."),
    Column("resolved_by", Text, comment="Who said so."),
    Column("resolution_note", Text, comment="What they wrote."),
    Column("regressions", Integer, nullable=False, server_default="0", comment="How often it came back after that."),
    time("regressed_at", "When it last came back."),
    Column(
        "words",
        TSVECTOR,
        Computed("to_tsvector('simple', source || ' ' || code || ' ' || message || ' ' || stack)", persisted=True),
        comment="What a search in text looks through.",
    ),
    CheckConstraint(one_of("level", ErrorLevel), name="level"),
    comment="One row for each fault, however often it was seen. The example is the most recent of its errors.",
)
Index("ix_error_groups_last_seen_at", error_groups.c.last_seen_at, error_groups.c.id)
# What each source saw last.
Index("ix_error_groups_source", error_groups.c.source, error_groups.c.last_seen_at)
Index("ix_error_groups_words", error_groups.c.words, postgresql_using="gin")

error_group_hours = Table(
    "error_group_hours",
    metadata,
    Column(
        "group_id",
        Text,
        ForeignKey("error_groups.id", ondelete="CASCADE"),
        primary_key=True,
        comment="The fault.",
    ),
    time("at", "When the hour began.", key=True),
    Column("count", BigInteger, nullable=False, comment="How often it was seen in that hour."),
    comment="How often each fault was seen, by the hour, for the last two days.",
)
Index("ix_error_group_hours_at", error_group_hours.c.at)

error_logs = Table(
    "error_logs",
    metadata,
    Column("id", Text, primary_key=True, comment="log_ and a ULID, made by who saw it, so that it is kept once."),
    Column("group_id", Text, ForeignKey("error_groups.id"), nullable=False, comment="The fault it is one of."),
    *_fault_columns(),
    time("occurred_at", "When it was seen, by the clock of who saw it.", required=True),
    time("created_at", "When it was kept.", required=True, now=True),
    CheckConstraint(one_of("level", ErrorLevel), name="level"),
    comment="One row for each error, until it is too old for its level. By month of its id.",
    postgresql_partition_by="RANGE (id)",
)
Index("ix_error_logs_group_id", error_logs.c.group_id, error_logs.c.id)
Index("ix_error_logs_request_id", error_logs.c.request_id, postgresql_where=text("request_id <> ''"))
Index("ix_error_logs_generation_id", error_logs.c.generation_id, postgresql_where=text("generation_id <> ''"))
Index("ix_error_logs_age", error_logs.c.level, error_logs.c.created_at)

system_alerts = Table(
    "system_alerts",
    metadata,
    Column("id", Text, primary_key=True, comment="alert_ and a ULID."),
    Column("type", Text, nullable=False, comment="The rule, for instance API_DOWN; or what it was sent by hand as."),
    Column("subject", Text, nullable=False, comment="What it is about: a provider account, a key; empty: the whole."),
    Column("severity", Text, nullable=False, comment="INFO, WARNING or CRITICAL."),
    Column("state", Text, nullable=False, comment="Where it stands; see the transition table."),
    Column("message", Text, nullable=False, comment="What is wrong, in a sentence with figures."),
    Column("value", Double, nullable=False, comment="What was measured last."),
    Column("threshold", Double, nullable=False, comment="What it is held against."),
    Column("details", JSONB, nullable=False, server_default="{}", comment="Facts: the sample, examples of ids."),
    Column("channels", JSONB, nullable=False, comment="Where its notices go, as the rules file names them."),
    time("started_at", "When its condition was first found to hold.", required=True),
    time("seen_at", "When its condition was last found to hold.", required=True),
    time("notified_at", "When a notice was last written for it."),
    time("acknowledged_at", "When somebody took it."),
    Column("acknowledged_by", Text, comment="Who took it."),
    Column("acknowledge_note", Text, comment="What they wrote."),
    time("escalated_at", "When nobody had taken it in time and others were told."),
    time("resolved_at", "When its condition had cleared."),
    Column("quiet_because", Text, comment="Why no notice is written: a silence, or the alert that explains this one."),
    CheckConstraint(one_of("state", AlertState), name="state"),
    CheckConstraint(one_of("severity", AlertSeverity), name="severity"),
    CheckConstraint("(resolved_at IS NOT NULL) = (state = 'RESOLVED')", name="resolved"),
    comment="One row for each time that a rule's condition held, from its beginning to its end.",
)
# Law and last resort: a condition that holds is one alert, whoever evaluates.
Index(
    "uq_system_alerts_open",
    system_alerts.c.type,
    system_alerts.c.subject,
    unique=True,
    postgresql_where=text("state <> 'RESOLVED'"),
)
Index("ix_system_alerts_state", system_alerts.c.state, system_alerts.c.id)

alert_silences = Table(
    "alert_silences",
    metadata,
    Column("id", Text, primary_key=True, comment="sil_ and a ULID."),
    Column("type", Text, nullable=False, comment="Which kind keeps quiet; empty: all."),
    Column("subject", Text, nullable=False, comment="About what; empty: about anything."),
    Column("reason", Text, nullable=False, comment="Why."),
    Column("created_by", Text, nullable=False, comment="Who wanted it."),
    time("created_at", "Since when.", required=True, now=True),
    time("until", "Until when.", required=True),
    comment="Times in which alerts are kept and nobody is told.",
)
Index("ix_alert_silences_until", alert_silences.c.until)

alert_deliveries = Table(
    "alert_deliveries",
    metadata,
    Column("id", Text, primary_key=True, comment="dlv_ and a ULID."),
    Column("alert_id", Text, ForeignKey("system_alerts.id"), nullable=False, comment="What it tells of."),
    Column("channel", Text, nullable=False, comment="Where to, as the rules file names it."),
    Column("event", Text, nullable=False, comment="firing, repeated, escalated, resolved or test."),
    Column("state", Text, nullable=False, server_default="PENDING", comment="What became of it."),
    Column("notification_id", Text, comment="Those that went out together share it; a repeat has the same."),
    Column("attempts", Integer, nullable=False, server_default="0", comment="How often it was tried."),
    time("next_attempt_at", "When it is due.", required=True, now=True),
    Column("lease_owner", Text, comment="The process that delivers it, while it is claimed."),
    time("lease_until", "When the claim ends."),
    Column(
        "lease_token", BigInteger, nullable=False, server_default="0", comment="Fencing token: grows with each claim."
    ),
    time("created_at", "When it was written.", required=True, now=True),
    time("ended_at", "When it was delivered or given up."),
    CheckConstraint(one_of("state", DeliveryState), name="state"),
    CheckConstraint("(ended_at IS NULL) = (state = 'PENDING')", name="ended"),
    comment="Notices: one row for each alert, channel and event.",
)
Index("ix_alert_deliveries_due", alert_deliveries.c.next_attempt_at, postgresql_where=text("state = 'PENDING'"))
Index("ix_alert_deliveries_alert_id", alert_deliveries.c.alert_id)

alert_attempts = Table(
    "alert_attempts",
    metadata,
    Column("delivery_id", Text, ForeignKey("alert_deliveries.id"), primary_key=True, comment="What was tried."),
    Column("attempt", Integer, primary_key=True, comment="1 for the first."),
    Column("error", Text, comment="Why it failed. Unset: the channel took it."),
    time("ended_at", "When its outcome was known.", required=True, now=True),
    comment="Each attempt to deliver a notice.",
)

monitor_turns = Table(
    "monitor_turns",
    metadata,
    Column("name", Text, primary_key=True, comment="What is done: evaluate."),
    Column("owner", Text, nullable=False, comment="The replica that does it."),
    time("done_at", "When it was last done; another replica takes over when that is long ago.", required=True),
    comment="Work that one replica of the monitor does at a time.",
)

statistics_ledger = Table(
    "statistics_ledger",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True, comment="In no order that matters."),
    Column(
        "kind",
        Text,
        nullable=False,
        comment="generation_created, generation_ended, model_left, submission_ended, task_created or task_ended.",
    ),
    time("at", "When it happened.", required=True),
    Column("model_identifier", Text, nullable=False, comment="The model."),
    Column("provider_id", Text, nullable=False, comment="The provider account."),
    Column("outcome", Text, nullable=False, server_default="", comment="The state it ended in."),
    Column("code", Text, nullable=False, server_default="", comment="Why, where it failed."),
    Column("count", Integer, nullable=False, comment="How many."),
    Column("seconds", Double, comment="How long it took."),
    Column("cost_usd", Double, nullable=False, server_default="0", comment="What it cost, in US dollars."),
    comment="What happened and is not yet added up: written by triggers, emptied by the monitor.",
)

statistics = Table(
    "statistics",
    metadata,
    Column("period", Text, primary_key=True, comment="minute, hour, day or total."),
    time("at", "When the period began; the epoch for the total.", key=True),
    Column("kind", Text, primary_key=True, comment="As in the ledger."),
    Column("model_identifier", Text, primary_key=True, comment="The model."),
    Column("provider_id", Text, primary_key=True, comment="The provider account."),
    Column("outcome", Text, primary_key=True, comment="The state it ended in; empty where nothing ends."),
    Column("code", Text, primary_key=True, comment="Why, where it failed."),
    Column(
        "bucket",
        SmallInteger,
        primary_key=True,
        comment="How long it took: at most 1.1 to this power, in milliseconds; -1 where that says nothing.",
    ),
    Column("count", BigInteger, nullable=False, comment="How many."),
    Column("seconds", Double, nullable=False, comment="How long they took together."),
    Column("cost_usd", Double, nullable=False, comment="What they cost together, in US dollars."),
    time("last_at", "When the last of them happened.", required=True),
    CheckConstraint("period IN ('minute', 'hour', 'day', 'total')", name="period"),
    comment="What happened, added up by minute, hour, day and in all, for rules, statistics and metrics.",
)

service_instances = Table(
    "service_instances",
    metadata,
    Column("owner", Text, primary_key=True, comment="The process, as leases name it."),
    Column("service", Text, nullable=False, comment="gateway, dispatcher, poller, monitor or experiments."),
    Column("version", Text, nullable=False, comment="What runs."),
    Column("is_ready", Boolean, nullable=False, comment="Whether it serves."),
    Column("resident_bytes", BigInteger, nullable=False, comment="The memory it holds."),
    Column("cpu_percent", Double, nullable=False, comment="Its share of one core since the last time."),
    time("started_at", "When it was started.", required=True),
    time("seen_at", "When it last said so.", required=True),
    comment="The processes that run. Each says so every few seconds; one that is silent has gone.",
)
Index("ix_service_instances_seen_at", service_instances.c.seen_at)

log_levels = Table(
    "log_levels",
    metadata,
    Column("service", Text, primary_key=True, comment="The service whose replicas log so."),
    Column("level", Text, nullable=False, comment="trace, debug, info, warn, error or fatal."),
    time("until", "From then on they log as their settings say.", required=True),
    Column("set_by", Text, nullable=False, comment="Who wanted it."),
    comment="Levels of logs that were changed at run time.",
)
