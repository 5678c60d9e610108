"""From a CreateGeneration message to a validated request, or to every rule that it breaks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from darkroom.gateway.v1 import gateway_pb2
from pydantic import ValidationError

from libs.common import tracing
from libs.common.catalog import Catalog, Model
from libs.common.database.records import Fallback, ImageFrom, NewGeneration, UncertainPolicy
from libs.common.database.records_edge import NewRequest
from libs.common.errors import ErrorCode, FieldViolation, InvalidRequest
from libs.common.ids import new_id
from libs.common.preprocessing.plans import request_faults
from libs.common.rpc.structs import from_struct
from libs.common.validation.common import LABELS_LIMIT, GenerationInput, Parameters, violations
from services.gateway.access import Caller
from services.gateway.images.wishes import wish_of
from services.gateway.sameness import callback_faults, digests_of, request_hash

_FALLBACKS_LIMIT = 10
# No model has as many.
_PARAMETERS_LIMIT = 100
_OF_BATCHES = ("ref", "depends_on", "images_from", "on_failure")
_POLICIES: dict[int, UncertainPolicy] = {
    gateway_pb2.UNCERTAIN_SUBMIT_POLICY_FAIL: "fail",
    gateway_pb2.UNCERTAIN_SUBMIT_POLICY_RESUBMIT: "resubmit",
}


def validate(
    message: gateway_pb2.CreateGenerationRequest,
    catalog: Catalog,
    *,
    caller: Caller,
    request_id: str,
    callback_hosts: Sequence[str] = (),
    in_batch: bool = False,
) -> NewRequest:
    """What `message` asks for, with the promises that go with it.

    Args:
        message: as it came.
        catalog: the one in force.
        caller: whose it will be.
        request_id: what all log lines about it will carry.
        callback_hosts: hosts that callbacks may go to though their addresses are not public.
        in_batch: whether it is one of a batch, which has a name and a callback of its own.

    Raises NotFound for an unknown model, and InvalidRequest with every violation at once.
    """
    model = catalog.model(message.model_identifier)
    found: list[FieldViolation] = []
    given = _input(message, model, found)
    found += _out_of_place(message, in_batch=in_batch)
    if given is not None and given.callback_url is not None:
        found += callback_faults(given.callback_url, callback_hosts)
    fallbacks = tuple(_fallbacks(message, model, catalog, found))
    parameters = _parameters(message, model, catalog, found)
    if parameters is not None and (_images(message) or message.HasField("preprocess")):
        found += _image_faults(message, model, parameters, catalog)
    if given is None or parameters is None or found:
        only_parameters = all(violation.field.startswith("parameters") for violation in found)
        raise InvalidRequest(found, ErrorCode.INVALID_PARAMETERS if only_parameters else ErrorCode.INVALID_REQUEST)
    generation = replace(
        _generation(model, given, parameters, fallbacks),
        when_uncertain=_POLICIES.get(message.when_uncertain, "fail"),
        request_id=request_id,
        trace_parent=tracing.here(),
        api_key_id=caller.key_id,
        owner=caller.owner,
        batch_ref=message.ref or None,
        images_from=tuple(ImageFrom(getattr(image, "from"), image.output) for image in message.images_from),
        callback_url=given.callback_url or (None if in_batch else caller.callback_url),
        preprocess=wish_of(message.preprocess) or None,
    )
    return _with_promises(message, given, generation, is_bounded=caller.quota.is_bounded)


def _with_promises(
    message: gateway_pb2.CreateGenerationRequest, given: GenerationInput, generation: NewGeneration, *, is_bounded: bool
) -> NewRequest:
    return NewRequest(
        # What it starts from is not there yet: nobody knows what it is the same as.
        generation=generation if generation.images_from else replace(generation, request_hash=request_hash(generation)),
        idempotency_key=given.idempotency_key,
        fields=digests_of(message) if given.idempotency_key else {},
        reuse_within_seconds=given.reuse_within_seconds,
        is_bounded=is_bounded,
    )


def _generation(
    model: Model, given: GenerationInput, parameters: Parameters, fallbacks: tuple[Fallback, ...]
) -> NewGeneration:
    """What is to be made, whoever asks for it."""
    chosen = parameters.model_dump(mode="json", exclude_none=True)
    cost_usd = model.cost_usd(given.number_of_outputs, chosen)
    return NewGeneration(
        id=new_id("gen"),
        model_identifier=model.identifier,
        provider_id=model.provider,
        media_type=model.media_type,
        prompt=given.prompt,
        input_images=given.input_images,
        number_of_outputs=given.number_of_outputs,
        parameters=chosen,
        priority=given.priority,
        when_uncertain="fail",
        user_id=given.user_id,
        labels=given.labels,
        request_id="",
        expected_cost_usd=cost_usd,
        # Whichever model it ends with, the budget holds.
        reserved_usd=max([cost_usd, *(fallback.expected_cost_usd for fallback in fallbacks)]),
        fallbacks=fallbacks,
    )


def _out_of_place(message: gateway_pb2.CreateGenerationRequest, *, in_batch: bool) -> list[FieldViolation]:
    """What belongs to a batch alone, or to none."""
    if in_batch:
        fault = "must not be set in a batch, which has one of its own"
        return [FieldViolation("idempotency_key", "batch", fault)] if message.idempotency_key else []
    given = {field.name for field, _ in message.ListFields()}
    return [FieldViolation(name, "batch", "must be set in a batch only") for name in _OF_BATCHES if name in given]


def _image_faults(
    message: gateway_pb2.CreateGenerationRequest, model: Model, parameters: Parameters, catalog: Catalog
) -> list[FieldViolation]:
    """What is wrong with how images are handed in, and with what they are to become."""
    needs = catalog.image_needs(model, parameters)
    found: list[FieldViolation] = []
    if message.HasField("preprocess"):
        found += request_faults(wish_of(message.preprocess), needs, catalog.presets)
    if catalog.takes_data_urls(model, parameters) or _images(message) > model.max_input_images:
        return found
    return found + [
        FieldViolation(f"input_images[{index}]", "url", f"{model.identifier} takes http(s) URLs only")
        for index, url in enumerate(message.input_images)
        if url.startswith("data:")
    ]


def _images(message: gateway_pb2.CreateGenerationRequest) -> int:
    return len(message.input_images) + len(message.images_from)


def _input(
    message: gateway_pb2.CreateGenerationRequest, model: Model, found: list[FieldViolation]
) -> GenerationInput | None:
    images = list(message.input_images) if _images(message) <= model.max_input_images else []
    given: dict[str, object] = {
        "prompt": message.prompt,
        "input_images": images,
        "user_id": message.user_id or None,
        "labels": dict(message.labels) if len(message.labels) <= LABELS_LIMIT else {},
        "idempotency_key": message.idempotency_key or None,
        "callback_url": message.callback_url or None,
    }
    for name in ("number_of_outputs", "priority", "reuse_within_seconds"):
        if message.HasField(name):
            given[name] = getattr(message, name)
    if len(message.labels) > LABELS_LIMIT:
        found.append(FieldViolation("labels", "length", f"must be at most {LABELS_LIMIT}"))
    if _images(message) > model.max_input_images:
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


def _fallbacks(
    message: gateway_pb2.CreateGenerationRequest, model: Model, catalog: Catalog, found: list[FieldViolation]
) -> Iterator[Fallback]:
    """The request's fallbacks, each of which must fit; else those of the catalog that do."""
    if len(message.fallback_models) > _FALLBACKS_LIMIT:
        found.append(FieldViolation("fallback_models", "length", f"must be at most {_FALLBACKS_LIMIT}"))
        return
    if len(message.parameters.fields) > _PARAMETERS_LIMIT:
        return
    for index, name in enumerate(message.fallback_models or model.fallbacks):
        fault, fallback = _fallback(message, model, name, catalog)
        if fallback is not None:
            yield fallback
        elif message.fallback_models:
            found.append(FieldViolation(f"fallback_models[{index}]", "fits", fault))


