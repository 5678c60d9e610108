"""Rules held against the rows, by one replica at a time."""

from __future__ import annotations

from dataclasses import replace

import structlog

from libs.common import metrics
from libs.common.catalog import CatalogHolder
from libs.common.database.records_monitor import AlertRecord
from libs.common.database.states import AlertState
from libs.common.database.stores.alerts import AlertStore, Decision, Situation
from services.monitor.alerting import decide
from services.monitor.board import Board
from services.monitor.emergency import Emergency
from services.monitor.measures import World
from services.monitor.rules import RulesHolder, RuleType

log = structlog.get_logger()
_PATIENCE = 3
"""A replica that has missed so many turns is replaced."""
_REPEATS = {RuleType.RETRIES_EXCEEDED}


class Evaluating:
    """Evaluates.

    Args:
        store: reads the situation, and writes what follows from it.
        rules: what is held against it.
        catalog: says what accounts may cost.
        board: says which components are down.
        emergency: has alerts that could not be written.
    """

    def __init__(
        self, store: AlertStore, rules: RulesHolder, catalog: CatalogHolder, board: Board, emergency: Emergency
    ) -> None:
        self._store = store
        self._rules = rules
        self._catalog = catalog
        self._board = board
        self._emergency = emergency

    async def evaluate(self) -> bool:
        """One turn of a loop."""
        rules = self._rules.current
        enabled = [rule for rule in rules.rules.values() if rule.enabled]
        world = self._world()
        decision = await self._store.evaluate(
            lambda situation: self._decide(situation, world),
            windows={rule.window_seconds for rule in enabled if rule.type not in _REPEATS},
            repeat_windows={rule.window_seconds for rule in enabled if rule.type in _REPEATS},
            patience_seconds=rules.file.evaluate_seconds * _PATIENCE,
        )
        self._emergency.evaluates = decision is not None
        self._emergency.written()
        if decision is None:
            # Whoever evaluates shows them.
            metrics.ALERTS_OPEN.clear()
            self._emergency.silences = await self._store.silences()
        else:
            for alert in decision.alerts:
                _tell(alert)
        return False

    def _decide(self, situation: Situation, world: World) -> Decision:
        self._emergency.silences = situation.silences
        missed = self._emergency.untold()
        known = {(alert.type, alert.subject) for alert in situation.open_alerts}
        fresh = {alert.id: alert for alert in missed.alerts if (alert.type, alert.subject) not in known}
        situation = replace(situation, open_alerts=[*situation.open_alerts, *fresh.values()])
        decision = decide(situation, self._rules.current, world)
        decided = {alert.id for alert in decision.alerts}
        decision.alerts.extend(alert for alert in fresh.values() if alert.id not in decided)
        decision.deliveries[:0] = [delivery for delivery in missed.deliveries if delivery.alert_id in fresh]
        after = {alert.id: alert for alert in (*situation.open_alerts, *decision.alerts)}
        metrics.ALERTS_OPEN.clear()
        for alert in after.values():
            if alert.state is not AlertState.RESOLVED:
                metrics.ALERTS_OPEN.labels(alert.type, alert.severity.value).inc()
        return decision

    def _world(self) -> World:
        limits = {
            name: provider.limits.daily_spend_usd
            for name, provider in self._catalog.current.providers.items()
            if provider.limits.daily_spend_usd is not None
        }
        # Rows that can be read prove the database, whatever the last look at it found: `emergency` tells of it.
        down = {name: found for name, found in self._board.down().items() if name != "database"}
        return World(down=down, daily_limits_usd=limits)


def _tell(alert: AlertRecord) -> None:
    begins = alert.started_at == alert.seen_at and alert.state is AlertState.FIRING
    if begins or alert.state is AlertState.RESOLVED:
        log.info(
            "alert begins" if begins else "alert is resolved",
            alert_id=alert.id,
            alert_type=alert.type,
            subject=alert.subject,
            severity=alert.severity.value,
            value=alert.value,
            quiet_because=alert.quiet_because,
        )
