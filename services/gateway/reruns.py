"""Reruns: a new generation from one that has ended, for the owner of the original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from darkroom.gateway.v1 import gateway_pb2
from google.protobuf.json_format import ParseDict

from libs.common.catalog import Catalog, CatalogHolder
from libs.common.database.records import Fallback, GenerationRecord, NewGeneration, StoredRequest
from libs.common.database.records_edge import Accepted, NewRequest
from libs.common.database.stores.api_keys import ApiKeyStore
from libs.common.database.stores.generations import GenerationStore
from libs.common.errors import FieldViolation, InvalidRequest
from libs.common.rpc.context import current_request_id
from libs.common.rpc.requests import known
from libs.common.rpc.structs import to_struct
from services.gateway.access import Caller
from services.gateway.cancels import no_generation
from services.gateway.intake import Intake
from services.gateway.requests import validate
from services.gateway.sameness import digests_of
from services.gateway.second_payment import accepted_usd

_POLICIES = {
    "fail": gateway_pb2.UNCERTAIN_SUBMIT_POLICY_FAIL,
    "resubmit": gateway_pb2.UNCERTAIN_SUBMIT_POLICY_RESUBMIT,
}
# Fields that concern the call and not the generation.
_NOT_COMPARED = ("idempotency_key", "accepted_second_payment_usd")


class Reruns:
    """Reruns generations.

    Args:
        catalog: the models.
        keys: reads the API key of an original.
        generations: reads originals.
        intake: commits reruns.
        callback_hosts: hosts that callbacks may go to though their addresses are not public.
    """

    def __init__(
        self,
        catalog: CatalogHolder,
        keys: ApiKeyStore,
        generations: GenerationStore,
        intake: Intake,
        *,
        callback_hosts: Sequence[str] = (),
    ) -> None:
        self._catalog = catalog
        self._keys = keys
        self._generations = generations
        self._intake = intake
        self._callback_hosts = callback_hosts

    async def rerun(self, request: gateway_pb2.RerunGenerationRequest, caller: Caller) -> Accepted:
        """Commit a rerun and return its ticket.

        Raises NotFound where the caller has no such generation, and InvalidRequest as `request_of` and
        `IntakeStore.rerun` do; what `Intake.accept` raises.
        """
        consent = accepted_usd(request)
        record = await self._generations.get(known(request.id), owner=caller.sees)
        stored = await self._generations.request_of(record.id) if record is not None else None
        if record is None or stored is None:
            raise no_generation(request.id)
        new = request_of(
            request,
            record,
            stored,
            self._catalog.current,
            caller=await self._payer(record, caller),
            request_id=current_request_id(),
            callback_hosts=self._callback_hosts,
        )
        return await self._intake.rerun(new, accepted_usd=consent)

    async def _payer(self, record: GenerationRecord, caller: Caller) -> Caller:
        """Return whose key and quota a rerun counts against: the caller's own, or for an admin the original's."""
        if not caller.is_admin:
            return replace(caller, callback_url=None)
        key = await self._keys.get(record.api_key_id)
        if key is None:
            return Caller(record.api_key_id, "client", record.owner)
        return replace(Caller.of(key), owner=record.owner, callback_url=None)


def request_of(
    request: gateway_pb2.RerunGenerationRequest,
    record: GenerationRecord,
    stored: StoredRequest,
    catalog: Catalog,
    *,
    caller: Caller,
    request_id: str = "",
    callback_hosts: Sequence[str] = (),
) -> NewRequest:
    """Return the request of a rerun: the original's, valid for its model by the catalog in force.

    Args:
        request: the changes: the model and the parameters.
        record: the original.
        stored: the rest of the original's request.
        catalog: the one in force.
        caller: whose key and quota the rerun counts against.
        request_id: for the log lines of the new generation.
        callback_hosts: as for `validate`.

    Raises InvalidRequest with every violation, and NotFound for an unknown model.
    """
    if record.batch_id is not None and stored.images_from:
        fault = "must be a generation whose input images are not outputs of its batch: resume the batch instead"
        raise InvalidRequest([FieldViolation("id", "batch", fault)])
    message = _message(request, record, stored)
    new = validate(message, catalog, caller=caller, request_id=request_id, callback_hosts=callback_hosts)
    generation = replace(new.generation, rerun_of_id=record.id)
    if message.model_identifier == record.model_identifier:
        generation = _with_fallbacks(generation, stored, catalog)
    fields = digests_of(request, leave_out=_NOT_COMPARED) if new.idempotency_key else {}
    return replace(new, generation=generation, fields=fields)


def _message(
    request: gateway_pb2.RerunGenerationRequest, record: GenerationRecord, stored: StoredRequest
) -> gateway_pb2.CreateGenerationRequest:
    message = gateway_pb2.CreateGenerationRequest(
        model_identifier=request.model_identifier or record.model_identifier,
        prompt=record.prompt,
        input_images=stored.input_images,
        number_of_outputs=record.number_of_outputs,
        parameters=request.parameters if request.HasField("parameters") else to_struct(record.parameters),
        idempotency_key=request.idempotency_key,
        callback_url=record.callback_url or "",
        user_id=record.user_id or "",
        priority=record.priority,
        labels=record.labels,
        when_uncertain=_POLICIES[stored.when_uncertain],
    )
    if stored.preprocess:
        ParseDict(stored.preprocess, message.preprocess, ignore_unknown_fields=True)
    return message


def _with_fallbacks(generation: NewGeneration, stored: StoredRequest, catalog: Catalog) -> NewGeneration:
    """Return the generation with the original's fallbacks, as far as the catalog still has them, at its prices."""
    fallbacks = []
    for fallback in (Fallback(**entry) for entry in stored.fallbacks):
        model = catalog.models.get(fallback.model_identifier)
        if model is not None and model.provider == fallback.provider_id:
            cost_usd = model.cost_usd(generation.number_of_outputs, fallback.parameters)
            fallbacks.append(replace(fallback, expected_cost_usd=cost_usd))
    costs = [generation.expected_cost_usd, *(fallback.expected_cost_usd for fallback in fallbacks)]
    return replace(generation, fallbacks=tuple(fallbacks), reserved_usd=max(costs))
