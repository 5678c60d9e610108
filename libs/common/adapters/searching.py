"""Bounded search of a task's state, reason, progress and outputs in replies without a documented structure.

Relays wrap a vendor's reply in one of their own, some of them four levels deep: `{"code": "success", "data": {"status":
"SUCCESS", "data": {"code": 0, "data": {"task_status": "succeed"}}}}`. Only a description of the task counts: the
`code: success` or `status: success` of an envelope says only that the call was answered.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from libs.common.adapters.identity import TASK_IDS, names_task
from libs.common.adapters.states import is_own, normalized, state_of
from libs.common.adapters.walking import DEPTH_LIMIT, ECHOES, NODES_LIMIT, Place, walk
from libs.common.database.states import TaskState

_TEXT_LIMIT = 500
_OUTPUTS_LIMIT = 100
_LINES_LIMIT = 50
# Names that only a description of a task has.
_OWN_STATES = ("task_status", "taskStatus", "task_state", "taskState", "job_status", "jobStatus", "video_status")
_STATES = ("status", "state")
_OWN_REASONS = (
    "task_status_msg", "taskStatusMsg", "fail_reason", "failReason", "failMsg", "fail_msg", "fail_message",
    "failure_reason", "failureReason", "failure_message", "error_message", "errorMessage", "error_msg", "errorMsg",
    "err_msg", "error", "failure", "reason",
)  # fmt: skip
_REASONS = ("message", "msg", "detail", "details", "description")
_PROGRESS = ("progress", "percent", "percentage")
_URLS = ("url", "video_url", "videoUrl", "image_url", "imageUrl", "result_url", "resultUrl", "output_url", "outputUrl",
         "download_url", "downloadUrl", "file_url", "uri")  # fmt: skip
_HOLDERS = ("task_result", "taskResult", "videos", "images", "outputs", "output", "results", "result", "video", "image",
            "files", "file", "generations", "creations", "works", "content", "metadata", "data")  # fmt: skip
_NO_STATES = ECHOES | {"error", "errors", "detail", "details", "task_result", "videos", "images", "files", "metadata"}
# Members that only a description of a task has beside its state.
_SIGNS = frozenset({*TASK_IDS, *_OWN_STATES, "id", "fail_reason", "failReason", "failMsg", "task_status_msg"})
_NO_REASON = frozenset(map(normalized, ("", "success", "succeed", "succeeded", "ok", "none", "null", "no error")))
# What some relays leave around a URL.
_AROUND = " \t\r\n\"'<>"
_URL = re.compile(r"(?:https?://|data:)\S", re.IGNORECASE)
# A file's name has an ending, and base64 has no full stop; a path of a relay's may lack one.
_PATH = re.compile(r"//?[\w.~%-]+(?:/[\w.~%-]+)+(?:\?\S{0,2000})?")


@dataclass(frozen=True, slots=True)
class Found:
    """What a reply says of a task.

    Attributes:
        state: where the task stands.
        word: the vendor's word for it.
        unknown: the word, if it is in no vocabulary: it counts as processing.
        place: where in the reply that is said.
        within: the description inside that it overrules, if there is one.
    """

    state: TaskState
    word: str
    unknown: str | None
    place: Place
    within: Place | None = None

    @property
    def innermost(self) -> Place:
        """Where the innermost description of the task is, which is the one that is overruled if there is one."""
        return self.within or self.place

    @property
    def node(self) -> Mapping[str, Any]:
        """The object that describes the task."""
        return self.place.node

    @property
    def path(self) -> tuple[Mapping[str, Any], ...]:
        """The objects from the reply's body down to `node`, both included."""
        return self.place.path


def task_in(
    body: Any, own: Mapping[str, TaskState], task_id: str | None = None, *, payloads: frozenset[str] = frozenset()
) -> Found | None:
    """Find the description of the task in a reply; None if there is none.

    The innermost description counts, since it is the vendor's. A description in a list, or in a member that does not
    wrap replies, counts only if there is no other: it describes a part of the result, or something else. Exception: if
    the relay's own description around the vendor's says that the task has ended, and the vendor's does not, the relay's
    counts, because the relay has given up the task or has its result already.

    Args:
        body: the reply's JSON.
        own: the vendor's own words for states.
        task_id: where several tasks are described, the one that counts.
        payloads: names of members with arbitrary content.
    """
    found = [one for place in walk(body, _NO_STATES | payloads) if (one := _described(place, own)) is not None]
    inner = _innermost(found, task_id)
    if inner is None or (inner.state.has_ended and inner.unknown is None):
        return inner
    around = [one for one in reversed(found) if one is not inner and any(one.node is node for node in inner.path)]
    return next((replace(one, within=inner.place) for one in around if _overrules(one)), inner)


