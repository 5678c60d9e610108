"""The overview: what is wrong, since when, what it costs, and where to press."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from darkroom.monitor.v1 import monitor_pb2

from libs.common.database.records_dispatch import AccountRecord, SubmissionRecord
from libs.common.database.states import BreakerState
from libs.common.database.stores.billing import SubmissionFilter
from libs.common.database.stores.console_reads import Minute, Money
from libs.common.database.stores.statistics import Queue
from services.gateway.console import charts
from services.gateway.console.translations import gettext as _
from services.gateway.console.visit import Page, Visit, unless_away

_MINUTES = 60
_STATS_MINUTES = timedelta(hours=1)
_ALERTS_SHOWN = 20
_UNCERTAIN_SHOWN = 20
_OPEN = SubmissionFilter(concern="ANY")


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the overview shows. None: the service that knows it is unavailable.

    Attributes:
        money: today's (UTC), by provider.
        uncertain: the oldest submissions that are uncertain or have money at risk.
        open_submissions: how many such there are.
        open_usd: their money at risk, in US dollars.
    """

    health: monitor_pb2.GetHealthResponse | None
    stats: monitor_pb2.GetStatsResponse | None
    alerts: list[monitor_pb2.Alert] | None
    minutes: list[Minute]
    money: dict[str, Money]
    accounts: dict[str, AccountRecord]
    queues: dict[str, Queue]
    states: dict[str, int]
    uncertain: list[SubmissionRecord]
    open_submissions: int
    open_usd: float


@dataclass(frozen=True, slots=True)
class ProviderRow:
    """A provider account as the overview shows it. Shares are 0 to 1; None: nothing was sent in the last hour.

    Attributes:
        money: today's (UTC).
        limit_used_usd: what counts against the account's daily limit today, in US dollars.
        limit_usd: that limit; None: it has none.
    """

    id: str
    adapter: str
    breaker: str
    retry_at: datetime | None
    waiting: int
    oldest_seconds: float
    calls: int
    failure_share: float | None
    response_seconds: float
    money: Money
    limit_used_usd: float
    limit_usd: float | None
    last_error: str


async def show(visit: Visit) -> Page:
    """The page."""
    facts = await visit.parts.overview.get(lambda: _facts(visit))
    rows = [_row(visit, facts, provider_id) for provider_id in sorted(visit.parts.catalog.current.providers)]
    return Page("overview.html", {"facts": facts, "providers": rows, **_lately(facts), "faults": _faults(visit)})


async def _facts(visit: Visit) -> Facts:
    parts, now = visit.parts, datetime.now(UTC)
    request = monitor_pb2.GetStatsRequest()
    getattr(request, "from").FromDatetime(now - _STATS_MINUTES)
    told = asyncio.gather(
        unless_away(visit.peer(parts.monitor.GetHealth, monitor_pb2.GetHealthRequest())),
        unless_away(visit.peer(parts.monitor.GetStats, request)),
        unless_away(visit.peer(parts.monitor.ListAlerts, _open(monitor_pb2.ALERT_STATE_FIRING))),
        unless_away(visit.peer(parts.monitor.ListAlerts, _open(monitor_pb2.ALERT_STATE_ACKNOWLEDGED))),
    )
    read = asyncio.gather(
        parts.reads.minutes(_MINUTES),
        parts.accounts.read(),
        parts.statistics.queues(),
        parts.statistics.states(),
        parts.submissions.list_page(_UNCERTAIN_SHOWN, _OPEN),
        parts.submissions.totals(_OPEN),
    )
    (health, stats, firing, acknowledged), known = await asyncio.gather(told, read)
    lately, accounts, queues, states, uncertain, (open_submissions, open_usd) = known
    alerts = None if firing is None or acknowledged is None else [*firing.alerts, *acknowledged.alerts]
    return Facts(
        health,
        stats,
        alerts,
        lately[0],
        lately[1],
        {account.provider_id: account for account in accounts},
        {queue.provider_id: queue for queue in queues},
        states,
        uncertain,
        open_submissions,
        open_usd,
    )


def _open(state: monitor_pb2.AlertState.ValueType) -> monitor_pb2.ListAlertsRequest:
    return monitor_pb2.ListAlertsRequest(state=state, page_size=_ALERTS_SHOWN)


def _row(visit: Visit, facts: Facts, provider_id: str) -> ProviderRow:
    provider = visit.parts.catalog.current.providers[provider_id]
    account, queue = facts.accounts.get(provider_id), facts.queues.get(provider_id)
    sent = {one.adapter_name: one for one in facts.stats.adapter_stats} if facts.stats else {}
    stats = sent.get(provider_id)
    calls = stats.call_count if stats else 0
    breaker = account.breaker_state if account else BreakerState.CLOSED
    waits = account.breaker_retry_at if account and breaker is not BreakerState.CLOSED else None
    return ProviderRow(
        provider_id,
        provider.adapter,
        breaker.value,
        datetime.fromtimestamp(waits, UTC) if waits else None,
        queue.waiting if queue else 0,
        queue.oldest_seconds if queue else 0.0,
        calls,
        stats.failure_count / calls if stats and calls else None,
        stats.avg_response_time_ms / 1_000 if stats else 0.0,
        facts.money.get(provider_id, Money()),
        account.spend_today_usd if account else 0.0,
        provider.limits.daily_spend_usd,
        stats.last_error.message if stats and stats.HasField("last_error") else "",
    )


def _lately(facts: Facts) -> dict[str, Any]:
    """What happened minute by minute, without holes. The last minute has only begun, and is left out."""
    last = datetime.now(UTC).replace(second=0, microsecond=0)
    times = [last - timedelta(minutes=back) for back in range(_MINUTES - 1, 0, -1)]
    by_time = {minute.at: minute for minute in facts.minutes}
    empty = Minute(last, 0.0, 0.0, 0.0)
    found = [by_time.get(at, empty) for at in times]
    ended = sum(minute.succeeded + minute.failed for minute in found)
    chart = charts.lines(
        times,
        [
            charts.Line(_("handed in"), [minute.created for minute in found]),
            charts.Line(_("succeeded"), [minute.succeeded for minute in found]),
            charts.Line(_("failed"), [minute.failed for minute in found]),
        ],
        _("Generations per minute in the last hour"),
    )
    return {
        "chart": chart,
        "created_hour": sum(minute.created for minute in found),
        "success_share": sum(minute.succeeded for minute in found) / ended if ended else None,
        "spent_usd": sum(money.spent_usd for money in facts.money.values()),
        "at_risk_usd": sum(money.at_risk_usd for money in facts.money.values()),
        "live": sum(facts.states.values()),
    }


def _faults(visit: Visit) -> list[str]:
    fault = visit.parts.catalog.last_fault
    return list(fault.faults) if fault is not None else []
