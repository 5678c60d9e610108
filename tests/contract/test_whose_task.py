"""A reply to a check counts for the task that was asked for alone; one to a lookup for a task of our own alone."""

from __future__ import annotations

from typing import Any

import pytest

from libs.common.adapters.base import Submitted, Task
from libs.common.adapters.registry import adapters
from libs.common.database.states import TaskState
from libs.common.errors import ErrorCode, GenerationError, UnreadableReply
from tests.contract.answers import Answer, checked, over
from tests.contract.cases import ASYNCHRONOUS, CASES

URL = "https://a/1.png"
SUCCESS, FAILED, PROCESSING = TaskState.SUCCESS, TaskState.FAILED, TaskState.PROCESSING
OURS = "sub_01jdq2v8x4"
# By adapter: its own description of a task, in its vendor's form.
FORMS: dict[str, Any] = {
    "flux": lambda task_id, word: {"id": task_id, "status": word, "result": {"sample": URL}},
    "kling": lambda task_id, word: {
        "code": 0,
        "request_id": "a call",
        "data": {"task_id": task_id, "task_status": word, "task_result": {"videos": [{"id": "v", "url": URL}]}},
    },
    "kling_relay": lambda task_id, word: {
        "code": "success",
        "data": {"id": 17, "task_id": task_id, "status": word, "data": {"data": {"task_id": "inner", "url": URL}}},
    },
    "pollo": lambda task_id, word: {
        "code": "SUCCESS",
        "data": {"taskId": task_id, "generations": [{"id": "g", "status": word, "url": URL}]},
    },
    "replicate": lambda task_id, word: {"id": task_id, "version": "v", "status": word, "output": [URL]},
    "fal": lambda task_id, word: {
        "request_id": task_id,
        **({"status": "COMPLETED", "error": "boom"} if word == "failed" else {"status": word}),
    },
    "openai_video": lambda task_id, word: {"id": task_id, "object": "video", "status": word},
}
# Whose ids are not trusted to be ours, except where a reply ends the task without a result.
UNTRUSTED = [name for name in ASYNCHRONOUS if not adapters()[name].repeats_task_id]
TRUSTED = [name for name in ASYNCHRONOUS if name not in UNTRUSTED]

FAILURES: dict[str, Any] = {
    "an error of the relay's with an id": {"id": "req_8f7", "status": "error", "message": "internal error, try again"},
    "another task": {"id": "other", "status": "failed", "error": "boom"},
    "a number": {"id": 4711, "status": "failed"},
    "another task in an envelope": {"data": {"id": "other", "status": "failed"}},
    "another task in an envelope with an id": {"id": "req_1", "data": {"task_id": "other", "status": "failed"}},
    "a bare list of another": [{"id": "x1", "status": "failed"}],
    "a bare list of many": [{"id": "x1", "status": "failed"}, {"id": "x2", "status": "failed"}],
    "a bare list of nobody's": [{"status": "failed", "message": "x"}],
    "a list in an envelope": {"data": [{"id": "x1", "status": "failed"}]},
    "a cancelled task": {"id": "other", "status": "cancelled"},
    "an overruled description": {"id": "other", "status": "FAILURE", "data": {"id": "u", "status": "processing"}},
    "a text with JSON": {"data": '{"id": "other", "status": "failed"}'},
}


def test_every_asynchronous_adapter_has_its_form() -> None:
    assert sorted(FORMS) == sorted(ASYNCHRONOUS)


@pytest.mark.parametrize("name", ASYNCHRONOUS)
@pytest.mark.parametrize("case", sorted(FAILURES))
async def test_failure_of_another_task_ends_nothing(name: str, case: str) -> None:
    with pytest.raises(UnreadableReply) as caught:
        await checked(name, (200, FAILURES[case]))
    assert caught.value.reply["http_status"] == 200


@pytest.mark.parametrize("name", ASYNCHRONOUS)
async def test_failure_of_another_task_in_the_vendors_form_ends_nothing(name: str) -> None:
    with pytest.raises(UnreadableReply):
        await checked(name, (200, FORMS[name]("other", "failed")))
    assert (await checked(name, (200, FORMS[name]("t", "failed")))).state is FAILED


@pytest.mark.parametrize("name", TRUSTED)
@pytest.mark.parametrize("word", ["COMPLETED", "processing"])
async def test_result_of_another_task_is_not_taken(name: str, word: str) -> None:
    with pytest.raises(UnreadableReply):
        await checked(name, (200, FORMS[name]("other", word)), (200, {"images": [{"url": URL}]}))
    ours = await checked(name, (200, FORMS[name]("t", word)), (200, {"images": [{"url": URL}]}))
    assert ours.state is (PROCESSING if word == "processing" else SUCCESS)


