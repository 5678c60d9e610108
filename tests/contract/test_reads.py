"""A read is not a submit: only the vendor's own word for failure ends a task, whatever a read is answered."""

from __future__ import annotations

from typing import Any

import pytest

from libs.common.adapters.base import Task
from libs.common.adapters.registry import adapters
from libs.common.database.states import TaskState
from libs.common.errors import UNREAD_REPLY_LIMIT, ErrorCode, GenerationError, NotAccepted, UnreadableReply
from tests.contract.answers import Answer, Answers, checked, over
from tests.contract.cases import ASYNCHRONOUS, CASES

COMPLETED: Answer = (200, {"status": "COMPLETED", "request_id": "t"})
RESULT: Answer = (200, {"images": [{"url": "https://a/1.png"}]})
STATUSES = [400, 401, 402, 403, 404, 405, 408, 409, 410, 418, 425, 429, 500, 502, 503, 504, 302]


def _task(name: str) -> Task:
    return Task("t", CASES[name].upstream_model, f"/{CASES[name].upstream_model}/requests/t/status", 60.0)


@pytest.mark.parametrize("name", ASYNCHRONOUS)
@pytest.mark.parametrize("status", STATUSES)
async def test_a_check_answered_with_an_error_is_an_error_of_the_read(name: str, status: int) -> None:
    with pytest.raises(GenerationError) as caught:
        await checked(name, (status, {"detail": "no", "message": "no"}))
    assert not isinstance(caught.value, NotAccepted)
    assert caught.value.code not in {ErrorCode.INVALID_REQUEST, ErrorCode.INVALID_PARAMETERS}
    assert caught.value.details["http_status"] == status
    assert caught.value.is_retryable


@pytest.mark.parametrize("status", STATUSES)
async def test_fal_result_that_cannot_be_read_once_is_read_again(status: int) -> None:
    adapter = over("fal", COMPLETED, (status, {"detail": "nope"}), COMPLETED, RESULT)
    with pytest.raises(GenerationError) as caught:
        await adapter.check_task(_task("fal"))
    assert not isinstance(caught.value, NotAccepted)
    assert (await adapter.check_task(_task("fal"))).state is TaskState.SUCCESS


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ((422, {"detail": [{"type": "value_error", "msg": "bad image"}]}), ErrorCode.TASK_FAILED),
        ((422, {"detail": "The app has failed."}), ErrorCode.TASK_FAILED),
        ((422, {"detail": [{"type": "content_policy_violation", "msg": "no"}]}), ErrorCode.CONTENT_REJECTED),
        ((400, {"detail": [{"type": "content_policy_violation", "msg": "no"}]}), ErrorCode.CONTENT_REJECTED),
    ],
)
async def test_fal_task_ends_with_the_apps_own_error(answer: Answer, code: ErrorCode) -> None:
    status = await checked("fal", COMPLETED, answer)
    assert status.state is TaskState.FAILED
    assert status.error is not None
    assert status.error.code is code


# The outputs of openai_video are at a path that its API fixes.
@pytest.mark.parametrize("name", sorted({*ASYNCHRONOUS} - {"openai_video"}))
@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("/files/1.png", "https://api.example.com/files/1.png"),
        ("/files/a/b?sig=%2F1", "https://api.example.com/files/a/b?sig=%2F1"),
        ("//cdn.example.net/1.png", "https://cdn.example.net/1.png"),
    ],
)
async def test_outputs_at_relative_urls_are_at_the_providers_host(name: str, path: str, url: str) -> None:
    outputs: dict[str, dict[str, Any]] = {
        "flux": {"result": {"sample": path}},
        "kling": {"task_result": {"videos": [{"url": path}]}},
        "kling_relay": {"task_result": {"videos": [{"url": path}]}},
        "pollo": {"generations": [{"status": "succeed", "url": path}]},
    }
    body: dict[str, Any] = {"id": "t", "task_id": "t", "taskId": "t", "status": "succeeded", "output": path}
    if name in {"kling", "kling_relay"}:
        body = {"code": 0, "data": {"task_id": "t", "task_status": "succeed", **outputs[name]}}
    body |= outputs.get(name, {})
    answers: list[Answer] = [(200, body)] if name != "fal" else [COMPLETED, (200, {"images": [{"url": path}]})]
    adapter = over(name, *answers)
    status = await adapter.check_task(_task(name))
    assert [output.url for output in adapter.absolute(status.outputs)] == [url]


