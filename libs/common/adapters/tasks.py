"""Makes a TaskStatus from a reply about a task, with the search in `searching.py`. Most adapters use it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from libs.common.adapters.base import ProviderOutput, Submitted, TaskStatus, WebhookReport
from libs.common.adapters.http import Reply
from libs.common.adapters.identity import describes_other_task, names_task, task_id_in
from libs.common.adapters.media import outputs_elsewhere
from libs.common.adapters.reading import is_task_id, webhook_json
from libs.common.adapters.replies import missing_task
from libs.common.adapters.searching import (
    Found,
    error_words,
    paths_in,
    progress_in,
    reason_in,
    task_in,
    text_in,
    urls_in,
)
from libs.common.adapters.states import is_missing, is_moderation
from libs.common.database.states import TaskState
from libs.common.errors import Details, ErrorCode, GenerationError

Outputs = Callable[[Found], Sequence[ProviderOutput]]


def named_outputs(found: Found) -> list[ProviderOutput]:
    """The outputs whose URLs the description of a task names."""
    return [ProviderOutput(url=url) for url in urls_in(found)]


def outputs_at(paths: Iterable[str]) -> list[ProviderOutput]:
    """The outputs at paths of the provider's own host, as the API that names them."""
    return [ProviderOutput(url=path, needs_credentials=True) for path in paths]


def _by_content(found: Found) -> list[ProviderOutput]:
    """The outputs that a description of a task holds itself, as `data:` URLs: the sources of a task are URLs."""
    contents = [output.content for output in outputs_elsewhere(found.node) if output.content]
    return [ProviderOutput(url=f"data:;base64,{b64encode(content).decode()}") for content in contents]


def status_in(
    reply: Reply,
    own: Mapping[str, TaskState],
    task_id: str | None = None,
    *,
    outputs: Outputs = named_outputs,
    payloads: frozenset[str] = frozenset(),
    whole: float = 100.0,
    id_names: tuple[str, ...] = (),
    repeats_id: bool = True,
) -> TaskStatus:
    """Read the status of a task from a good reply to a check.

    Args:
        reply: its `body` is searched.
        own: the vendor's own words for states.
        task_id: the id of the requested task.
        payloads: names of members with arbitrary content.
        outputs: the outputs of a task that has succeeded.
        whole: the number with which the vendor denotes 100 percent.
        id_names: the vendor's own names for the id of a task.
        repeats_id: whether an id in the reply must be `task_id`. False: only where the reply ends the task without a
            result, and in a list.

    Raises UnreadableReply where the reply does not say where the task stands, is about another task, or says that it
    has succeeded and names no output; GenerationError with the facts of a 404 where it says that there is no such task.
    """
    reply = _last_word(reply, own, task_id)
    found = task_in(reply.body, own, task_id, payloads=payloads)
    if found is None:
        raise reply.unreadable("it does not say where the task stands")
    is_trusted = not repeats_id and not _is_end_without_result(found) and not isinstance(reply.body, list)
    if not is_trusted and describes_other_task(reply.body, found.innermost, task_id, id_names):
        raise reply.unreadable("it is about another task")
    if is_missing(found.word):
        raise missing_task(reply)
    if found.state is TaskState.FAILED:
        return TaskStatus(found.state, error=failure(found, reply.facts()))
    progress = progress_in(found, whole=whole)
    if found.state is not TaskState.SUCCESS:
        return TaskStatus(found.state, progress=progress, unknown_state=found.unknown)
    made = tuple(outputs(found) or outputs_at(paths_in(found)) or _by_content(found))
    if not made:
        raise reply.unreadable("the task has succeeded and no output is named")
    return TaskStatus(found.state, made, progress=progress)


def statuses_in(
    reply: Reply,
    entries: Iterable[Mapping[str, Any]],
    name: str,
    wanted: Collection[str],
    status_of: Callable[[Reply, str], TaskStatus],
) -> dict[str, TaskStatus]:
    """The statuses of the tasks in a list, by id; those that cannot be read are left out, to be checked one by one.

    Args:
        reply: the whole reply.
        entries: of its list.
        name: of the member that holds a task's id.
        wanted: the ids of the tasks that count.
        status_of: reads one entry, given as a reply of its own.
    """
    found = {}
    for entry in entries:
        task_id = entry.get(name)
        if not isinstance(task_id, str) or task_id not in wanted:
            continue
        try:
            found[task_id] = status_of(replace(reply, body=entry), task_id)
        except GenerationError:
            continue
    return found


def _last_word(reply: Reply, own: Mapping[str, TaskState], task_id: str | None) -> Reply:
    """Of a reply of several documents, or events, the last one that describes the task; else the reply."""
    if not isinstance(reply.body, list) or task_id is None:
        return reply
    documents = [one for one in reply.body if isinstance(one, Mapping)]
    described = (one for one in reversed(documents) if task_in(one, own, task_id) and names_task(one, task_id))
    last = next(described, None)
    return reply if last is None else replace(reply, body=last)


def _is_end_without_result(found: Found) -> bool:
    return is_missing(found.word) or (found.state.has_ended and found.state is not TaskState.SUCCESS)


def failure(found: Found, facts: Details) -> GenerationError:
    """The error of a task that has failed, with the vendor's reason."""
    rejected = any(map(is_moderation, error_words(found)))
    why = reason_in(found) or f"The provider reports: {found.word[:100]}."
    return GenerationError(ErrorCode.CONTENT_REJECTED if rejected else ErrorCode.TASK_FAILED, why, facts)


def submitted(reply: Reply, *names: str, check_url: str | None = None, reports: bool = False) -> Submitted:
    """The task that the reply to a submit names, at any place of the reply.

    Args:
        reply: its `body` is searched.
        names: the vendor's own names for the id of a task, sought first.
        check_url: where the task is to be asked for, where the vendor names that.
        reports: whether the vendor was asked for a webhook.

    Raises UnreadableReply where it names none.
    """
    task_id = task_id_in(reply.body, names)
    if task_id is None:
        raise reply.unreadable("it names no task")
    return Submitted(task_id, check_url, reports=reports)


def moderated(error: GenerationError) -> TaskStatus:
    """The status of a task where the error of a check is the vendor's word that moderation refused the task.

    Raises the error itself if it is another one: a failed read says nothing about the task.
    """
    if error.code is not ErrorCode.CONTENT_REJECTED:
        raise error
    return TaskStatus(TaskState.FAILED, error=GenerationError(error.code, error.message, error.details))


def webhook_report(body: bytes, *names: str, read: Callable[[Reply, str], TaskStatus]) -> WebhookReport:
    """Read a webhook that has the form of the reply to a check. It is only a hint if it does not have the whole status.

    Args:
        body: as it came.
        names: of the members that may hold the task's id.
        read: reads the status of the task of that id from a reply.

    Raises GenerationError PROVIDER_ERROR where it names no task.
    """
    found = webhook_json(body)
    task_id = next((text for name in names if (text := text_in(found, name)) is not None and is_task_id(text)), None)
    if task_id is None:
        raise GenerationError(ErrorCode.PROVIDER_ERROR, "The webhook names no task.")
    try:
        status = read(Reply(status=200, body=found, text="", request_id=None, retry_after_seconds=None), task_id)
    except GenerationError:
        return WebhookReport(task_id)
    return WebhookReport(task_id, status)
