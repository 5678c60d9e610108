"""From OpenAI's fields to ours: sizes, seconds and pictures, in whatever words the model has for them."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import filetype
from darkroom.gateway.v1 import gateway_pb2
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from libs.common.catalog import Catalog, Model
from libs.common.errors import FieldViolation, InvalidRequest
from libs.common.validation.common import OUTPUTS_LIMIT, violations
from services.gateway.rest.reading import Reader

_PICTURES = {"image/png", "image/jpeg", "image/webp"}
_SIZE_NAMES = ("size_or_ratio", "aspect_ratio", "size")
_SECONDS_NAMES = ("duration", "seconds")
# Fields of OpenAI's that say nothing about the picture, or that some models have no word for: these do not refuse.
_OPTIONAL = {"quality", "style", "background", "output_format", "output_compression", "moderation", "input_fidelity"}
_RATIO_SLACK = 0.02
_USUAL_SIZE = "1024x1024"


class _Asked(BaseModel):
    """What both have in common. What is not known here goes to the model's own parameters."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(min_length=1, max_length=200)
    prompt: str = ""
    size: str | None = Field(default=None, max_length=40)
    user: str | None = None

    @field_validator("size")
    @classmethod
    def _none_for_auto(cls, value: str | None) -> str | None:
        return None if value in {"auto", ""} else value

    @property
    def others(self) -> dict[str, Any]:
        """What this face does not know."""
        return {name: value for name, value in (self.model_extra or {}).items() if value is not None}


class AskedImages(_Asked):
    """POST /v1/images/generations and /v1/images/edits."""

    n: int = Field(default=1, ge=1, le=OUTPUTS_LIMIT)
    response_format: str | None = Field(default=None, pattern="^(url|b64_json)$")
    stream: bool = False
    partial_images: int | None = None

    @field_validator("n", mode="before")
    @classmethod
    def _one_by_default(cls, value: Any) -> Any:
        return 1 if value is None else value

    @field_validator("stream", mode="before")
    @classmethod
    def _no_stream(cls, value: Any) -> Any:
        if value in (None, False, "false"):
            return False
        raise ValueError("streaming is not served: leave it out")


class AskedVideo(_Asked):
    """POST /v1/videos."""

    seconds: int | None = Field(default=None, ge=1, le=600)


def read(kind: type[AskedImages | AskedVideo], values: Any) -> Any:
    """What was asked for. InvalidRequest with every fault, under OpenAI's names."""
    if not isinstance(values, dict):
        raise InvalidRequest([FieldViolation("body", "type", "must be an object")])
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise InvalidRequest(violations(error)) from error


def message_of(
    asked: AskedImages | AskedVideo, catalog: Catalog, pictures: Sequence[str] = ()
) -> gateway_pb2.CreateGenerationRequest:
    """The request that it comes to.

    Raises NotFound for a model that the catalog does not have, and InvalidRequest for what the answer could not give:
    that is known before a provider is paid.
    """
    model = catalog.model(asked.model)
    _check_answer(asked, model, catalog)
    try:
        message = gateway_pb2.CreateGenerationRequest(
            model_identifier=asked.model, prompt=asked.prompt, input_images=pictures, user_id=asked.user or ""
        )
    except UnicodeEncodeError as error:
        raise InvalidRequest([FieldViolation("prompt", "unicode", "must be valid Unicode")]) from error
    if isinstance(asked, AskedImages):
        message.number_of_outputs = asked.n
    reader = Reader()
    reader.read_struct(message.parameters, _parameters(asked, model, catalog), "parameters")
    reader.raise_for_found()
    return message


def _check_answer(asked: AskedImages | AskedVideo, model: Model, catalog: Catalog) -> None:
    wants = "image" if isinstance(asked, AskedImages) else "video"
    if model.media_type != wants:
        path = {"image": "/v1/images/generations", "video": "/v1/videos"}[model.media_type]
        fault = f"{model.identifier} makes a {model.media_type}: use {path}"
        raise InvalidRequest([FieldViolation("model_identifier", "media_type", fault)])
    wants_bytes = isinstance(asked, AskedImages) and asked.response_format == "b64_json"
    if wants_bytes and not catalog.provider_of(model).storage.upload_to_s3:
        fault = "this model's images stay with the provider: ask for url"
        raise InvalidRequest([FieldViolation("response_format", "stored", fault)])


def data_url(content: bytes, field: str) -> str:
    """A picture that was handed in. InvalidRequest for what is none that providers take."""
    kind = filetype.guess(content)
    if kind is None or kind.mime not in _PICTURES:
        raise InvalidRequest([FieldViolation(field, "picture", "must be a PNG, JPEG or WebP picture")])
    return f"data:{kind.mime};base64,{base64.b64encode(content).decode()}"


def _parameters(asked: AskedImages | AskedVideo, model: Model, catalog: Catalog) -> dict[str, Any]:
    known = catalog.adapter_of(model).parameters.model_fields
    found = {name: value for name, value in asked.others.items() if name in known or name not in _OPTIONAL}
    if asked.size is not None:
        name = next((name for name in _SIZE_NAMES if name in known), "size")
        found[name] = _fitting(asked.size, name, model, catalog)
    if isinstance(asked, AskedVideo) and asked.seconds is not None:
        found[next((name for name in _SECONDS_NAMES if name in known), "seconds")] = asked.seconds
    return found


def _fitting(size: str, name: str, model: Model, catalog: Catalog) -> str:
    """The size itself; its ratio where the model knows ratios alone."""
    ratio = _ratio(size)
    if ratio is None or _is_taken({name: _USUAL_SIZE}, name, model, catalog):
        return size
    return ratio


def _is_taken(values: Mapping[str, Any], name: str, model: Model, catalog: Catalog) -> bool:
    try:
        catalog.parameters(model, values)
    except ValidationError as error:
        return all(fault.field != name for fault in violations(error))
    return True


def _ratio(size: str) -> str | None:
    """`1280x720` → `16:9`; also `1792x1024`, which is nearly so. None for what is no size."""
    width, _, height = size.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        return None
    exact = int(width) / int(height)
    for wide, tall in ((16, 9), (9, 16), (1, 1), (3, 2), (2, 3), (4, 3), (3, 4), (21, 9)):
        if abs(exact / (wide / tall) - 1) < _RATIO_SLACK:
            return f"{wide}:{tall}"
    divisor = math.gcd(int(width), int(height))
    return f"{int(width) // divisor}:{int(height) // divisor}"
