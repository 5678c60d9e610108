"""Alerts and silences: evaluated by one replica at a time, read and taken by people."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy.engine import Connection

from libs.common.database.engine import Database
from libs.common.database.records_monitor import (
    AlertRecord,
    AttemptRecord,
    DeliveryRecord,
    NewDelivery,
    SilenceRecord,
)
from libs.common.database.states import AlertSeverity, AlertState, DeliveryState, alert_sources
from libs.common.database.stores.alert_facts import AlertFacts, read_facts
from libs.common.database.stores.sets import records, rows_as_json, statement
from libs.common.database.stores.turns import takes_turn

ALERT_COLUMNS = """id, type, subject, severity, state, message, value, threshold, details, channels, started_at,
    seen_at, notified_at, acknowledged_at, acknowledged_by, acknowledge_note, escalated_at, resolved_at,
    quiet_because"""
_SILENCE = "id, type, subject, reason, created_by, created_at, until"

_NOW = statement("SELECT now()")
_OPEN = statement(f"SELECT {ALERT_COLUMNS} FROM system_alerts WHERE state <> 'RESOLVED' ORDER BY id FOR UPDATE")
_SILENCES = statement(f"SELECT {_SILENCE} FROM alert_silences WHERE until > now() ORDER BY id DESC LIMIT 1000")

_WRITE = statement(f"""
INSERT INTO system_alerts AS a ({ALERT_COLUMNS})
SELECT {ALERT_COLUMNS} FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row(
    id text, type text, subject text, severity text, state text, message text, value float, threshold float,
    details jsonb, channels jsonb, started_at timestamptz, seen_at timestamptz, notified_at timestamptz,
    acknowledged_at timestamptz, acknowledged_by text, acknowledge_note text, escalated_at timestamptz,
    resolved_at timestamptz, quiet_because text)
ON CONFLICT (id) DO UPDATE SET severity = EXCLUDED.severity, state = EXCLUDED.state, message = EXCLUDED.message,
    value = EXCLUDED.value, threshold = EXCLUDED.threshold, details = EXCLUDED.details, channels = EXCLUDED.channels,
    seen_at = EXCLUDED.seen_at, notified_at = EXCLUDED.notified_at, escalated_at = EXCLUDED.escalated_at,
    resolved_at = EXCLUDED.resolved_at, quiet_because = EXCLUDED.quiet_because
WHERE a.state <> 'RESOLVED'""")

_ADD_DELIVERIES = statement("""
INSERT INTO alert_deliveries (id, alert_id, channel, event, next_attempt_at, state, ended_at)
SELECT id, alert_id, channel, event, now() + make_interval(secs => delay_seconds),
    CASE WHEN is_delivered THEN 'DELIVERED' ELSE 'PENDING' END, CASE WHEN is_delivered THEN now() END
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row(
    id text, alert_id text, channel text, event text, delay_seconds float, is_delivered bool)""")

_LIST = statement(f"""
SELECT {ALERT_COLUMNS} FROM system_alerts
WHERE (:state = '' OR state = :state) AND (:severity = '' OR severity = :severity)
    AND (CAST(:before AS text) IS NULL OR id < :before)
ORDER BY id DESC LIMIT :limit""")
_GET = statement(f"SELECT {ALERT_COLUMNS} FROM system_alerts WHERE id = :id")
_DELIVERIES = statement("""
SELECT d.id, d.channel, d.event, d.state, d.created_at, a.attempt, a.error, a.ended_at
FROM alert_deliveries d LEFT JOIN alert_attempts a ON a.delivery_id = d.id
WHERE d.alert_id = :id ORDER BY d.id, a.attempt""")
_ACKNOWLEDGE = statement(f"""
UPDATE system_alerts SET state = :state, acknowledged_at = now(), acknowledged_by = :by, acknowledge_note = :note,
    resolved_at = CASE WHEN :state = 'RESOLVED' THEN now() END
WHERE id = :id AND state = ANY(:from_states) RETURNING {ALERT_COLUMNS}""")
_SILENCE_NEW = statement(f"""
INSERT INTO alert_silences (id, type, subject, reason, created_by, until)
VALUES (:id, :type, :subject, :reason, :created_by, :until) RETURNING {_SILENCE}""")
_SILENCE_END = statement(f"""
UPDATE alert_silences SET until = LEAST(until, now()) WHERE id = :id RETURNING {_SILENCE}""")
_FORGET = statement("""
WITH old AS (
    SELECT id FROM system_alerts WHERE state = 'RESOLVED' AND resolved_at < now() - make_interval(days => :days)
    ORDER BY id LIMIT :limit
), attempts AS (
    DELETE FROM alert_attempts WHERE delivery_id IN (
        SELECT d.id FROM alert_deliveries d JOIN old ON old.id = d.alert_id)
), deliveries AS (
    DELETE FROM alert_deliveries WHERE alert_id IN (SELECT id FROM old) RETURNING id
)
SELECT id FROM old""")
_FORGET_ALERTS = statement("DELETE FROM system_alerts WHERE id = ANY(:ids)")
_FORGET_SILENCES = statement("DELETE FROM alert_silences WHERE until < now() - make_interval(days => :days)")


@dataclass(frozen=True, slots=True)
class Situation:
    """What a decision is made on, as of `now`."""

    now: datetime
    facts: AlertFacts
    open_alerts: Sequence[AlertRecord]
    silences: Sequence[SilenceRecord]


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows: alerts that are new or changed, and notices."""

    alerts: list[AlertRecord] = field(default_factory=list)
    deliveries: list[NewDelivery] = field(default_factory=list)