@pytest.mark.parametrize("header", ["x-fal-retryable", "x-fal-needs-retry"])
async def test_fal_result_that_may_be_read_again_ends_nothing(header: str) -> None:
    detail = [{"type": "internal_server_error", "msg": "later"}]
    adapter = over("fal", COMPLETED, (422, {"detail": detail}), headers={header: "true"})
    with pytest.raises(UnreadableReply):
        await adapter.check_task(_task("fal"))


async def test_fal_status_that_is_completed_with_an_error_is_a_failure() -> None:
    body = {"status": "COMPLETED", "request_id": "t", "error": "Runner crashed", "error_type": "runner_disconnected"}
    status = await checked("fal", (200, body))
    assert status.state is TaskState.FAILED
    assert status.error is not None
    assert status.error.message == "Runner crashed"


@pytest.mark.parametrize("answer", [(422, b"<html>"), (422, {"error": "gateway"}), (200, {"seed": 1}), (200, b"")])
async def test_fal_result_of_another_shape_is_kept_and_ends_nothing(answer: Answer) -> None:
    with pytest.raises(UnreadableReply):
        await checked("fal", COMPLETED, answer)


async def test_fal_prompt_that_is_repeated_in_an_error_is_not_taken_for_moderation() -> None:
    echo = {"detail": [{"type": "missing", "msg": "field required", "input": "content_policy_violation credit"}]}
    with pytest.raises(NotAccepted) as caught:
        await over("fal", (422, echo)).submit(CASES["fal"].request("x"))
    assert caught.value.code is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("kling", (200, {"code": 1301, "message": "risk control"})),
        ("kling_relay", (400, {"code": 1300, "message": "risk control"})),
        ("openai_video", (400, {"error": {"code": "moderation_blocked", "message": "no"}})),
    ],
)
async def test_moderation_is_a_word_for_failure_in_a_check_too(name: str, answer: Answer) -> None:
    status = await checked(name, answer)
    assert status.state is TaskState.FAILED
    assert status.error is not None
    assert status.error.code is ErrorCode.CONTENT_REJECTED


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        *(("kling", (200, {"code": code, "message": "no"})) for code in (1000, 1102, 1200, 1203, 1302, 5000, 7777)),
        ("openai_video", (200, {"error": {"code": "server_error", "message": "no"}})),
        ("pollo", (200, {"code": "NOT_FOUND", "message": "no"})),
        ("pollo", (200, {"code": "INTERNAL_SERVER_ERROR", "message": "no"})),
    ],
)
async def test_errors_in_replies_with_a_good_status_end_nothing(name: str, answer: Answer) -> None:
    with pytest.raises(GenerationError) as caught:
        await checked(name, answer)
    assert not isinstance(caught.value, NotAccepted)
    assert caught.value.code not in {ErrorCode.INVALID_REQUEST, ErrorCode.INVALID_PARAMETERS}


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("flux", (200, {"id": "t", "status": "Task not found"})),
        ("flux", (404, {"detail": "Task not found"})),
        ("kling_relay", (400, {"code": "task_not_exist", "message": "task_not_exist"})),
        ("openai_video", (410, {"error": {"message": "gone"}})),
    ],
)
async def test_no_such_task_is_an_error_of_the_read_with_the_facts_of_a_404(name: str, answer: Answer) -> None:
    with pytest.raises(GenerationError) as caught:
        await checked(name, answer)
    assert caught.value.details["http_status"] in {404, 410}


