"""Rules that hold for every request, and the way in which broken ones are told: all at once, each with its path."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from yarl import URL

from libs.common.errors import FieldViolation
from libs.common.hosts import host_of

PROMPT_LIMIT = 2_000
OUTPUTS_LIMIT = 10
LABELS_LIMIT = 16
REUSE_LIMIT_SECONDS = 30 * 86_400
IMAGE_URL_LIMIT = 14_000_000  # 10 MB of image as base64
# A suggestion compares a name with all that are known: the first few unknown ones get one.
_SUGGESTIONS, _SUGGESTED_CHARACTERS = 5, 64
_PATH_LIMIT = 200
_IMAGE_URL = re.compile(r"https?://\S+|data:image/(png|jpeg|jpg|webp|gif|avif|heic|heif);base64,[A-Za-z0-9+/]+={0,2}")


def _storable(text: str) -> str:
    # Postgres keeps no NUL in text, and a lone surrogate is no Unicode.
    if "\x00" in text:
        raise ValueError("must not contain NUL characters")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("must be valid Unicode") from error
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


def image_url_fault(text: str) -> str | None:
    """What is wrong with where an image is said to be, as far as its text tells; None: nothing."""
    if _IMAGE_URL.fullmatch(text):
        return None
    return "must be an http(s) URL or data:image/(png|jpeg|jpg|webp|gif|avif|heic|heif);base64,…"


def _image_url(text: str) -> str:
    fault = image_url_fault(text)
    if fault is not None:
        raise ValueError(fault)
    return text


def _callback_url(text: str) -> str:
    try:
        url = URL(text)
    except ValueError as error:
        raise ValueError("must be an http(s) URL") from error
    if url.scheme not in {"http", "https"} or not host_of(url) or re.search(r"\s", text):
        raise ValueError("must be an http(s) URL")
    if url.user is not None or url.password is not None:
        raise ValueError("must not contain a user or a password: callbacks are signed instead")
    return text


LongText = Annotated[str, StringConstraints(max_length=2_000), AfterValidator(_storable)]
ShortText = Annotated[str, StringConstraints(max_length=200), AfterValidator(_storable)]
Prompt = Annotated[
    str, StringConstraints(min_length=1, max_length=PROMPT_LIMIT), AfterValidator(_not_blank), AfterValidator(_storable)
]
ImageUrl = Annotated[str, StringConstraints(max_length=IMAGE_URL_LIMIT), AfterValidator(_image_url)]
CallbackUrl = Annotated[
    str, StringConstraints(max_length=2_000), AfterValidator(_storable), AfterValidator(_callback_url)
]
LabelKey = Annotated[str, StringConstraints(min_length=1, max_length=64), AfterValidator(_storable)]


class GenerationInput(BaseModel):
    """What a caller hands in, apart from `parameters`, whose rules are the model's."""

    model_config = ConfigDict(frozen=True, strict=True)

    prompt: Prompt
    input_images: list[ImageUrl] = []
    number_of_outputs: int = Field(default=1, ge=1, le=OUTPUTS_LIMIT)
    priority: int = Field(default=5, ge=0, le=9)
    user_id: ShortText | None = None
    labels: dict[LabelKey, ShortText] = Field(default={}, max_length=LABELS_LIMIT)
    idempotency_key: ShortText | None = None
    callback_url: CallbackUrl | None = None
    reuse_within_seconds: int = Field(default=0, ge=0, le=REUSE_LIMIT_SECONDS)


class Parameters(BaseModel):
    """The base of every adapter's schema of `parameters`: nothing unknown is let through."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _path(prefix: str, parts: Iterable[int | str]) -> str:
    path = prefix
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def violations(error: ValidationError, *, prefix: str = "", known: Iterable[str] = ()) -> list[FieldViolation]:
    """Pydantic's faults as ours.

    Args:
        error: what pydantic raised.
        prefix: the path of what was validated, for instance `parameters`.
        known: names that an unknown one may have been meant for; the nearest is suggested.
    """
    found: list[FieldViolation] = []
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        description = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            description = "unknown"
            if len(found) < _SUGGESTIONS:
                description += _suggestion(str(fault["loc"][-1]), known)
        found.append(FieldViolation(_path(prefix, fault["loc"])[:_PATH_LIMIT], fault["type"], description))
    return found


def _suggestion(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1) if len(name) <= _SUGGESTED_CHARACTERS else []
    return f"; did you mean {near[0]}?" if near else ""


def json_schema(parameters: type[Parameters], defaults: dict[str, Any]) -> dict[str, Any]:
    """The schema of a model's parameters (JSON Schema draft 2020-12) with the catalog's defaults in it."""
    schema = parameters.model_json_schema()
    for name, value in defaults.items():
        schema["properties"][name]["default"] = value
    return schema