@pytest.mark.parametrize("name", TRUSTED)
@pytest.mark.parametrize(
    "body",
    [
        {"id": "OTHER", "status": "succeeded", "output": [URL], "url": URL},
        [{"id": "OTHER", "status": "succeeded", "output": [URL], "url": URL}],
        [{"status": "succeeded", "output": [URL], "url": URL}],
    ],
)
async def test_file_of_another_task_is_not_delivered(name: str, body: Any) -> None:
    with pytest.raises(UnreadableReply):
        await checked(name, (200, body), (200, {"images": [{"url": URL}]}))


@pytest.mark.parametrize("name", ASYNCHRONOUS)
async def test_entry_of_a_list_that_has_our_id_counts(name: str) -> None:
    body = [{"id": "x1", "status": "failed"}, {"id": "t", "status": "running"}, {"id": "x2", "status": "failed"}]
    assert (await checked(name, (200, body))).state is PROCESSING


@pytest.mark.parametrize("name", ASYNCHRONOUS)
@pytest.mark.parametrize(
    ("body", "state"),
    [
        ({"data": {"status": "processing"}}, PROCESSING),
        ({"code": 0, "data": {"status": "failed"}}, FAILED),
        ({"id": None, "task_id": "", "data": {"status": "failed"}}, FAILED),
        ({"data": [{"status": "processing"}]}, PROCESSING),
        ({"id": "t", "data": {"id": "inner", "status": "processing"}}, PROCESSING),
        ({"id": "t", "data": {"id": "inner", "status": "failed"}}, FAILED),
        ({"id": "req_1", "data": {"id": "t", "status": "failed"}}, FAILED),
        ({"id": "t", "data": [{"id": "inner", "status": "processing"}]}, PROCESSING),
    ],
)
async def test_reply_without_ids_and_one_with_ours_around_are_taken(name: str, body: Any, state: TaskState) -> None:
    assert (await checked(name, (200, body))).state is state


async def test_task_whose_id_is_a_number_is_recognized() -> None:
    assert (await checked("flux", (200, {"id": 4711, "status": "failed"}), task_id="4711")).state is FAILED


@pytest.mark.parametrize("name", UNTRUSTED)
@pytest.mark.parametrize("word", ["processing", "succeed"])
async def test_relay_that_answers_with_the_vendors_id_is_read(name: str, word: str) -> None:
    inner = {"task_id": "inner", "task_status": word, "task_result": {"videos": [{"url": URL}]}}
    assert (await checked(name, (200, {"code": 0, "data": inner}))).state.has_ended is (word == "succeed")
    with pytest.raises(UnreadableReply):
        await checked(name, (200, [inner]))


def test_only_relays_are_not_trusted_to_repeat_our_id() -> None:
    assert UNTRUSTED == ["kling_relay"]


async def test_word_for_a_missing_task_is_that_of_the_task_that_was_asked_for() -> None:
    with pytest.raises(UnreadableReply):
        await checked("flux", (200, {"id": "other", "status": "Task not found"}))


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("kling", (200, {"code": 1301, "message": "risk control", "data": {"task_id": "other"}})),
        ("kling_relay", (400, {"code": 1300, "message": "risk control", "task_id": "other"})),
        ("openai_video", (400, {"id": "other", "error": {"code": "moderation_blocked", "message": "no"}})),
    ],
)
async def test_moderation_of_another_task_ends_nothing(name: str, answer: Answer) -> None:
    with pytest.raises(UnreadableReply):
        await checked(name, answer)


@pytest.mark.parametrize(
    "answer",
    [
        (422, {"detail": "The app has failed.", "request_id": "other"}),
        (200, {"request_id": "other", "status": "OK", "images": [{"url": URL}]}),
    ],
)
async def test_fal_response_about_another_request_ends_nothing(answer: Answer) -> None:
    with pytest.raises(UnreadableReply):
        await checked("fal", (200, FORMS["fal"]("t", "COMPLETED")), answer)


@pytest.mark.parametrize(
    "result",
    [
        {"id": "of the app", "images": [{"url": URL}]},
        {"request_id": "t", "status": "OK", "images": [{"url": URL}]},
        {"request_id": "of the app's own vendor", "images": [{"url": URL}]},
    ],
)
async def test_fal_result_with_ids_of_the_app_is_taken(result: dict[str, Any]) -> None:
    status = await checked("fal", (200, FORMS["fal"]("t", "COMPLETED")), (200, result))
    assert [output.url for output in status.outputs] == [URL]


