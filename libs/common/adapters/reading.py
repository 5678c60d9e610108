"""Reads JSON of vendors: bodies, ids of tasks, and bodies of webhooks."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, TypeVar

from pydantic import AliasChoices, BaseModel, Field, StringConstraints, ValidationError

from libs.common.errors import ErrorCode, GenerationError

Model = TypeVar("Model", bound=BaseModel)
# An id becomes part of a path that is requested with our credentials.
_TASK_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,199}")
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r){2}")
_EVENTS_LIMIT = 1_000
_DIGITS_LIMIT = _DEPTH_LIMIT = 100
_AROUND = " \t\r\n\ufeff\x1e"
_OPENINGS = ("{", "[")
# Before the JSON of some APIs, so that no page can run it as a script.
_GUARD = ")]}'"
TaskId = Annotated[str, StringConstraints(pattern=rf"^{_TASK_ID.pattern}$")]


class TaskHint(BaseModel):
    """Anything that names a task."""

    task_id: TaskId = Field(validation_alias=AliasChoices("task_id", "id"))


def is_task_id(text: str) -> bool:
    """Whether a text can be a vendor's id of a task."""
    return _TASK_ID.fullmatch(text) is not None


def unwrapped(body: Any) -> Any:
    """What lies under `data`, where a vendor wraps its replies so; else the body."""
    inner = body.get("data") if isinstance(body, dict) else None
    return inner if isinstance(inner, dict) else body


def parsed(content: bytes) -> Any:
    """The JSON in a body, with texts and numbers that a row can hold; None where it is not JSON.

    Control characters in texts, bytes that are no UTF-8, NUL and a guard against scripts around the JSON are forgiven.
    Several documents in one body are returned as a list.
    """
    try:
        found = json.loads(content, strict=False, parse_int=_integer, parse_constant=_nothing)
    except RecursionError:
        return None
    except ValueError:
        return _forgiving(content)
    # Escapes of what no text in a row can hold.
    return _storable(found) if b"\\u0000" in content or b"\\ud" in content.lower() else found


def _forgiving(content: bytes) -> Any:
    text = content.decode(json.detect_encoding(content), "replace").replace("\x00", "").strip(_AROUND)
    text = text.removeprefix(_GUARD).lstrip(_AROUND + ",")
    decoder = json.JSONDecoder(strict=False, parse_int=_integer, parse_constant=_nothing)
    documents: list[Any] = []
    try:
        while text[:1] in _OPENINGS and len(documents) < _EVENTS_LIMIT:
            document, end = decoder.raw_decode(text)
            documents.append(_storable(document))
            text = text[end:].lstrip(_AROUND)
    except (ValueError, RecursionError):
        pass
    return documents if len(documents) > 1 else next(iter(documents), None)


def _integer(digits: str) -> int | None:
    return int(digits) if len(digits) <= _DIGITS_LIMIT else None


def _nothing(_: str) -> None:
    """In the place of NaN and Infinity, which no row can hold."""


def parsed_events(content: bytes) -> Any:
    """The JSON of each event in a stream of server-sent events, as a list; what `parsed` returns where there is none.

    Source: the HTML standard, 9.2 Server-sent events. Events whose data is not JSON are left out.
    """
    events = []
    for event in _BLANK_LINE.split(content)[:_EVENTS_LIMIT]:
        data = b"\n".join(line[5:].lstrip(b" ") for line in event.splitlines() if line.startswith(b"data:"))
        found = parsed(data)
        if found is not None:
            events.append(found)
    return events or parsed(content)


def storable(text: str) -> str:
    """The text without what Postgres keeps in no text: NUL, and halves of surrogate pairs."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode()


def _storable(value: Any, depth: int = 0) -> Any:
    """The value with texts that a row can hold. What lies deeper than 100 levels is left out."""
    if isinstance(value, str):
        return storable(value)
    if depth > _DEPTH_LIMIT and isinstance(value, dict | list):
        return None
    if isinstance(value, dict):
        return {storable(key): _storable(member, depth + 1) for key, member in value.items()}
    return [_storable(member, depth + 1) for member in value] if isinstance(value, list) else value


def webhook_json(body: bytes) -> Any:
    """A webhook's JSON, with texts that a row can hold. GenerationError PROVIDER_ERROR where it is none."""
    found = parsed(body)
    if not isinstance(found, dict):
        raise GenerationError(ErrorCode.PROVIDER_ERROR, "The webhook cannot be read.")
    return found


def webhook_body(model: type[Model], body: bytes) -> Model:
    """A webhook's body as `model`, unwrapped. GenerationError PROVIDER_ERROR where it does not fit."""
    try:
        return model.model_validate(unwrapped(webhook_json(body)))
    except ValidationError as error:
        raise GenerationError(ErrorCode.PROVIDER_ERROR, "The webhook cannot be read.") from error
