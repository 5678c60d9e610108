"""Reading what no vendor promises: fields that move between levels, and the bodies of webhooks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar

from pydantic import AliasChoices, BaseModel, Field, StringConstraints, ValidationError

from libs.common.errors import ErrorCode, GenerationError

Model = TypeVar("Model", bound=BaseModel)
_LEVELS = 3
# It becomes part of a path that is asked with our credentials.
_TASK_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,199}")
TaskId = Annotated[str, StringConstraints(pattern=rf"^{_TASK_ID.pattern}$")]


class TaskHint(BaseModel):
    """Anything that names a task."""

    task_id: TaskId = Field(validation_alias=AliasChoices("task_id", "id"))


def is_task_id(text: str) -> bool:
    """Whether a text can be a vendor's id of a task."""
    return _TASK_ID.fullmatch(text) is not None


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


def webhook_body(model: type[Model], body: bytes) -> Model:
    """A webhook's body as `model`, unwrapped. GenerationError PROVIDER_ERROR where it does not fit."""
    try:
        return model.model_validate(unwrapped(json.loads(body)))
    except (ValueError, ValidationError, RecursionError) as error:
        raise GenerationError(ErrorCode.PROVIDER_ERROR, "The webhook cannot be read.") from error
