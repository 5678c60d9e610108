"""Finds the ids of tasks in a reply, and decides whether the reply is about the requested task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from libs.common.adapters.reading import is_task_id
from libs.common.adapters.walking import ECHOES, Place, walk

TASK_IDS = ("task_id", "taskId", "job_id", "jobId", "prediction_id", "video_id", "generation_id")
_ERRORS = frozenset({"error", "errors"})
# Most vendors use these names for the id of the call: they can show that a reply is about a task, not that it is not.
_CALL_IDS = ("request_id", "requestId")


def task_id_in(body: Any, names: Sequence[str] = ()) -> str | None:
    """Return the id of the task that a good reply to a submit names; None where it names none.

    Args:
        body: the reply's JSON.
        names: the vendor's own names for the id of a task, which are looked for first.
    """
    found = named_task_id_in(body, names) or _first_id_in(body, ("id",))
    if found is not None:
        return found
    data = body.get("data") if isinstance(body, dict) else None
    # Some relays answer the id alone; a word such as `ok` is none.
    if isinstance(data, str) and len(data) >= 8 and any(map(str.isdecimal, data)):
        return _as_task_id(data)
    return None


def named_task_id_in(body: Any, names: Sequence[str] = ()) -> str | None:
    """Return the id of the task that a reply to a submit names as a task, which the reply of an error may do as well.

    Args:
        body: the reply's JSON.
        names: the vendor's own names for the id of a task. `id` counts only if it is one of them.
    """
    return _first_id_in(body, names) or _first_id_in(body, TASK_IDS)


def id_of(node: Mapping[str, Any], names: Sequence[str] = (*TASK_IDS, "id")) -> str | None:
    """The id that an object itself has under the first of these names that holds one; None where none does."""
    return next((found for name in names if (found := _as_task_id(node.get(name))) is not None), None)


def names_task(node: Mapping[str, Any], task_id: str | None, names: Sequence[str] = ()) -> bool:
    """Whether an object has this id under one of the usual names, or of `names`."""
    known = (*TASK_IDS, "id", *_CALL_IDS, *names)
    return task_id is not None and any(_text(node.get(name)) == task_id for name in known)


def describes_other_task(body: Any, place: Place, task_id: str | None, names: Sequence[str] = ()) -> bool:
    """Whether the description of a task at a place of a reply is about another task than the requested one.

    The objects from the body down to the place may each name an id: the relay's, and inside it the vendor's. The
    description is about the requested task if one of them is its id. If they name no id, a reply is taken to be about
    the requested task, unless the reply is a list.

    Args:
        body: the reply's JSON.
        place: where in it the task is described.
        task_id: the id of the requested task. None: any task counts.
        names: the vendor's own names for the id of a task.
    """
    if task_id is None or any(names_task(node, task_id, names) for node in place.path):
        return False
    return isinstance(body, list) or any(_names_any(node, names) for node in place.path)


def names_only_other_tasks(body: Any, task_id: str, names: Sequence[str] = ()) -> bool:
    """Whether a reply without a description of a task names ids of tasks, and none of them is `task_id`."""
    nodes = [place.node for place in walk(body, ECHOES | _ERRORS)]
    is_ours = any(names_task(node, task_id, names) for node in nodes)
    return not is_ours and any(_names_any(node, names) for node in nodes)


def _first_id_in(body: Any, names: Sequence[str]) -> str | None:
    nodes = [place.node for place in walk(body, ECHOES | _ERRORS)]
    return next((found for node in nodes if (found := id_of(node, names)) is not None), None)


def _names_any(node: Mapping[str, Any], names: Sequence[str]) -> bool:
    return any(_text(node.get(name)) for name in (*TASK_IDS, "id", *names))


def _text(value: Any) -> str:
    """An id as a text; empty for what is none."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**30:
        return str(value)
    return value.strip() if isinstance(value, str) else ""


def _as_task_id(value: Any) -> str | None:
    text = value if isinstance(value, str) else _text(value)
    return text if is_task_id(text) else None
