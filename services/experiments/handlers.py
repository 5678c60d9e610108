"""The RPCs of ExperimentService. Parse, call, answer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import grpc
from darkroom.experiments.v1 import experiments_pb2 as messages
from darkroom.experiments.v1.experiments_pb2_grpc import ExperimentServiceServicer

from libs.common.catalog import CatalogHolder
from libs.common.database.records_experiments import ExperimentRecord, NewAllocation
from libs.common.database.states import ExperimentStatus
from libs.common.database.stores.experiment_traffic import TrafficStore
from libs.common.database.stores.experiments import ExperimentStore, LayerFull
from libs.common.errors import ErrorCode, FieldViolation, GenerationError, InvalidRequest, NotFound
from libs.common.experiments.allocation import Request
from libs.common.experiments.messages import variant_message
from libs.common.rpc.deadlines import after_commit
from libs.common.rpc.pages import page, page_size, page_start
from libs.common.rpc.requests import ID_LIMIT, known, raise_for, text_faults
from services.experiments import buckets
from services.experiments.messages import draft_message, experiment_message
from services.experiments.planning import planned
from services.experiments.reporting import Reporting
from services.experiments.requests import experiment_of
from services.experiments.running import RunningExperiments
from services.experiments.shares import changed_weights

Context = grpc.aio.ServicerContext[Any, Any]
_STATUSES = {
    messages.EXPERIMENT_STATUS_DRAFT: ExperimentStatus.DRAFT,
    messages.EXPERIMENT_STATUS_RUNNING: ExperimentStatus.RUNNING,
    messages.EXPERIMENT_STATUS_PAUSED: ExperimentStatus.PAUSED,
    messages.EXPERIMENT_STATUS_COMPLETED: ExperimentStatus.COMPLETED,
}


@dataclass(frozen=True, slots=True)
class Stores:
    """What is kept and read."""

    experiments: ExperimentStore
    traffic: TrafficStore


class ExperimentHandlers(ExperimentServiceServicer):
    """Serves `darkroom.experiments.v1.ExperimentService`.

    Args:
        catalog: the models there are.
        stores: what is kept and read.
        running: what gateways are told.
        reporting: results.
    """

    def __init__(
        self, catalog: CatalogHolder, stores: Stores, running: RunningExperiments, reporting: Reporting
    ) -> None:
        self._catalog = catalog
        self._experiments, self._traffic = stores.experiments, stores.traffic
        self._running = running
        self._reporting = reporting

    async def CreateExperiment(
        self, request: messages.CreateExperimentRequest, context: Context
    ) -> messages.CreateExperimentResponse:
        """See the proto."""
        new = await planned(experiment_of(request, self._catalog.current), self._traffic)
        if request.validate_only:
            return messages.CreateExperimentResponse(experiment=draft_message(new, datetime.now(UTC)))
        record = await self._experiments.create(new)
        return messages.CreateExperimentResponse(experiment=experiment_message(record))

    async def GetExperiment(
        self, request: messages.GetExperimentRequest, context: Context
    ) -> messages.GetExperimentResponse:
        """See the proto."""
        return messages.GetExperimentResponse(experiment=experiment_message(await self._known(request.id)))

    async def ListExperiments(
        self, request: messages.ListExperimentsRequest, context: Context
    ) -> messages.ListExperimentsResponse:
        """See the proto."""
        size, before = page_size(request), page_start(request)
        if request.status and request.status not in _STATUSES:
            raise InvalidRequest([FieldViolation("status", "one_of", "must be one of the statuses")])
        found = await self._experiments.list_page(size + 1, before=before, status=_STATUSES.get(request.status))
        records, token = page(found, size)
        return messages.ListExperimentsResponse(
            experiments=[experiment_message(record) for record in records], next_page_token=token
        )

    async def StartExperiment(
        self, request: messages.StartExperimentRequest, context: Context
    ) -> messages.StartExperimentResponse:
        """See the proto."""
        record = await self._known(request.id)
        if sum(1 for weight in record.weights if weight) < 2:
            raise _wrong_state("has one variant left, since the others broke guardrails; complete it")
        try:
            started = await self._experiments.start(record.id, buckets.free_ranges)
        except LayerFull as error:
            fault = (
                f"layer {record.layer!r} has less room left than the {record.target.traffic_buckets / 100:g} percent"
            )
            raise InvalidRequest([FieldViolation("id", "layer", f"{fault} that the experiment is to get")]) from error
        return messages.StartExperimentResponse(experiment=_moved(started, record, "started"))

    async def PauseExperiment(
        self, request: messages.PauseExperimentRequest, context: Context
    ) -> messages.PauseExperimentResponse:
        """See the proto."""
        record = await self._known(request.id)
        moved = await self._experiments.move(record.id, ExperimentStatus.PAUSED)
        return messages.PauseExperimentResponse(experiment=_moved(moved, record, "paused"))

    async def CompleteExperiment(
        self, request: messages.CompleteExperimentRequest, context: Context
    ) -> messages.CompleteExperimentResponse:
        """See the proto."""
        record = await self._known(request.id)
        moved = await self._experiments.move(record.id, ExperimentStatus.COMPLETED)
        return messages.CompleteExperimentResponse(experiment=_moved(moved, record, "completed"))

    async def ChangeAllocation(
        self, request: messages.ChangeAllocationRequest, context: Context
    ) -> messages.ChangeAllocationResponse:
        """See the proto."""
        record = await self._known(request.id)
        weights = changed_weights(request.traffic_allocation, record)
        if record.status is ExperimentStatus.COMPLETED:
            raise _wrong_state("is COMPLETED, and its shares do not change any more")
        changed = buckets.moved(record.buckets, weights)
        if not await self._experiments.reallocate(
            NewAllocation(record.id, record.version, weights, changed, "operator")
        ):
            raise GenerationError(
                ErrorCode.SERVICE_UNAVAILABLE, "Somebody else changed the shares at this moment; look and try again."
            )
        with after_commit(experiment_id=record.id):
            changed_record = await self._known(request.id)
        return messages.ChangeAllocationResponse(experiment=experiment_message(changed_record))

    async def AllocateVariant(
        self, request: messages.AllocateVariantRequest, context: Context
    ) -> messages.AllocateVariantResponse:
        """See the proto."""
        if not request.model_identifier:
            raise InvalidRequest([FieldViolation("model_identifier", "required", "is required")])
        raise_for(text_faults({"model_identifier": request.model_identifier}, {"model_identifier": ID_LIMIT}))
        wanted = Request(
            request.model_identifier, request.owner, request.user_id, request.api_key_id, dict(request.labels)
        )
        allocated = (await self._running.allocations()).allocate(wanted)
        if allocated is None:
            return messages.AllocateVariantResponse()
        return messages.AllocateVariantResponse(
            experiment_id=allocated.experiment.experiment_id,
            variant=variant_message(allocated.variant),
            probability=allocated.probability,
        )

    async def GetAllocations(
        self, request: messages.GetAllocationsRequest, context: Context
    ) -> messages.GetAllocationsResponse:
        """See the proto."""
        return await self._running.snapshot(request.revision)

    async def GetResults(self, request: messages.GetResultsRequest, context: Context) -> messages.GetResultsResponse:
        """See the proto."""
        return await self._reporting.report(await self._known(request.id), request, datetime.now(UTC))

    async def _known(self, experiment_id: str) -> ExperimentRecord:
        record = await self._experiments.get(known(experiment_id))
        if record is None:
            raise NotFound("id", f"There is no experiment {experiment_id[:100]!r}.")
        return record


def _moved(moved: ExperimentRecord | None, before: ExperimentRecord, verb: str) -> messages.Experiment:
    if moved is None:
        raise _wrong_state(f"is {before.status} and cannot be {verb}")
    return experiment_message(moved)


def _wrong_state(fault: str) -> InvalidRequest:
    return InvalidRequest([FieldViolation("id", "state", fault)])
