"""Where a task stands, in the words and wrappings of vendors and of the relays in front of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Video

from libs.common.adapters.base import Submitted
from libs.common.adapters.identity import task_id_in
from libs.common.adapters.registry import adapters
from libs.common.adapters.searching import (
    error_texts,
    every_url,
    objects_in,
    progress_in,
    reason_in,
    task_in,
    urls_in,
)
from libs.common.adapters.states import VOCABULARY, state_of
from libs.common.database.states import TaskState
from libs.common.errors import ErrorCode, UnreadableReply
from tests.contract.answers import checked, over
from tests.contract.cases import CASES

PENDING, PROCESSING, SUCCESS = TaskState.PENDING, TaskState.PROCESSING, TaskState.SUCCESS
FAILED, CANCELLED = TaskState.FAILED, TaskState.CANCELLED
VIDEO = {"videos": [{"id": "v", "url": "https://a/1.mp4", "duration": "5"}]}

WORDS = {
    PENDING: "NOT_START SUBMITTED QUEUED pending Queued waiting starting created in_queue IN_QUEUE",
    PROCESSING: "IN_PROGRESS processing running in-progress InProgress generating RUNNING TASK_STATUS_PROCESSING",
    SUCCESS: "SUCCESS succeeded succeed success completed complete Finished done READY JOB_STATE_SUCCEEDED Complete",
    FAILED: "FAILURE failed Failure error EXPIRED expired timeout content_moderated Request-Moderated rejected",
    CANCELLED: "cancelled canceled CANCELED aborted",
}


@pytest.mark.parametrize(
    ("word", "state"), [(word, state) for state, words in WORDS.items() for word in [*words.split(), words.split()[0]]]
)
@pytest.mark.parametrize("name", ["openai_video", "kling_relay", "replicate", "flux", "pollo"])
async def test_words_of_relays_are_understood_by_every_adapter(name: str, word: str, state: TaskState) -> None:
    body = {"id": "t", "task_id": "t", "status": word, "output": "https://a/1.png", "url": "https://a/1.png"}
    status = await checked(name, (200, body))
    assert (status.state, status.unknown_state) == (state, None)


@pytest.mark.parametrize("spelling", ["in progress", "IN PROGRESS", "In_Progress", "in-progress", " inProgress "])
def test_case_and_separators_do_not_matter(spelling: str) -> None:
    assert state_of(spelling) is PROCESSING


def test_the_vendors_own_words_win() -> None:
    assert state_of("Submitted", {"submitted": SUCCESS}) is SUCCESS
    assert state_of("warming up") is None


def _new_api(status: str, inner: dict[str, Any] | None, **facts: Any) -> dict[str, Any]:
    """A reply of new-api's task route. Source: TaskDto and TaskResponse in its dto/task.go."""
    task = {
        "id": 17,
        "created_at": 1,
        "task_id": "t",
        "platform": "50",
        "user_id": 1,
        "status": status,
        "fail_reason": "",
        "progress": "30%",
        "properties": {"input": "a cat whose status is failed", "status": "FAILURE"},
        "data": None if inner is None else {"code": 0, "message": "SUCCEED", "request_id": "r", "data": inner},
        **facts,
    }
    return {"code": "success", "message": "", "data": task}


@pytest.mark.parametrize(
    ("body", "state"),
    [
        (_new_api("NOT_START", None), PENDING),
        (_new_api("SUBMITTED", {"task_id": "u", "task_status": "submitted"}), PENDING),
        (_new_api("QUEUED", {"task_id": "u", "task_status": "submitted"}), PENDING),
        (_new_api("IN_PROGRESS", None), PROCESSING),
        (_new_api("IN_PROGRESS", {"task_id": "u", "task_status": "processing"}), PROCESSING),
        (_new_api("SUCCESS", {"task_id": "u", "task_status": "succeed", "task_result": VIDEO}), SUCCESS),
        (_new_api("SUCCESS", None, result_url="https://a/1.mp4"), SUCCESS),
        (_new_api("SUCCESS", {"task_status": "processing"}, result_url="https://a/1.mp4"), SUCCESS),
        (_new_api("SUCCESS", None, fail_reason="https://a/1.mp4"), SUCCESS),
        (_new_api("SUCCESS", {"task_id": "u", "task_status": "processing"}), PROCESSING),
        (_new_api("FAILURE", {"task_status": "processing"}, fail_reason="risk control"), FAILED),
        (_new_api("FAILURE", {"task_id": "u", "task_status": "failed", "task_status_msg": "risk control"}), FAILED),
        (_new_api("FAILURE", None, fail_reason="risk control"), FAILED),
        (_new_api("IN_PROGRESS", {"task_status": "failed", "task_status_msg": "risk control"}), FAILED),
    ],
)
async def test_kling_relay_reads_new_api(body: dict[str, Any], state: TaskState) -> None:
    status = await checked("kling_relay", (200, body))
    assert status.state is state
    assert [output.url for output in status.outputs] == (["https://a/1.mp4"] if state is SUCCESS else [])
    if state is FAILED:
        assert status.error is not None
        assert (status.error.code, status.error.message) == (ErrorCode.TASK_FAILED, "risk control")


