"""What is too old goes, a batch at a time, so that no statement holds many rows for long."""

from __future__ import annotations

import structlog

from libs.common.database.states import ErrorLevel
from libs.common.database.stores.alerts import AlertStore
from libs.common.database.stores.errors import ErrorStore
from libs.common.database.stores.instances import InstanceStore
from libs.common.database.stores.statistics import StatisticsStore
from libs.common.settings import Settings

log = structlog.get_logger()
BATCH = 5_000


class Retention:
    """Forgets.

    Args:
        errors: by the age and level that the settings say.
        alerts: those resolved long ago.
        statistics: minutes, then hours.
        instances: processes that went without a word.
        settings: how long.
    """

    def __init__(
        self,
        errors: ErrorStore,
        alerts: AlertStore,
        statistics: StatisticsStore,
        instances: InstanceStore,
        settings: Settings,
    ) -> None:
        self._errors = errors
        self._alerts = alerts
        self._statistics = statistics
        self._instances = instances
        self._alert_days = settings.alert_days
        self._days = {
            ErrorLevel.WARN: settings.error_warn_days,
            ErrorLevel.ERROR: settings.error_error_days,
            ErrorLevel.CRITICAL: settings.error_critical_days,
        }

    async def forget(self) -> bool:
        """Delete one batch of each; whether there may be more. A turn of a loop: replicas may do it at once."""
        errors = [await self._errors.forget(level, days=days, limit=BATCH) for level, days in self._days.items()]
        alerts = await self._alerts.forget(days=self._alert_days, limit=BATCH)
        statistics = await self._statistics.forget(BATCH)
        await self._instances.forget()
        if any(errors) or alerts or statistics:
            log.info("old rows deleted", errors=sum(errors), alerts=alerts, statistics=statistics)
        return any(number >= BATCH for number in (*errors, alerts, statistics))
