"""From a CreateGeneration message to a validated generation, or to every rule that it breaks."""

from __future__ import annotations

from darkroom.gateway.v1 import gateway_pb2
from pydantic import ValidationError

from libs.common.catalog import Catalog, Model
from libs.common.database.records import NewGeneration, UncertainPolicy
from libs.common.errors import ErrorCode, FieldViolation, InvalidRequest, Unimplemented
from libs.common.ids import new_id
from libs.common.rpc.structs import from_struct
from libs.common.validation.common import GenerationInput, Parameters, violations

_NOT_SERVED = ("idempotency_key", "callback_url", "fallback_models", "reuse_within_seconds")
_POLICIES: dict[int, UncertainPolicy] = {
    gateway_pb2.UNCERTAIN_SUBMIT_POLICY_FAIL: "fail",
    gateway_pb2.UNCERTAIN_SUBMIT_POLICY_RESUBMIT: "resubmit",
}


def validate(message: gateway_pb2.CreateGenerationRequest, catalog: Catalog, request_id: str) -> NewGeneration:
    """The generation that `message` asks for.

    Raises NotFound for an unknown model, Unimplemented for a field that this version does not serve, and
    InvalidRequest with every violation at once.
    """
    model = catalog.model(message.model_identifier)
    _refuse_not_served(message)
    found: list[FieldViolation] = []
    given = _input(message, model, found)
    if not catalog.adapter_of(model).takes_data_urls:
        found += [
            FieldViolation(f"input_images[{index}]", "url", f"{model.identifier} takes http(s) URLs only")
            for index, url in enumerate(message.input_images)
            if url.startswith("data:")
        ]
    parameters = _parameters(message, model, catalog, found)
    if given is None or parameters is None or found:
        only_parameters = all(violation.field.startswith("parameters") for violation in found)
        raise InvalidRequest(found, ErrorCode.INVALID_PARAMETERS if only_parameters else ErrorCode.INVALID_REQUEST)
    return NewGeneration(
        id=new_id("gen"),
        model_identifier=model.identifier,
        provider_id=model.provider,
        media_type=model.media_type,
        prompt=given.prompt,
        input_images=given.input_images,
        number_of_outputs=given.number_of_outputs,
        parameters=parameters.model_dump(mode="json", exclude_none=True),
        priority=given.priority,
        when_uncertain=_POLICIES.get(message.when_uncertain, model.when_uncertain),
        user_id=given.user_id,
        labels=given.labels,
        request_id=request_id,
    )


def _refuse_not_served(message: gateway_pb2.CreateGenerationRequest) -> None:
    set_fields = {field.name for field, _ in message.ListFields()}
    for name in _NOT_SERVED:
        if name in set_fields:
            raise Unimplemented(f"{name} is not served by this version; leave it out.")


def _input(
    message: gateway_pb2.CreateGenerationRequest, model: Model, found: list[FieldViolation]
) -> GenerationInput | None:
    given: dict[str, object] = {
        "prompt": message.prompt,
        "input_images": list(message.input_images),
        "user_id": message.user_id or None,
        "labels": dict(message.labels),
    }
    for name in ("number_of_outputs", "priority"):
        if message.HasField(name):
            given[name] = getattr(message, name)
    if len(message.input_images) > model.max_input_images:
        found.append(
            FieldViolation(
                "input_images", "max_input_images", f"{model.identifier} takes at most {model.max_input_images}"
            )
        )
    try:
        validated = GenerationInput.model_validate(given)
    except ValidationError as error:
        found += violations(error)
        return None
    if validated.number_of_outputs > model.max_outputs:
        found.append(
            FieldViolation("number_of_outputs", "max_outputs", f"{model.identifier} makes at most {model.max_outputs}")
        )
    return validated


def _parameters(
    message: gateway_pb2.CreateGenerationRequest, model: Model, catalog: Catalog, found: list[FieldViolation]
) -> Parameters | None:
    try:
        return catalog.parameters(model, from_struct(message.parameters))
    except ValidationError as error:
        known = catalog.adapter_of(model).parameters.model_fields
        found += violations(error, prefix="parameters", known=known)
        return None