def _innermost(found: list[Found], task_id: str | None) -> Found | None:
    """The description that counts; None if several descriptions rank equally and differ in their state."""
    named = next((one for one in found if names_task(one.node, task_id)), None)
    within = found if named is None else [one for one in found if any(named.node is node for node in one.path)]
    if not within:
        return None
    ranks = [(-one.place.asides, -one.place.lists, len(one.path)) for one in within]
    best = max(ranks)
    likely = [one for one, rank in zip(within, ranks, strict=True) if rank == best]
    return likely[0] if len({one.state for one in likely}) == 1 else None


def text_in(body: Any, *names: str) -> str | None:
    """The first text of one of these names, the outer objects first."""
    for place in walk(body):
        for name in names:
            value = place.node.get(name)
            if isinstance(value, str) and value:
                return value
    return None


def error_texts(body: Any) -> str:
    """What the body of an error says, a line for each code and message; not what it repeats of the request."""
    lines = []
    for place in walk(body, ECHOES | {"ctx"}):
        for name in (*_OWN_REASONS, *_REASONS, "title", "code", "type", "status"):
            value = place.node.get(name)
            if isinstance(value, str):
                lines.append(value[:_TEXT_LIMIT])
    return "\n".join(lines[:_LINES_LIMIT])


def reason_in(found: Found) -> str | None:
    """Why a task failed, from its own description first; at most 500 characters. None if the reply has no reason."""
    above = [*reversed(found.path)]
    below = [place.node for place in walk(found.node)]
    for names, nodes in ((_OWN_REASONS, above), (_OWN_REASONS, below), (_REASONS, above)):
        for node in nodes:
            for name in names:
                text = _reason(node.get(name))
                if text is not None:
                    return text
    return None


def error_words(found: Found) -> Iterator[str]:
    """The vendor's words for a failure: of the state, and the codes and types of the errors beside it."""
    yield found.word
    for node in reversed(found.path):
        error = node.get("error")
        for holder in (error, node) if isinstance(error, dict) else (node,):
            for name in ("code", "type", "error_code", "errorCode", "error_type"):
                word = holder.get(name)
                if isinstance(word, str):
                    yield word


def progress_in(found: Found, *, whole: float = 100.0) -> int | None:
    """The progress of a task in percent, 0 to 100, written as `30`, `"30"` or `"30%"`. `whole` as for `percent_of`."""
    for node in reversed(found.path):
        for name in _PROGRESS:
            percent = percent_of(node.get(name), whole=whole)
            if percent is not None:
                return percent
    return None


def percent_of(value: Any, *, whole: float = 100.0) -> int | None:
    """A number, or a text with one, as percent from 0 to 100; None for anything else.

    Args:
        value: what stands in a reply.
        whole: the number that denotes 100 percent.
    """
    if isinstance(value, str):
        try:
            return percent_of(float(value[:20].strip().removesuffix("%")), whole=whole)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e9 < value < 1e9 or math.isnan(value):
        return None
    return round(min(1.0, max(0.0, value / whole)) * 100)


def urls_in(found: Found) -> list[str]:
    """The outputs that a description of a task names, the innermost that names any; at most 100, each once."""
    for node in reversed(found.path):
        urls = output_urls(node)
        if urls:
            return urls
    # Old releases of one relay put the result's URL in the member for the reason of a failure.
    return [text for node in reversed(found.path) if (text := _url(node.get("fail_reason"))) is not None][:1]


def output_urls(value: Any) -> list[str]:
    """The URLs in a value under the usual names of outputs; at most 100, each once."""
    return list(dict.fromkeys(_urls(value, 0, _url)))[:_OUTPUTS_LIMIT]


def output_paths(value: Any) -> list[str]:
    """The paths, and URLs without a scheme, in a value under the usual names of outputs; at most 100, each once."""
    return list(dict.fromkeys(_urls(value, 0, path_of)))[:_OUTPUTS_LIMIT]


def paths_in(found: Found) -> list[str]:
    """The outputs that a description of a task names by paths, the innermost that names any; at most 100, each once."""
    return next((paths for node in reversed(found.path) if (paths := output_paths(node))), [])