def _fallback(
    message: gateway_pb2.CreateGenerationRequest, model: Model, name: str, catalog: Catalog
) -> tuple[str, Fallback | None]:
    other = catalog.models.get(name)
    if other is None:
        return f"there is no model {name[:100]!r}; ListModels names those there are", None
    outputs = message.number_of_outputs if message.HasField("number_of_outputs") else 1
    faults = {
        f"{name} makes another kind of media": other.media_type != model.media_type,
        f"{name} makes at most {other.max_outputs} outputs": outputs > other.max_outputs,
        f"{name} takes at most {other.max_input_images} input images": (_images(message) > other.max_input_images),
        f"{name} is the model itself": other.identifier == model.identifier,
    }
    fault = next((fault for fault, holds in faults.items() if holds), None)
    if fault is not None:
        return fault, None
    names = catalog.parameter_names(other)
    given = {key: value for key, value in from_struct(message.parameters).items() if key in names}
    try:
        parameters = catalog.parameters(other, given)
    except ValidationError as error:
        listed = "; ".join(f"{fault.field}: {fault.description}" for fault in violations(error, prefix="parameters"))
        return f"{name} does not take these: {listed}", None
    data_urls = any(url.startswith("data:") for url in message.input_images)
    if data_urls and not catalog.takes_data_urls(other, parameters):
        return f"{name} takes http(s) URLs only", None
    chosen = parameters.model_dump(mode="json", exclude_none=True)
    return "", Fallback(other.identifier, other.provider, chosen, other.cost_usd(outputs, chosen))


def _parameters(
    message: gateway_pb2.CreateGenerationRequest, model: Model, catalog: Catalog, found: list[FieldViolation]
) -> Parameters | None:
    if len(message.parameters.fields) > _PARAMETERS_LIMIT:
        found.append(FieldViolation("parameters", "length", f"must be at most {_PARAMETERS_LIMIT}"))
        return None
    try:
        return catalog.parameters(model, from_struct(message.parameters))
    except ValidationError as error:
        known = catalog.adapter_of(model).parameters.model_fields
        found += violations(error, prefix="parameters", known=known)
        return None
