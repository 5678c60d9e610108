"""The RPCs of MonitorService. Parse, call, answer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any, TypeVar

import grpc
from darkroom.monitor.v1 import monitor_pb2 as messages
from darkroom.monitor.v1.monitor_pb2_grpc import MonitorServiceServicer

from libs.common.database.states import AlertState
from libs.common.database.stores.alerts import AlertStore
from libs.common.database.stores.errors import ErrorStore
from libs.common.database.stores.instances import InstanceStore
from libs.common.errors import FieldViolation, InvalidRequest, NotFound
from libs.common.rpc.credentials import actor_of
from libs.common.rpc.messages import timestamp
from libs.common.rpc.pages import page, page_size, page_start
from libs.common.rpc.requests import known
from services.monitor import alert_requests, error_log
from services.monitor.alerting import BY_HAND
from services.monitor.board import Board
from services.monitor.keeping import Keeping
from services.monitor.messages import (
    alert_message,
    channel_messages,
    delivery_message,
    health_message,
    instance_message,
    silence_message,
)
from services.monitor.rules import RulesHolder
from services.monitor.statistics import Statistics, asked_range

Context = grpc.aio.ServicerContext[Any, Any]
Found = TypeVar("Found")
_FRESH_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Stores:
    """What the monitor keeps and reads."""

    errors: ErrorStore
    alerts: AlertStore
    instances: InstanceStore


class MonitorHandlers(MonitorServiceServicer):
    """Serves `darkroom.monitor.v1.MonitorService`.

    Args:
        stores: errors, alerts, processes.
        keeping: takes errors in.
        rules: what wakes whom.
        board: how each component is.
        statistics: figures of any range.
    """

    def __init__(
        self, stores: Stores, keeping: Keeping, rules: RulesHolder, board: Board, statistics: Statistics
    ) -> None:
        self._keeping = keeping
        self._errors, self._alerts, self._instances = stores.errors, stores.alerts, stores.instances
        self._rules = rules
        self._board = board
        self._statistics = statistics
        self._started = monotonic()

    async def LogError(self, request: messages.LogErrorRequest, context: Context) -> messages.LogErrorResponse:
        """See the proto."""
        return messages.LogErrorResponse(accepted=await self._keeping.keep(request.errors))

    async def ListErrors(self, request: messages.ListErrorsRequest, context: Context) -> messages.ListErrorsResponse:
        """See the proto."""
        size, before = page_size(request), error_log.group_start(request.page_token)
        found = await self._errors.list_groups(error_log.group_filter(request), size + 1, before=before)
        shown = found[:size]
        return messages.ListErrorsResponse(
            errors=[error_log.group_message(group) for group in shown],
            next_page_token=error_log.group_token(shown[-1]) if len(found) > size else "",
        )

    async def ListErrorLogs(
        self, request: messages.ListErrorLogsRequest, context: Context
    ) -> messages.ListErrorLogsResponse:
        """See the proto."""
        size, before = page_size(request), page_start(request)
        found = await self._errors.list_logs(error_log.error_filter(request), size + 1, before=before)
        shown, token = page(found, size)
        return messages.ListErrorLogsResponse(
            errors=[error_log.error_message(error) for error in shown], next_page_token=token
        )

    async def ResolveError(
        self, request: messages.ResolveErrorRequest, context: Context
    ) -> messages.ResolveErrorResponse:
        """See the proto."""
        note = alert_requests.checked_note(request.note)
        group = await self._errors.resolve(known(request.id), by=actor_of(context), note=note)
        if group is None:
            raise NotFound("id", f"There is no error group {request.id[:100]!r}.")
        return messages.ResolveErrorResponse(error=error_log.group_message(group))

    async def GetErrorStats(
        self, request: messages.GetErrorStatsRequest, context: Context
    ) -> messages.GetErrorStatsResponse:
        """See the proto."""
        counts = await self._errors.count(*asked_range(request, datetime.now(UTC)))
        return messages.GetErrorStatsResponse(
            total=sum(count.count for count in counts),
            counts=[
                messages.ErrorCount(code=error_log.code_number(count.code), source=count.source, count=count.count)
                for count in counts
            ],
        )

    async def SendAlert(self, request: messages.SendAlertRequest, context: Context) -> messages.SendAlertResponse:
        """See the proto."""
        decision = alert_requests.sent_by_hand(request, self._rules.current, actor_of(context))
        await self._alerts.write(decision)
        return messages.SendAlertResponse(id=decision.alerts[0].id)

    async def ListAlerts(self, request: messages.ListAlertsRequest, context: Context) -> messages.ListAlertsResponse:
        """See the proto."""
        size, before = page_size(request), page_start(request)
        state, severity = alert_requests.list_filter(request)
        found = await self._alerts.list_page(size + 1, state=state, severity=severity, before=before)
        shown, token = page(found, size)
        rules = self._rules.current
        return messages.ListAlertsResponse(
            alerts=[alert_message(alert, rules.runbook_url(alert.type)) for alert in shown], next_page_token=token
        )

    async def ListChannels(
        self, request: messages.ListChannelsRequest, context: Context
    ) -> messages.ListChannelsResponse:
        """See the proto."""
        return messages.ListChannelsResponse(channels=channel_messages(self._rules.current))

    async def GetAlert(self, request: messages.GetAlertRequest, context: Context) -> messages.GetAlertResponse:
        """See the proto."""
        alert, deliveries = _there(await self._alerts.get(known(request.id)), request.id)
        return messages.GetAlertResponse(
            alert=alert_message(alert, self._rules.current.runbook_url(alert.type)),
            deliveries=[delivery_message(delivery) for delivery in deliveries],
        )

    async def AcknowledgeAlert(
        self, request: messages.AcknowledgeAlertRequest, context: Context
    ) -> messages.AcknowledgeAlertResponse:
        """See the proto."""
        note = alert_requests.checked_note(request.note)
        alert, _ = _there(await self._alerts.get(known(request.id)), request.id)
        if alert.state is AlertState.FIRING:
            ends = bool(alert.details.get(BY_HAND))
            taken = await self._alerts.acknowledge(alert.id, by=actor_of(context), note=note, ends=ends)
            alert = taken or _there(await self._alerts.get(alert.id), alert.id)[0]
        if alert.state is AlertState.RESOLVED and alert.acknowledged_at is None:
            raise InvalidRequest([FieldViolation("id", "state", "the alert is resolved already")])
        return messages.AcknowledgeAlertResponse(
            alert=alert_message(alert, self._rules.current.runbook_url(alert.type))
        )

    async def SilenceAlerts(
        self, request: messages.SilenceAlertsRequest, context: Context
    ) -> messages.SilenceAlertsResponse:
        """See the proto."""
        silence = await self._alerts.silence(alert_requests.new_silence(request, actor_of(context)))
        return messages.SilenceAlertsResponse(id=silence.id)

    async def ListSilences(
        self, request: messages.ListSilencesRequest, context: Context
    ) -> messages.ListSilencesResponse:
        """See the proto."""
        found = await self._alerts.silences()
        return messages.ListSilencesResponse(silences=[silence_message(silence) for silence in found])

    async def EndSilence(self, request: messages.EndSilenceRequest, context: Context) -> messages.EndSilenceResponse:
        """See the proto."""
        silence = await self._alerts.end_silence(known(request.id))
        if silence is None:
            raise NotFound("id", f"There is no silence {request.id[:100]!r}.")
        return messages.EndSilenceResponse(silence=silence_message(silence))

    async def GetHealth(self, request: messages.GetHealthRequest, context: Context) -> messages.GetHealthResponse:
        """See the proto."""
        await self._board.fresh(_FRESH_SECONDS)
        return health_message(self._board.whole, self._board.components, monotonic() - self._started)

    async def GetStats(self, request: messages.GetStatsRequest, context: Context) -> messages.GetStatsResponse:
        """See the proto."""
        return await self._statistics.stats(*asked_range(request, datetime.now(UTC)))

    async def ListInstances(
        self, request: messages.ListInstancesRequest, context: Context
    ) -> messages.ListInstancesResponse:
        """See the proto."""
        found = await self._instances.list_all()
        return messages.ListInstancesResponse(instances=[instance_message(instance) for instance in found])

    async def SetLogLevel(self, request: messages.SetLogLevelRequest, context: Context) -> messages.SetLogLevelResponse:
        """See the proto."""
        service, level, seconds = alert_requests.log_level(request)
        until = await self._instances.set_level(service, level, seconds=seconds, by=actor_of(context))
        return messages.SetLogLevelResponse(until=timestamp(until))


def _there(found: Found | None, alert_id: str) -> Found:
    if found is None:
        raise NotFound("id", f"There is no alert {alert_id[:100]!r}.")
    return found
