"""The vocabulary of task states that all adapters share. Case and separators are ignored.

Vendors and relays use many words for few states: `SUCCESS`, `succeed`, `Completed`, `in progress`, `IN_PROGRESS`. An
adapter adds the words that only its vendor uses; they take precedence.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache

from libs.common.database.states import TaskState

_PENDING = """
    pending queued queue queueing queuing in_queue enqueued waiting wait submitted submit accepted received created new
    not_start not_started scheduled starting initializing initialising initialized preparing throttled booting staged
    排队中 等待中 已提交
"""
_PROCESSING = """
    processing process in_process running run in_progress progress progressing generating rendering working started
    executing active ongoing uploading downloading sampling encoding transcoding postprocessing post_processing
    finalizing dreaming streaming retrying doing paused suspended cancelling canceling cancel_requested
    cancellation_requested stopping aborting 处理中 生成中 进行中 运行中
"""
_SUCCESS = """
    success successful succeed succeeded succeeds completed complete completion finished finish done ready generated
    available partial_success partially_succeeded partially_completed 成功 已完成 完成
"""
_FAILED = """
    failed fail failure error errored exception expired timeout timed_out rejected refused denied invalid crashed
    unsuccessful 失败 已失败 超时
"""
_CANCELLED = "cancelled canceled cancel aborted abort stopped terminated revoked killed 已取消"
_MODERATED = """
    moderated request_moderated content_moderated moderation_blocked moderation_failed content_policy_violation
    content_policy content_filter content_filtered content_rejected content_violation policy_violation nsfw flagged
    blocked sensitive unsafe risk_control prohibited_content
"""
_MISSING = "task_not_found task_not_exist task_not_exists not_found not_exist no_such_task no_such_video"
_SEPARATORS = re.compile(r"[\W_]+")
# Prefixes of enumeration values: TASK_STATUS_SUCCEEDED, JOB_STATE_RUNNING.
_PREFIX = re.compile(r"^(?:task|job|generation|video|image|prediction|operation)?(?:status|state)(?=.)")
_LONGEST = 64


def normalized(word: str) -> str:
    """The form in which words are compared: lower case, without spaces, hyphens, underscores or other separators."""
    return _normalized(word[:_LONGEST])


@lru_cache(maxsize=4_096)
def _normalized(word: str) -> str:
    return _SEPARATORS.sub("", unicodedata.normalize("NFKC", word).casefold())


def _words(text: str) -> frozenset[str]:
    return frozenset(normalized(word) for word in text.split())


MODERATED = _words(_MODERATED)
"""Normalized words by which vendors say that moderation refused a task or its result."""
MISSING = _words(_MISSING)
"""Normalized words by which vendors say that they have no such task."""
VOCABULARY: Mapping[str, TaskState] = {
    **dict.fromkeys(_words(_PENDING), TaskState.PENDING),
    **dict.fromkeys(_words(_PROCESSING), TaskState.PROCESSING),
    **dict.fromkeys(_words(_SUCCESS), TaskState.SUCCESS),
    **dict.fromkeys(_words(_FAILED) | MODERATED, TaskState.FAILED),
    **dict.fromkeys(_words(_CANCELLED), TaskState.CANCELLED),
}
"""The state for each normalized word that vendors and relays have in common."""


def state_of(word: str, own: Mapping[str, TaskState] | None = None) -> TaskState | None:
    """The state for a word; None for an unknown one.

    Args:
        word: as the vendor wrote it.
        own: the vendor's own words, which win over the shared vocabulary.
    """
    found = normalized(word)
    for candidate in (found, _PREFIX.sub("", found)):
        for known, state in (own or {}).items():
            if normalized(known) == candidate:
                return state
        if candidate in VOCABULARY:
            return VOCABULARY[candidate]
    return None


def is_own(word: str, own: Mapping[str, TaskState]) -> bool:
    """Whether a word is one of the vendor's own."""
    return normalized(word) in map(normalized, own)


def is_moderation(word: str) -> bool:
    """Whether a word for a state, or an error's code, says that moderation refused the task."""
    return normalized(word) in MODERATED


def is_missing(word: str) -> bool:
    """Whether a word for a state, or an error's code, says that the vendor has no such task."""
    return normalized(word) in MISSING