def every_url(value: Any) -> list[str]:
    """All http(s) and data URLs in a value that may hold anything, in their order; at most 100, each once."""
    urls: dict[str, None] = {}
    waiting, looked_at = [(value, 0)], 0
    while waiting and looked_at < NODES_LIMIT and len(urls) < _OUTPUTS_LIMIT:
        inner, depth = waiting.pop()
        looked_at += 1
        found = _url(inner)
        if found is not None:
            urls[found] = None
        members = inner if isinstance(inner, list) else [*inner.values()] if isinstance(inner, dict) else []
        if depth < DEPTH_LIMIT:
            waiting += [(member, depth + 1) for member in reversed(members[:NODES_LIMIT])]
    return list(urls)


def objects_in(body: Any, name: str) -> list[Mapping[str, Any]]:
    """The objects of the first list of this name that has any, the outer lists first; empty where there is none."""
    return next((objects for _, objects in lists_in(body, name)), [])


def lists_in(body: Any, name: str) -> Iterator[tuple[Place, list[Mapping[str, Any]]]]:
    """The lists of this name that hold objects, the outer ones first: the object that has the list, and its objects."""
    for place in walk(body):
        listed = place.node.get(name)
        objects: list[Mapping[str, Any]] = []
        if isinstance(listed, list):
            objects += [entry for entry in listed[:NODES_LIMIT] if isinstance(entry, dict)]
        if objects:
            yield place, objects


def _described(place: Place, own: Mapping[str, TaskState]) -> Found | None:
    node = place.node
    for name in (*_OWN_STATES, *_STATES):
        word = node.get(name)
        if not isinstance(word, str) or not word.strip():
            continue
        state = state_of(word, own)
        is_task = name in _OWN_STATES or not _SIGNS.isdisjoint(node) or len(place.path) > 1
        if not is_task and not _is_believed(state, node, is_own=is_own(word, own)):
            # An envelope: the call was answered, or failed.
            return None
        if state is None:
            return Found(TaskState.PROCESSING, word, word[:100], place)
        return Found(state, word, None, place)
    return None


def _is_believed(state: TaskState | None, node: Mapping[str, Any], *, is_own: bool) -> bool:
    """Whether the outermost object is taken for the description of a task although it has no id of one.

    It is if its state is not final, and if it is a success that names outputs or uses the vendor's own word. A failure
    is not, since the error of a call has the same form.
    """
    if state is TaskState.SUCCESS:
        return is_own or bool(output_urls(node))
    return state is not None and not state.has_ended


def _overrules(one: Found) -> bool:
    if one.state is TaskState.SUCCESS:
        return not _SIGNS.isdisjoint(one.node) and bool(urls_in(one))
    return one.state in {TaskState.FAILED, TaskState.CANCELLED} and not _SIGNS.isdisjoint(one.node)


def _reason(value: Any, depth: int = 0) -> str | None:
    if isinstance(value, str):
        text = value.strip()
        return None if normalized(text) in _NO_REASON or _url(text) else text[:_TEXT_LIMIT]
    if isinstance(value, list) and value and depth < 3:
        return _reason(value[0], depth + 1)
    if isinstance(value, dict) and depth < 3:
        named = (value.get(name) for name in (*_REASONS, *_OWN_REASONS, "code"))
        return next((why for one in named if (why := _reason(one, depth + 1)) is not None), None)
    return None


def _url(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    text = value.strip(_AROUND)
    return text if _URL.match(text) else None


def path_of(value: Any) -> str | None:
    """A path, or a URL without its scheme, which is relative to the provider's base URL; None for any other value."""
    return value if isinstance(value, str) and _PATH.fullmatch(value) else None


def _urls(value: Any, depth: int, read: Callable[[Any], str | None]) -> Iterator[str]:
    """URLs of outputs in a value: a URL, a list, or an object that has them under one of the usual names.

    Args:
        value: what stands in a reply.
        depth: how many lists and objects are around it.
        read: returns a value that is a URL, None for any other.
    """
    if isinstance(value, str):
        url = read(value)
        if url is not None and depth:
            yield url
    elif depth > 4:
        return
    elif isinstance(value, list):
        for entry in value[:_OUTPUTS_LIMIT]:
            yield from _urls(entry, depth + 1, read)
    elif isinstance(value, dict):
        direct = [url for name in _URLS if (url := read(value.get(name))) is not None]
        if direct:
            yield direct[0]
            return
        for name in _HOLDERS:
            found_below = list(_urls(value.get(name), depth + 1, read)) if name in value else []
            if found_below:
                yield from found_below
                return
