"""Reading what no vendor promises: fields that move between levels, and the bodies of webhooks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from libs.common.errors import ErrorCode, GenerationError

Model = TypeVar("Model", bound=BaseModel)
_LEVELS = 3
TASK_ID_LIMIT = 200


def _levels(body: Any) -> Iterator[dict[str, Any]]:
    for _ in range(_LEVELS):
        if not isinstance(body, dict):
            return
        yield body
        body = body.get("data")


def unwrapped(body: Any) -> Any:
    """What lies under `data`, where a vendor wraps its replies so; else the body."""
    inner = body.get("data") if isinstance(body, dict) else None
    return inner if isinstance(inner, dict) else body


def first(body: Any, *names: str) -> Any:
    """The first of these fields that has a value, the innermost of the levels under `data` first."""
    return next((level[name] for name in names for level in reversed([*_levels(body)]) if level.get(name)), None)


def task_id_of(body: Any, *names: str) -> str:
    """The task's id. GenerationError PROVIDER_ERROR where there is none that can be kept."""
    found = first(body, *names)
    if not isinstance(found, str) or not 1 <= len(found) <= TASK_ID_LIMIT or "\x00" in found:
        raise GenerationError(ErrorCode.PROVIDER_ERROR, "The provider names no task.")
    return found


def webhook_body(model: type[Model], body: bytes) -> Model:
    """A webhook's body as `model`, unwrapped. GenerationError PROVIDER_ERROR where it does not fit."""
    try:
        return model.model_validate(unwrapped(json.loads(body)))
    except (ValueError, ValidationError, RecursionError) as error:
        raise GenerationError(ErrorCode.PROVIDER_ERROR, "The webhook cannot be read.") from error