Decide = Callable[[Situation], Decision]


class AlertStore:
    """Reads and writes of one replica of the monitor.

    Args:
        database: where alerts are.
        owner: this process.
    """

    def __init__(self, database: Database, *, owner: str) -> None:
        self._database = database
        self._owner = owner

    async def evaluate(
        self, decide: Decide, *, windows: Collection[int], repeat_windows: Collection[int], patience_seconds: float
    ) -> Decision | None:
        """Read the situation and write what `decide` makes of it, in one transaction. None: it is another's turn."""

        def work(c: Connection) -> Decision | None:
            if not takes_turn(c, "evaluate", self._owner, patience_seconds=patience_seconds):
                return None
            situation = Situation(
                now=c.execute(_NOW).scalar_one(),
                facts=read_facts(c, windows, repeat_windows),
                open_alerts=alerts_of(c.execute(_OPEN)),
                silences=records(SilenceRecord, c.execute(_SILENCES)),
            )
            decision = decide(situation)
            _write(c, decision)
            return decision

        return await self._database.transaction("evaluate_alerts", work)

    async def write(self, decision: Decision) -> None:
        """Write alerts and notices that were decided on elsewhere."""
        await self._database.transaction("write_alerts", lambda c: _write(c, decision))

    async def list_page(
        self, limit: int, *, state: AlertState | None, severity: AlertSeverity | None, before: str | None
    ) -> list[AlertRecord]:
        """At most `limit` alerts, the newest first, older than the id `before`."""
        parameters = {"limit": limit, "state": state or "", "severity": severity or "", "before": before}
        return await self._database.transaction("list_alerts", lambda c: alerts_of(c.execute(_LIST, parameters)))

    async def get(self, alert_id: str) -> tuple[AlertRecord, list[DeliveryRecord]] | None:
        """An alert with its notices, the oldest first; or None."""

        def work(c: Connection) -> tuple[AlertRecord, list[DeliveryRecord]] | None:
            found = alerts_of(c.execute(_GET, {"id": alert_id}))
            return (found[0], _deliveries(c.execute(_DELIVERIES, {"id": alert_id}))) if found else None

        return await self._database.transaction("get_alert", work)

    async def acknowledge(self, alert_id: str, *, by: str, note: str, ends: bool) -> AlertRecord | None:
        """Take an alert that fires; `ends`: no condition of it could clear. None where none of that id fires."""
        state = AlertState.RESOLVED if ends else AlertState.ACKNOWLEDGED
        parameters = {
            "id": alert_id, "by": by, "note": note, "state": state.value,
            "from_states": [AlertState.FIRING.value] if ends else alert_sources(state),
        }  # fmt: skip
        found = await self._database.transaction(
            "acknowledge_alert", lambda c: alerts_of(c.execute(_ACKNOWLEDGE, parameters))
        )
        return found[0] if found else None

    async def silence(self, wanted: SilenceRecord) -> SilenceRecord:
        """Begin a silence."""
        return await self._database.transaction(
            "begin_silence", lambda c: records(SilenceRecord, c.execute(_SILENCE_NEW, asdict(wanted)))[0]
        )

    async def silences(self) -> list[SilenceRecord]:
        """Those that have not ended, the newest first."""
        return await self._database.transaction("list_silences", lambda c: records(SilenceRecord, c.execute(_SILENCES)))

    async def end_silence(self, silence_id: str) -> SilenceRecord | None:
        """End a silence; it as it stands then, or None."""
        found = await self._database.transaction(
            "end_silence", lambda c: records(SilenceRecord, c.execute(_SILENCE_END, {"id": silence_id}))
        )
        return found[0] if found else None

    async def forget(self, *, days: int, limit: int) -> int:
        """Delete at most `limit` alerts that were resolved so long ago, with their notices; how many."""

        def work(c: Connection) -> int:
            c.execute(_FORGET_SILENCES, {"days": days})
            ids = [row.id for row in c.execute(_FORGET, {"days": days, "limit": limit})]
            c.execute(_FORGET_ALERTS, {"ids": ids})
            return len(ids)

        return await self._database.transaction("forget_alerts", work)


def alerts_of(result: Any) -> list[AlertRecord]:
    """The rows as alerts."""
    return [
        replace(record, severity=AlertSeverity(record.severity), state=AlertState(record.state))
        for record in records(AlertRecord, result)
    ]


def _write(c: Connection, decision: Decision) -> None:
    if decision.alerts:
        rows = [_plain(alert) for alert in decision.alerts]
        c.execute(_WRITE, {"rows": rows_as_json(rows)})
    if decision.deliveries:
        c.execute(_ADD_DELIVERIES, {"rows": rows_as_json(asdict(delivery) for delivery in decision.deliveries)})


def _plain(alert: AlertRecord) -> dict[str, Any]:
    return {key: value.isoformat() if isinstance(value, datetime) else value for key, value in asdict(alert).items()}


def _deliveries(rows: Any) -> list[DeliveryRecord]:
    found: dict[str, DeliveryRecord] = {}
    for row in rows:
        delivery = found.setdefault(
            row.id, DeliveryRecord(row.id, row.channel, row.event, DeliveryState(row.state), row.created_at)
        )
        if row.attempt is not None:
            delivery.attempts.append(AttemptRecord(row.attempt, row.error, row.ended_at))
    return list(found.values())
