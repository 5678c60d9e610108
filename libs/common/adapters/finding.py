"""Reads replies to a lookup by our own id. Only a task with that id resolves an uncertain submission."""

from __future__ import annotations

from typing import Any

from libs.common.adapters.http import Reply
from libs.common.adapters.identity import id_of
from libs.common.adapters.walking import ECHOES, NODES_LIMIT, walk

_EXTERNAL_IDS = ("external_task_id", "externalTaskId")
_UNSEARCHED = ECHOES - {"task_info", "taskInfo"}


def task_of_client(reply: Reply, client_id: str, *, names: tuple[str, ...] = _EXTERNAL_IDS) -> str:
    """The vendor's id of the task that was submitted under our own id.

    Tasks are the objects under `data`; the envelope describes none. A single task is ours unless the reply names the id
    of another submission; a task in a list is ours if it names our id.

    Args:
        reply: a good reply to a lookup by `client_id`.
        client_id: our own id.
        names: of the members in which the vendor repeats it.

    Raises UnreadableReply if the reply has no task of ours, which shows neither that there is one nor that there is
    none.
    """
    data = reply.body.get("data") if isinstance(reply.body, dict) else None
    entries = data[:NODES_LIMIT] if isinstance(data, list) else []
    ours = [entry for entry in entries if isinstance(entry, dict) and _clients_of(entry, names) == {client_id}]
    if isinstance(data, dict) and _clients_of(reply.body, names) <= {client_id}:
        ours = [data]
    if not ours:
        raise reply.unreadable("it shows no task of this submission")
    task_ids = {id_of(task) for task in ours}
    task_id = task_ids.pop()
    if task_id is None or task_ids:
        raise reply.unreadable("it does not name one task as that of this submission")
    return task_id


def _clients_of(value: Any, names: tuple[str, ...]) -> set[str | None]:
    """The ids of clients that a value names; None among them stands for one that is empty."""
    nodes = [place.node for place in walk(value, _UNSEARCHED)]
    named = [node[name] for node in nodes for name in names if name in node]
    return {one if isinstance(one, str) else None for one in named}
