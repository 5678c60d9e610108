"""The RPCs of MonitorService. This version serves none of them: each says so."""

from __future__ import annotations

from typing import Any

import grpc
from darkroom.monitor.v1 import monitor_pb2 as messages
from darkroom.monitor.v1.monitor_pb2_grpc import MonitorServiceServicer

from libs.common.errors import Unimplemented

Context = grpc.aio.ServicerContext[Any, Any]


class MonitorHandlers(MonitorServiceServicer):
    """Serves `darkroom.monitor.v1.MonitorService`."""

    async def LogError(self, request: messages.LogErrorRequest, context: Context) -> messages.LogErrorResponse:
        """See the proto."""
        raise Unimplemented("Keeping errors is not served by this version; errors are in the services' logs.")

    async def ListErrors(self, request: messages.ListErrorsRequest, context: Context) -> messages.ListErrorsResponse:
        """See the proto."""
        raise Unimplemented("The error log is not served by this version; errors are in the services' logs.")

    async def ResolveError(
        self, request: messages.ResolveErrorRequest, context: Context
    ) -> messages.ResolveErrorResponse:
        """See the proto."""
        raise Unimplemented("The error log is not served by this version; errors are in the services' logs.")

    async def GetErrorStats(
        self, request: messages.GetErrorStatsRequest, context: Context
    ) -> messages.GetErrorStatsResponse:
        """See the proto."""
        raise Unimplemented("The error log is not served by this version; errors are in the services' logs.")

    async def SendAlert(self, request: messages.SendAlertRequest, context: Context) -> messages.SendAlertResponse:
        """See the proto."""
        raise Unimplemented("Alerting is not served by this version.")

    async def ListAlerts(self, request: messages.ListAlertsRequest, context: Context) -> messages.ListAlertsResponse:
        """See the proto."""
        raise Unimplemented("Alerting is not served by this version.")

    async def AcknowledgeAlert(
        self, request: messages.AcknowledgeAlertRequest, context: Context
    ) -> messages.AcknowledgeAlertResponse:
        """See the proto."""
        raise Unimplemented("Alerting is not served by this version.")

    async def SilenceAlerts(
        self, request: messages.SilenceAlertsRequest, context: Context
    ) -> messages.SilenceAlertsResponse:
        """See the proto."""
        raise Unimplemented("Alerting is not served by this version.")

    async def GetHealth(self, request: messages.GetHealthRequest, context: Context) -> messages.GetHealthResponse:
        """See the proto."""
        raise Unimplemented(
            "The health of the whole is not served by this version; ask each service for grpc.health.v1."
        )

    async def GetStats(self, request: messages.GetStatsRequest, context: Context) -> messages.GetStatsResponse:
        """See the proto."""
        raise Unimplemented("Statistics is not served by this version; read the metrics ports.")
