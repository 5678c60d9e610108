"""A request in an experiment: whether it fits every variant, and what its own variant makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cachetools import LRUCache
from darkroom.gateway.v1 import gateway_pb2

from libs.common import metrics
from libs.common.catalog import Catalog, CatalogHolder
from libs.common.database.records_edge import NewRequest
from libs.common.errors import GenerationError
from libs.common.experiments.allocation import Allocated, Request, Running, VariantSpec
from libs.common.validation.common import PROMPT_LIMIT
from services.gateway.access import Caller
from services.gateway.experiments.snapshot import Snapshot
from services.gateway.sameness import digests_of

Message = gateway_pb2.CreateGenerationRequest
Validate = Callable[[Message], NewRequest]
PROMPT = "{prompt}"
_SHAPES = 4_096


class TakingPart:
    """Lets requests take part in experiments.

    Args:
        snapshot: what runs.
        catalog: the models there are.
    """

    def __init__(self, snapshot: Snapshot, catalog: CatalogHolder) -> None:
        self._snapshot = snapshot
        self._catalog = catalog
        self._seen_with: Catalog | None = None
        self._fitting: LRUCache[tuple[object, ...], bool] = LRUCache(_SHAPES)

    def request_of(self, message: Message, caller: Caller, validate: Validate) -> NewRequest:
        """The validated request, as its variant makes it where it takes part in an experiment.

        Raises as `validate` does, for what is wrong with the request itself.
        """
        allocated = self._allocated(message, caller, validate)
        if allocated is None:
            return validate(message)
        try:
            own = validate(varied(message, allocated.variant, self._catalog.current))
        except GenerationError:
            # What is wrong is to be told of the request as it came.
            return validate(message)
        metrics.EXPERIMENT_REQUESTS.labels("allocated").inc()
        asked, taken = message.model_identifier, own.generation.model_identifier
        generation = replace(
            own.generation,
            experiment_id=allocated.experiment.experiment_id,
            variant_id=allocated.variant.id,
            experiment_version=allocated.experiment.version,
            requested_model_identifier=asked if asked != taken else None,
        )
        # A repeat is compared with what was asked for, whatever variant it would get.
        return replace(own, generation=generation, fields=digests_of(message) if own.idempotency_key else {})

    def _allocated(self, message: Message, caller: Caller, validate: Validate) -> Allocated | None:
        # An earlier result is no outcome of a variant.
        if message.reuse_within_seconds:
            return None
        allocations = self._snapshot.current
        if allocations is None:
            metrics.EXPERIMENT_REQUESTS.labels("unknown").inc()
            return None
        request = Request(message.model_identifier, caller.owner, message.user_id, caller.key_id, message.labels)
        return allocations.allocate(request, fits=lambda running: self._fits(running, message, validate))

    def _fits(self, running: Running, message: Message, validate: Validate) -> bool:
        """Whether every variant could run the request: what only some can would tell them apart by itself."""
        fits = _prompts_fit(running, message) and self._shape_fits(running, message, validate)
        if not fits:
            metrics.EXPERIMENT_REQUESTS.labels("unfit").inc()
        return fits

    def _shape_fits(self, running: Running, message: Message, validate: Validate) -> bool:
        """What decides whether models take a request, and few requests differ in: remembered."""
        catalog = self._catalog.current
        if catalog is not self._seen_with:
            self._fitting.clear()
            self._seen_with = catalog
        key = running.experiment_id, running.version, _key(message)
        known = self._fitting.get(key)
        if known is None:
            shape = _shape(message)
            known = all(
                _is_valid(made, validate)
                for made in (shape, *(varied(shape, variant, catalog) for variant in running.variants))
            )
            self._fitting[key] = known
        return known


def varied(message: Message, variant: VariantSpec, catalog: Catalog) -> Message:
    """The message as a variant makes it: its model, its prompt around the request's, its parameters over the request's.

    Of the request's parameters and fallbacks, a variant with another model gets those that go with it.
    """
    made = Message()
    made.CopyFrom(message)
    made.model_identifier = variant.model_identifier
    made.prompt = _prompt(message, variant)
    if variant.model_identifier != message.model_identifier:
        model = catalog.models.get(variant.model_identifier)
        known = catalog.parameter_names(model) if model is not None else ()
        for name in set(made.parameters.fields) - set(known):
            del made.parameters.fields[name]
        del made.fallback_models[:]
        made.fallback_models.extend(name for name in message.fallback_models if name != variant.model_identifier)
    made.parameters.update(dict(variant.parameters))
    return made


def _prompts_fit(running: Running, message: Message) -> bool:
    """Whether the prompt is one, and no variant makes it too long."""
    if not message.prompt.strip():
        return False
    longest = max((len(_prompt(message, variant)) for variant in running.variants if variant.prompt), default=0)
    return max(longest, len(message.prompt)) <= PROMPT_LIMIT


def _prompt(message: Message, variant: VariantSpec) -> str:
    return variant.prompt.replace(PROMPT, message.prompt) if variant.prompt else message.prompt


def _key(message: Message) -> tuple[object, ...]:
    """The same for messages of one shape."""
    return (
        message.model_identifier,
        message.number_of_outputs if message.HasField("number_of_outputs") else None,
        message.parameters.SerializeToString(deterministic=True),
        message.preprocess.SerializeToString(deterministic=True) if message.HasField("preprocess") else None,
        len(message.input_images),
        _has_data(message),
        tuple(message.fallback_models),
    )


def _has_data(message: Message) -> bool:
    return any(image.startswith("data:") for image in message.input_images)


def _shape(message: Message) -> Message:
    """A message with nothing but what decides whether a model takes it."""
    shape = Message(model_identifier=message.model_identifier, prompt="x", fallback_models=message.fallback_models)
    if message.HasField("number_of_outputs"):
        shape.number_of_outputs = message.number_of_outputs
    if message.HasField("preprocess"):
        shape.preprocess.CopyFrom(message.preprocess)
    shape.parameters.CopyFrom(message.parameters)
    image = "data:image/png;base64,AA==" if _has_data(message) else "https://example.com/x.png"
    shape.input_images.extend([image] * len(message.input_images))
    return shape


def _is_valid(message: Message, validate: Validate) -> bool:
    try:
        validate(message)
    except GenerationError:
        return False
    return True