@pytest.mark.parametrize("name", ASYNCHRONOUS)
@pytest.mark.parametrize(
    "body",
    [
        b"<html>busy</html>",
        b"",
        b'{"status": "comp',
        b"[]",
        b'"done"',
        b"null",
        {"hello": "world"},
        {"code": "success"},
    ],
)
async def test_check_that_cannot_be_read_is_kept_with_its_reply(name: str, body: Any) -> None:
    with pytest.raises(UnreadableReply) as caught:
        await checked(name, (200, body))
    assert caught.value.reply["http_status"] == 200
    assert caught.value.reply.keys() == {"http_status", "content_type", "size_bytes", "body"}


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize(
    "body", [b"<html>busy</html>", b"", b'{"id": "t', b"[]", {"hello": "world"}, {"code": "success"}]
)
async def test_submit_that_cannot_be_read_is_kept_with_its_reply(name: str, body: Any) -> None:
    with pytest.raises(UnreadableReply) as caught:
        await over(name, (200, body)).submit(CASES[name].request("x"))
    assert caught.value.code is ErrorCode.PROVIDER_ERROR
    assert caught.value.reply["size_bytes"] > 0 or body == b""


async def test_kept_reply_is_bounded_and_holds_neither_credentials_nor_payloads() -> None:
    secret = "my-very-own-key-0123"
    body = {
        "note": f"key {secret}, Authorization: Bearer abcdefghijklmnop, sk-abcdefghijklmnop",
        "api_key": "hunter2hunter2",
        "blob": "iVBORw0KGgo" * 500,
        "lines": "\n".join(["QUJD" * 19] * 50),
        "long": "many words " * 5_000,
        "many": list(range(100_000)),
    }
    with pytest.raises(UnreadableReply) as caught:
        await over("flux", (200, body), secrets=(secret,)).submit(CASES["flux"].request("x"))
    kept = caught.value.reply
    assert len(kept["body"]) <= UNREAD_REPLY_LIMIT
    assert not any(word in kept["body"] for word in (secret, "abcdefghijklmnop", "hunter2", "QUJDQUJD", "iVBOR"))
    assert "characters of base64" in kept["body"]
    assert kept["size_bytes"] > 500_000


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("fal", (202, {"status": "CANCELLATION_REQUESTED"})),
        ("fal", (400, {"status": "ALREADY_COMPLETED"})),
        ("replicate", (200, {"id": "t", "status": "succeeded", "output": "https://a/1.png"})),
        ("replicate", (200, {"id": "t", "status": "processing"})),
        ("replicate", (200, b"<html>")),
    ],
)
async def test_cancel_that_the_vendor_does_not_confirm_is_none(name: str, answer: Answer) -> None:
    assert await over(name, answer).cancel(_task(name)) is False


@pytest.mark.parametrize("word", ["canceled", "aborted"])
async def test_cancel_is_confirmed_by_the_state_in_its_reply(word: str) -> None:
    assert await over("replicate", (200, {"id": "t", "status": word})).cancel(_task("replicate")) is True


def test_no_cancel_deletes_a_task_with_its_outputs() -> None:
    """OpenAI documents that a video is deleted once it is completed or failed, and no cancel of a running one."""
    assert not adapters()["openai_video"].can_cancel


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("kling", (200, {"code": 5000, "message": "internal"})),
        ("tuzi_openai", (200, {"error": {"message": "upstream failed"}})),
        ("openai_video", (303, b"")),
        ("flux", (302, b"")),
    ],
)
async def test_fault_of_the_providers_own_does_not_prove_that_nothing_was_taken(name: str, answer: Answer) -> None:
    with pytest.raises(GenerationError) as caught:
        await over(name, answer).submit(CASES[name].request("x"))
    assert not isinstance(caught.value, NotAccepted)


async def test_calls_of_a_cancel_and_a_check_are_reads() -> None:
    adapter = over("replicate", (403, {"detail": "no"}))
    with pytest.raises(GenerationError) as caught:
        await adapter.cancel(_task("replicate"))
    assert not isinstance(caught.value, NotAccepted)
    assert isinstance(adapter.http, Answers)
    assert adapter.http.calls == [("POST", "/v1/predictions/t/cancel")]