async def test_fal_request_that_was_repeated_is_known_by_either_id() -> None:
    body = {"request_id": "second", "gateway_request_id": "t", "status": "IN_PROGRESS"}
    assert (await checked("fal", (200, body))).state is PROCESSING


async def test_cancel_of_another_task_confirms_nothing() -> None:
    task = Task("t", CASES["replicate"].upstream_model, None, 60.0)
    assert await over("replicate", (200, {"id": "other", "status": "canceled"})).cancel(task) is False


@pytest.mark.parametrize("name", [name for name in ASYNCHRONOUS if adapters()[name].can_list])
async def test_tasks_of_others_in_a_list_are_left_out(name: str) -> None:
    entries = [FORMS[name](task_id, "failed") for task_id in ("other", "t")]
    entries = [entry.get("data", entry) for entry in entries]
    found = await over(name, (200, {"data": entries, "results": entries})).check_tasks([Task("t", "m", None, 60.0)])
    assert {task_id: status.state for task_id, status in found.items()} == {"t": FAILED}


def _task(task_id: Any, **info: Any) -> dict[str, Any]:
    return {"task_id": task_id, "task_status": "processing", **info}


LIES: dict[str, Any] = {
    "tasks of others": {"code": 0, "data": [_task("other111111"), _task("other2222")]},
    "tasks of others that name them": {"data": [_task("a", task_info={"external_task_id": "sub_other"})]},
    "a task of another": {"code": 0, "data": _task("zzz", task_info={"external_task_id": "sub_someone_else"})},
    "a task of another, flat": {"code": 0, "data": _task("zzz", external_task_id="sub_someone_else")},
    "a task of nobody": {"code": 0, "data": _task("zzz", task_info={"external_task_id": None})},
    "an envelope that names another": {"external_task_id": "sub_other", "data": _task("zzz")},
    "an id of the envelope": {"code": 0, "id": "envelope-1234", "data": None},
    "a task id of the envelope": {"code": 0, "task_id": "envelope-1234", "data": {}},
    "no task": {"code": 0, "message": "SUCCEED", "request_id": "req-777", "data": {}},
    "an id without a task": {"code": 0, "data": "envelope-1234"},
    "ids of files": {"code": 0, "data": {"task_status": "succeed", "videos": [{"id": "v"}]}},
    "two tasks of ours": {"data": [_task(one, task_info={"external_task_id": OURS}) for one in ("a", "b")]},
    "no list": {"code": 0, "data": []},
    "a list alone": [_task("other")],
    "no JSON": b"<html>",
}
FINDERS = [name for name in CASES if adapters()[name].can_find_task]


@pytest.mark.parametrize("name", FINDERS)
@pytest.mark.parametrize("case", sorted(LIES))
async def test_lookup_that_shows_no_task_of_ours_is_unanswered(name: str, case: str) -> None:
    with pytest.raises(UnreadableReply):
        await over(name, (200, LIES[case])).find_task(OURS)


@pytest.mark.parametrize("name", FINDERS)
@pytest.mark.parametrize(
    "data",
    [
        _task("ours", task_info={"external_task_id": OURS}),
        _task("ours", external_task_id=OURS),
        _task("ours"),
        [_task("a", task_info={"external_task_id": "b"}), _task("ours", task_info={"external_task_id": OURS})],
    ],
)
async def test_lookup_that_shows_our_task_finds_it(name: str, data: Any) -> None:
    found = await over(name, (200, {"code": 0, "id": "envelope-1234", "data": data})).find_task(OURS)
    assert isinstance(found, Submitted)
    assert found.task_id == "ours"
    assert (found.check_url or "").endswith("/ours")


@pytest.mark.parametrize("name", FINDERS)
@pytest.mark.parametrize(
    "answer",
    [
        (404, {"code": 1202, "message": "no such task"}),
        (404, {"code": 1203, "message": "no such task"}),
        (404, {"message": "task_not_exist"}),
        (400, {"code": 1201, "message": "Task not found"}),
    ],
)
async def test_only_the_vendors_word_that_there_is_no_task_is_an_answer(name: str, answer: Answer) -> None:
    assert await over(name, answer).find_task(OURS) is None


@pytest.mark.parametrize("name", FINDERS)
@pytest.mark.parametrize(
    "answer",
    [(404, b"<html>nginx"), (404, {"code": 0}), (404, b""), (200, {"code": 1203, "message": "no"}), (500, {})],
)
async def test_error_of_anything_else_is_no_answer_to_a_lookup(name: str, answer: Answer) -> None:
    with pytest.raises(GenerationError) as caught:
        await over(name, answer).find_task(OURS)
    assert caught.value.code is ErrorCode.PROVIDER_ERROR
