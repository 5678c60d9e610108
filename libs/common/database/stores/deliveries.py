"""Notices: claimed by any replica, delivered in groups, each attempt recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy.engine import Connection

from libs.common.database.engine import Database
from libs.common.database.records_monitor import ClaimedDelivery, DeliveryOutcome
from libs.common.database.states import DeliveryState
from libs.common.database.stores.alerts import ALERT_COLUMNS, alerts_of
from libs.common.database.stores.sets import rows_as_json, statement

# Those that go to one channel for one event go together, and a repeat of theirs stays together: what a receiver tells
# repeats by is the id that they share.
_CLAIM = statement("""
UPDATE alert_deliveries SET lease_owner = :owner, lease_until = now() + make_interval(secs => :lease_seconds),
    lease_token = lease_token + 1, attempts = attempts + 1,
    notification_id = COALESCE(notification_id, :notification_id || '_' || channel || '_' || event)
WHERE id = ANY(ARRAY(
    SELECT id FROM alert_deliveries
    WHERE state = 'PENDING' AND next_attempt_at <= now() AND (lease_until IS NULL OR lease_until < now())
    ORDER BY next_attempt_at LIMIT :limit FOR UPDATE SKIP LOCKED))
RETURNING id, alert_id, channel, event, attempts, lease_token, notification_id, created_at""")
_ALERTS = statement(f"SELECT {ALERT_COLUMNS} FROM system_alerts WHERE id = ANY(:ids)")

_END = statement("""
WITH item AS (
    SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row(
        id text, lease_token bigint, attempt int, error text, delay_seconds float, is_hopeless bool)
), ended AS (
    UPDATE alert_deliveries d SET
        state = CASE WHEN item.error IS NULL THEN 'DELIVERED' WHEN item.is_hopeless THEN 'DEAD' ELSE 'PENDING' END,
        ended_at = CASE WHEN item.error IS NULL OR item.is_hopeless THEN now() END,
        next_attempt_at = now() + make_interval(secs => item.delay_seconds), lease_owner = NULL, lease_until = NULL
    FROM item
    WHERE d.id = item.id AND d.state = 'PENDING' AND d.lease_owner = :owner AND d.lease_token = item.lease_token
    RETURNING d.id, d.state, item.attempt, item.error
), recorded AS (
    INSERT INTO alert_attempts (delivery_id, attempt, error) SELECT id, attempt, error FROM ended
    ON CONFLICT (delivery_id, attempt) DO NOTHING
)
SELECT id, state FROM ended""")


class DeliveryQueue:
    """Claims and outcomes of one process that delivers.

    Args:
        database: where notices are.
        owner: this process.
        lease_seconds: how long a claim holds.
    """

    def __init__(self, database: Database, *, owner: str, lease_seconds: float) -> None:
        self._database = database
        self._lease: Mapping[str, Any] = {"owner": owner, "lease_seconds": lease_seconds}

    async def claim(self, limit: int, *, notification_id: str) -> list[ClaimedDelivery]:
        """Lease notices that are due. Those without a notification yet get one of this id, by channel and event."""
        parameters = {**self._lease, "limit": limit, "notification_id": notification_id}

        def work(c: Connection) -> list[ClaimedDelivery]:
            rows = c.execute(_CLAIM, parameters).all()
            if not rows:
                return []
            alerts = {alert.id: alert for alert in alerts_of(c.execute(_ALERTS, {"ids": [r.alert_id for r in rows]}))}
            return [
                ClaimedDelivery(
                    row.id, row.channel, row.event, row.attempts, row.lease_token, row.notification_id,
                    row.created_at, alerts[row.alert_id],
                )
                for row in rows
            ]  # fmt: skip

        return await self._database.transaction("claim_deliveries", work)

    async def end(self, outcomes: Sequence[DeliveryOutcome]) -> list[DeliveryState | None]:
        """Write outcomes; in the order given, each notice's state then, or None where the lease was lost."""
        parameters = {
            "owner": self._lease["owner"],
            "rows": rows_as_json(asdict(outcome) for outcome in outcomes),
        }
        written = await self._database.transaction(
            "end_deliveries", lambda c: {row.id: DeliveryState(row.state) for row in c.execute(_END, parameters)}
        )
        return [written.get(outcome.id) for outcome in outcomes]
