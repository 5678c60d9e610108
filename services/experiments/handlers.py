"""The RPCs of ExperimentService. This version serves none of them: each says so."""

from __future__ import annotations

from typing import Any

import grpc
from darkroom.experiments.v1 import experiments_pb2 as messages
from darkroom.experiments.v1.experiments_pb2_grpc import ExperimentServiceServicer

from libs.common.errors import Unimplemented

Context = grpc.aio.ServicerContext[Any, Any]


class ExperimentHandlers(ExperimentServiceServicer):
    """Serves `darkroom.experiments.v1.ExperimentService`."""

    async def CreateExperiment(
        self, request: messages.CreateExperimentRequest, context: Context
    ) -> messages.CreateExperimentResponse:
        """See the proto."""
        raise Unimplemented("Experiments are not served by this version; requests run as they are.")

    async def GetExperiment(
        self, request: messages.GetExperimentRequest, context: Context
    ) -> messages.GetExperimentResponse:
        """See the proto."""
        raise Unimplemented("Experiments are not served by this version; requests run as they are.")

    async def ListExperiments(
        self, request: messages.ListExperimentsRequest, context: Context
    ) -> messages.ListExperimentsResponse:
        """See the proto."""
        raise Unimplemented("Experiments are not served by this version; requests run as they are.")

    async def StartExperiment(
        self, request: messages.StartExperimentRequest, context: Context
    ) -> messages.StartExperimentResponse:
        """See the proto."""
        raise Unimplemented("Experiments are not served by this version; requests run as they are.")

    async def PauseExperiment(
        self, request: messages.PauseExperimentRequest, context: Context
    ) -> messages.PauseExperimentResponse:
        """See the proto."""
        raise Unimplemented("Experiments are not served by this version; requests run as they are.")

    async def CompleteExperiment(
        self, request: messages.CompleteExperimentRequest, context: Context
    ) -> messages.CompleteExperimentResponse:
        """See the proto."""
        raise Unimplemented("Experiments are not served by this version; requests run as they are.")

    async def AllocateVariant(
        self, request: messages.AllocateVariantRequest, context: Context
    ) -> messages.AllocateVariantResponse:
        """See the proto."""
        raise Unimplemented("Experiments are not served by this version; requests run as they are.")

    async def GetResults(self, request: messages.GetResultsRequest, context: Context) -> messages.GetResultsResponse:
        """See the proto."""
        raise Unimplemented("Experiments are not served by this version; requests run as they are.")
