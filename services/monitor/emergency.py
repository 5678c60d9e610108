"""Alerts while the database itself is what failed: told from memory, and written down once it is back.

The replica that evaluated last tells at once. The others cannot ask it whether it lives, so they tell after a further
minute: a second notice of a database that is down is better than none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import structlog

from libs.common import metrics
from libs.common.database.records_monitor import AlertRecord, NewDelivery, SilenceRecord
from libs.common.database.stores.alert_facts import AlertFacts
from libs.common.database.stores.alerts import Decision
from libs.common.ids import new_id
from services.monitor.alerting import begun, quiet_because
from services.monitor.board import Board
from services.monitor.delivering import attempt
from services.monitor.measures import MEASURES, Measurement, World
from services.monitor.rules import Rule, Rules, RulesHolder, RuleType
from services.monitor.telling import notification

log = structlog.get_logger()
_NO_FACTS = AlertFacts()
_OTHERS_WAIT_SECONDS = 60.0
_AGAIN_SECONDS = 10.0


@dataclass
class _Outage:
    """One time in which the database was away."""

    alert: AlertRecord
    delivered: set[str] = field(default_factory=set)
    tried_at: datetime | None = None


class Emergency:
    """Watches the one component whose failure no row can tell of.

    Args:
        board: says whether the database answers.
        rules: say when that is an alert, and who is told.
        console_url: where people reach the console.
    """

    def __init__(self, board: Board, rules: RulesHolder, *, console_url: str | None) -> None:
        self._board = board
        self._rules = rules
        self._console_url = console_url
        self._outages: dict[str, _Outage] = {}
        self._ended: list[_Outage] = []
        self.evaluates = False
        """Whether this replica was the last to evaluate."""
        self.silences: Sequence[SilenceRecord] = ()
        """Those that were there when rows could last be read: a planned stop is planned."""

    async def look(self) -> bool:
        """Tell of a database that is away, or note that it is back. A turn of a loop."""
        down = self._board.down().get("database")
        if down is None:
            self._ended += self._outages.values()
            self._outages = {}
            return False
        seconds, why = down
        patience = 0.0 if self.evaluates else _OTHERS_WAIT_SECONDS
        for rule in self._rules.current.rules.values():
            if rule.enabled and rule.type is RuleType.DATABASE_DOWN and seconds > rule.threshold + patience:
                await self._tell(rule, seconds, why)
        return False

    def untold(self) -> Decision:
        """What was told while no row could be written, until `written` is called."""
        decision = Decision()
        for outage in self._ended:
            decision.alerts.append(outage.alert)
            told = outage.alert.channels if outage.alert.notified_at else []
            decision.deliveries.extend(
                NewDelivery(new_id("dlv"), outage.alert.id, name, "firing", is_delivered=name in outage.delivered)
                for name in told
            )
        return decision

    def written(self) -> None:
        """The rows have it, or another replica is in charge and has its own."""
        self._ended.clear()

    async def _tell(self, rule: Rule, seconds: float, why: str) -> None:
        rules = self._rules.current
        outage = self._outages.get(rule.name)
        if outage is None:
            outage = self._outages[rule.name] = _Outage(_alert(rule, seconds, why, rules))
            log.error("the database is away", alert_id=outage.alert.id, seconds=round(seconds, 1), why=why)
        now = datetime.now(UTC)
        silences = [silence for silence in self.silences if silence.until > now]
        because = quiet_because(outage.alert, rules, (), silences)
        if because is not None:
            outage.alert = replace(outage.alert, quiet_because=because)
            return
        if outage.alert.notified_at is None:
            outage.alert = replace(outage.alert, quiet_because=None, notified_at=now)
        left = [name for name in outage.alert.channels if name not in outage.delivered]
        is_due = outage.tried_at is None or now - outage.tried_at >= timedelta(seconds=_AGAIN_SECONDS)
        if left and is_due:
            outage.tried_at = now
            await asyncio.gather(*(self._send(outage, name, rules) for name in left))

    async def _send(self, outage: _Outage, name: str, rules: Rules) -> None:
        channel = rules.channels.get(name)
        if channel is None:
            return
        message = notification(
            f"{outage.alert.id}_{name}",
            "firing",
            [outage.alert],
            created_at=outage.alert.started_at,
            rules=rules,
            console_url=self._console_url,
        )
        error, _ = await attempt(channel, message)
        metrics.ALERT_DELIVERIES.labels(name, "failed" if error else "delivered").inc()
        if error is None:
            outage.delivered.add(name)
        else:
            log.info("notice tried", channel=name, why=error, alert_id=outage.alert.id)


def _alert(rule: Rule, seconds: float, why: str, rules: Rules) -> AlertRecord:
    world = World(down={"database": (seconds, why)})
    measurement: Measurement = next(iter(MEASURES[rule.type](rule, _NO_FACTS, world)))
    now = datetime.now(UTC)
    alert = begun(rule, measurement, rules, now)
    return replace(alert, started_at=now - timedelta(seconds=seconds))