@pytest.mark.parametrize(
    ("body", "state"),
    [
        ({"status": "success", "data": {"task_id": "t", "task_status": "processing"}}, PROCESSING),
        ({"status": "success", "task_id": "t", "data": {"task_status": "processing"}}, PROCESSING),
        ({"code": "success", "data": {"status": "IN_PROGRESS", "task_id": "t"}}, PROCESSING),
        ({"code": 0, "message": "SUCCEED", "data": {"task_status": "submitted"}}, PENDING),
        ({"state": "ok", "data": {"data": {"data": {"data": {"task_status": "processing"}}}}}, PROCESSING),
        ({"status": "success", "data": json.dumps({"data": {"task_status": "processing"}})}, PROCESSING),
        ({"data": [{"task_id": "s", "task_status": "failed"}, {"task_id": "t", "status": "running"}]}, PROCESSING),
        ({"task_id": "t", "status": "running", "results": [{"status": "failed"}, {"status": "done"}]}, PROCESSING),
        ({"id": "t", "status": "in_progress", "moderation": {"id": "m", "status": "failed"}}, PROCESSING),
        ({"data": {"id": "t", "status": "running", "billing": {"status": "success"}}}, PROCESSING),
        ({"code": 0, "item": {"id": "t", "status": "running"}}, PROCESSING),
        ({"task_id": "t", "status": "warming up", "error": {"status": "FAILED_PRECONDITION"}}, PROCESSING),
    ],
)
async def test_an_envelopes_word_is_not_the_tasks_state(body: dict[str, Any], state: TaskState) -> None:
    assert (await checked("kling_relay", (200, body))).state is state


@pytest.mark.parametrize(
    "body",
    [
        {"code": "success", "message": "ok"},
        {"code": "success", "data": None},
        {"status": "success", "data": {"task_id": "t"}},
        {"status": "error", "message": "busy"},
        {"status": "failed", "message": "busy", "code": "busy"},
        {"code": "success", "data": {"task_id": "t", "status": "SUCCESS"}},
        {"data": [{"task_id": "s", "status": "failed"}, {"task_id": "u", "status": "running"}]},
    ],
)
async def test_a_reply_that_does_not_describe_the_task_ends_nothing(body: dict[str, Any]) -> None:
    with pytest.raises(UnreadableReply):
        await checked("kling_relay", (200, body))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"task_id": "t", "status": "failed", "task_status_msg": "a"}, "a"),
        ({"data": {"task_status": "failed", "task_status_msg": "inner"}, "message": "outer"}, "inner"),
        ({"id": "t", "status": "failed", "error": {"code": "x", "message": "b"}}, "b"),
        ({"id": "t", "status": "failed", "error": "c"}, "c"),
        ({"id": "t", "status": "failed", "message": "SUCCEED", "failMsg": "d"}, "d"),
        ({"code": "success", "message": "ok", "data": {"status": "FAILURE", "fail_reason": "e"}}, "e"),
        ({"id": "t", "status": "failed", "data": {"failure_reason": ["f"]}}, "f"),
        ({"id": "t", "status": "EXPIRED", "message": "g"}, "g"),
        ({"id": "t", "status": "failed"}, "The provider reports: failed."),
    ],
)
async def test_the_reason_is_found_wherever_it_stands(body: dict[str, Any], why: str) -> None:
    status = await checked("kling_relay", (200, body))
    assert status.error is not None
    assert status.error.message == why


@pytest.mark.parametrize("word", ["succeeded", "SUCCESS", "success", "completed", "done"])
async def test_a_relays_word_for_a_finished_video_gives_its_content(word: str) -> None:
    status = await checked("openai_video", (200, {"id": "t", "object": "video", "status": word, "progress": "100%"}))
    (output,) = status.outputs
    assert (status.state, output.needs_credentials, status.progress) == (SUCCESS, True, 100)
    assert output.url == "https://api.example.com/v1/videos/t/content"


@pytest.mark.parametrize(
    ("status", "state"), [("queued", PENDING), ("in_progress", PROCESSING), ("completed", SUCCESS), ("failed", FAILED)]
)
async def test_videos_of_the_official_client_are_read(status: Any, state: TaskState) -> None:
    video = Video(
        id="t", object="video", created_at=1, model="sora-2", progress=40, seconds="4", size="1280x720", status=status
    )
    found = await checked("openai_video", (200, video.model_dump(mode="json")))
    assert (found.state, found.unknown_state) == (state, None)


