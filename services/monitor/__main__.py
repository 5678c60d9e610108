"""Starts a monitor."""

from __future__ import annotations

import asyncio

import structlog
from darkroom.monitor.v1 import monitor_pb2
from darkroom.monitor.v1.monitor_pb2_grpc import add_MonitorServiceServicer_to_server
from prometheus_client import REGISTRY

from libs.common import metrics
from libs.common.database.engine import Database
from libs.common.database.stores.accounts import AccountStore
from libs.common.database.stores.alerts import AlertStore
from libs.common.database.stores.billing import BillingStore
from libs.common.database.stores.deliveries import DeliveryQueue
from libs.common.database.stores.errors import ErrorStore
from libs.common.database.stores.instances import InstanceStore
from libs.common.database.stores.partitions import PartitionStore
from libs.common.database.stores.statistics import StatisticsStore
from libs.common.rpc.channel import open_channel, open_edge_channel
from libs.common.rpc.service import Frame, run
from libs.common.storage.objects import ObjectStore
from services.monitor.at_risk import AtRisk
from services.monitor.board import Board
from services.monitor.checks import AdapterChecks, DatabaseCheck, OwnCheck, PollingCheck, ServiceCheck, StorageCheck
from services.monitor.delivering import LEASE_SECONDS, Delivering
from services.monitor.emergency import Emergency
from services.monitor.evaluating import Evaluating
from services.monitor.figures import Figures
from services.monitor.handlers import MonitorHandlers, Stores
from services.monitor.keeping import Keeping
from services.monitor.months import Months
from services.monitor.retention import Retention
from services.monitor.rules import RulesFault, RulesHolder
from services.monitor.statistics import Statistics

log = structlog.get_logger()
_FOLD_SECONDS = 5.0
_DELIVER_SECONDS = 1.0
_EMERGENCY_SECONDS = 1.0
_FIGURES_SECONDS = 10.0
_RETAIN_SECONDS = 600.0
_PROBE_TIMEOUT_SECONDS = 5.0


async def wire(frame: Frame) -> None:
    """Put a monitor together."""
    stores = Stores(
        ErrorStore(frame.database), AlertStore(frame.database, owner=frame.owner), InstanceStore(frame.database)
    )
    keeping = Keeping(stores.errors)
    counts = StatisticsStore(frame.database)
    rules = _rules(frame)
    board = _board(frame, counts)
    reading = frame.reading()
    late_counts = StatisticsStore(reading)
    statistics = Statistics(counts, late_counts, ErrorStore(reading), stores.instances)
    _alerting(frame, stores.alerts, rules, board)
    figures = Figures(late_counts, frame.catalog, board)
    REGISTRY.register(figures)
    retention = Retention(stores.errors, stores.alerts, counts, stores.instances, frame.settings)
    frame.loop("fold", statistics.fold, interval_seconds=_FOLD_SECONDS)
    frame.loop("figures", figures.read, interval_seconds=_FIGURES_SECONDS)
    at_risk = AtRisk(BillingStore(frame.database), frame.settings.at_risk_days)
    frame.loop("at_risk", at_risk.count, interval_seconds=_RETAIN_SECONDS)
    frame.loop("retain", retention.forget, interval_seconds=_RETAIN_SECONDS)
    frame.loop("months", Months(PartitionStore(frame.database), frame.settings).turn, interval_seconds=_RETAIN_SECONDS)
    frame.serve(
        MonitorHandlers(stores, keeping, rules, board, statistics),
        add_MonitorServiceServicer_to_server,
        "darkroom.monitor.v1.MonitorService",
    )

    async def keep(entries: list[monitor_pb2.ErrorEntry]) -> None:
        await keeping.keep(entries)

    frame.report_to(keep)


def _rules(frame: Frame) -> RulesHolder:
    try:
        rules = RulesHolder(frame.settings.alert_rules)
    except RulesFault as fault:
        log.fatal("cannot start: the alert rules have faults", faults=fault.faults)
        raise SystemExit(1) from fault
    _tell_unset(rules)
    seen = [rules.current]

    async def watch() -> bool:
        outcome = await asyncio.to_thread(rules.reload)
        if outcome != "unchanged":
            metrics.ALERT_RULES_RELOADS.labels(outcome).inc()
        if outcome == "replaced":
            log.info("alert rules replaced", rules=len(rules.current.rules))
            _tell_unset(rules)
            seen.append(rules.current)
        elif outcome == "refused" and rules.last_fault is not None:
            log.error("alert rules refused, the old ones stay", faults=rules.last_fault.faults)
        return False

    async def close() -> None:
        # Notices may have been under way in channels of rules that were replaced since.
        for channel in (channel for rules in seen for channel in rules.channels.values()):
            await channel.close()

    frame.on_close(close)
    frame.loop("rules", watch, interval_seconds=frame.settings.catalog_check_seconds)
    return rules


def _tell_unset(rules: RulesHolder) -> None:
    for name, variables in rules.current.unset.items():
        log.info("channel is not configured", channel=name, unset=variables)


def _board(frame: Frame, counts: StatisticsStore) -> Board:
    settings = frame.settings
    probe = Database(
        settings.database_url.get_secret_value(),
        size=1,
        statement_timeout_seconds=_PROBE_TIMEOUT_SECONDS,
        application_name="darkroom-monitor-health",
    )
    objects = ObjectStore(settings)
    adapters = AdapterChecks(frame.catalog, AccountStore(frame.database), counts)
    channels = {
        "gateway": open_edge_channel(settings.gateway_address, settings),
        "dispatcher": open_channel(settings.dispatcher_address, settings),
        "poller": open_channel(settings.poller_address, settings),
        "experiments": open_channel(settings.experiments_address, settings),
    }
    board = Board(
        [
            DatabaseCheck(probe),
            StorageCheck(objects),
            adapters,
            PollingCheck(counts),
            OwnCheck(lambda: frame.is_ready),
            *(ServiceCheck(name, channel) for name, channel in channels.items()),
        ]
    )

    async def look() -> bool:
        await board.look()
        await frame.set_health("system", board.whole != "unhealthy")
        for component in board.components:
            await frame.set_health(component.name, component.status != "down")
        return False

    frame.loop("health", look, interval_seconds=settings.health_check_seconds)
    for close in (probe.close, objects.close, adapters.close, *(channel.close for channel in channels.values())):
        frame.on_close(close)
    frame.on_close(board.close)
    return board


def _alerting(frame: Frame, alerts: AlertStore, rules: RulesHolder, board: Board) -> None:
    console_url = frame.settings.console_url
    queue = DeliveryQueue(frame.database, owner=frame.owner, lease_seconds=LEASE_SECONDS)
    delivering = Delivering(queue, rules, console_url=console_url)
    emergency = Emergency(board, rules, console_url=console_url)
    evaluating = Evaluating(alerts, rules, frame.catalog, board, emergency)
    frame.loop("deliver", delivering.deliver, interval_seconds=_DELIVER_SECONDS)
    frame.loop("emergency", emergency.look, interval_seconds=_EMERGENCY_SECONDS)
    frame.loop("evaluate", evaluating.evaluate, interval_seconds=rules.current.file.evaluate_seconds)
    frame.on_drain(delivering.drain)


if __name__ == "__main__":
    run("monitor", wire)