@pytest.mark.parametrize(
    ("details", "code"),
    [("Request Moderated", ErrorCode.CONTENT_REJECTED), ({"Moderation Reasons": ["x"]}, ErrorCode.CONTENT_REJECTED)],
)
async def test_moderation_of_flux_may_give_its_details_as_a_text(details: Any, code: ErrorCode) -> None:
    status = await checked("flux", (200, {"id": "t", "status": "Request Moderated", "details": details}))
    assert status.error is not None
    assert (status.error.code, status.error.details["provider_details"]) == (code, details)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("kling_relay", {"id": "task_9", "object": "video", "task_id": "task_9"}),
        ("kling_relay", {"code": 0, "request_id": "r", "data": {"task_id": "task_9", "task_status": "submitted"}}),
        ("kling_relay", {"code": "success", "data": "task_9abc"}),
        ("flux", {"data": {"id": "task_9"}, "code": "success"}),
        ("openai_video", {"code": "success", "data": {"data": {"id": "task_9", "status": "queued"}}}),
        ("pollo", {"code": "SUCCESS", "message": "ok", "data": {"taskId": "task_9", "status": "waiting"}}),
        ("replicate", {"data": {"id": "task_9", "status": "weird"}}),
        ("fal", {"request_id": "task_9"}),
        ("fal", {"data": {"request_id": "task_9", "status_url": "https://api.example.com/x/task_9/status"}}),
    ],
)
async def test_a_submit_is_accepted_wherever_the_reply_names_the_task(name: str, body: dict[str, Any]) -> None:
    submitted = await over(name, (200, body)).submit(CASES[name].request("x"))
    assert isinstance(submitted, Submitted)
    assert submitted.task_id.startswith("task_9")


@pytest.mark.parametrize("body", [{"code": 0, "request_id": "r", "data": {}}, {"data": "ok"}, {"input": {"id": "x"}}])
async def test_what_names_no_task_is_no_id(body: dict[str, Any]) -> None:
    with pytest.raises(UnreadableReply):
        await over("kling_relay", (200, body)).submit(CASES["kling_relay"].request("x"))


_KEYS = st.sampled_from(
    ["status", "state", "task_status", "data", "result", "id", "task_id", "error", "message", "fail_reason", "code",
     "url", "videos", "output", "progress", "task_result", "results"]
)  # fmt: skip
_LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(sorted(VOCABULARY))
)
_MANY_URLS = [f"https://a/{number}.png" for number in range(120)]
_JSON = st.recursive(
    _LEAVES | st.sampled_from(['{"status": "failed"}', "https://a/1.png", "x" * 600]) | st.just(_MANY_URLS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=6),
    max_leaves=30,
)


@dataclass(frozen=True, slots=True)
class _Read:
    """What the searches find in one reply."""

    state: TaskState
    reason: str | None
    progress: int | None
    urls: list[str]


def _search(body: Any, *names: str) -> list[_Read]:
    """Run all searches over a reply. Returns what the reply says of the task, for each adapter that finds it."""
    read = []
    for name in names:
        found = task_in(body, adapters()[name].states, "t")
        if found is not None:
            read.append(_Read(found.state, reason_in(found), progress_in(found), urls_in(found)))
    task_id_in(body), error_texts(body), every_url(body), objects_in(body, "data")
    return read


@given(body=_JSON)
def test_the_search_takes_any_json(body: Any) -> None:
    for read in _search(body, *CASES):
        assert isinstance(read.state, TaskState)
        assert read.reason is None or 0 < len(read.reason) <= 500
        assert read.progress is None or 0 <= read.progress <= 100
        assert len(read.urls) <= 100


@pytest.mark.parametrize(
    "body",
    [
        {"data": [{"status": "failed", "id": str(number)} for number in range(200_000)]},
        {str(number): {"status": "processing", "data": {"x": "y" * 100}} for number in range(50_000)},
        [[["{" * 1_000] * 1_000] * 10] * 10,
        ['{"a": "' + "x" * 60_000 + '"}'] * 1_000,
    ],
)
def test_the_search_is_bounded_in_wide_replies(body: Any) -> None:
    adapters()
    began = perf_counter()
    _search(body, "kling")
    assert perf_counter() - began < 2


def test_the_search_is_bounded_in_deep_replies() -> None:
    body: Any = {"status": "failed", "id": "t"}
    for _ in range(900):
        body = {"data": [body]}
    _search(body, *CASES)
    assert task_in(body, {}) is None
