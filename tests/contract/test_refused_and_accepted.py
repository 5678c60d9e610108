"""A refusal of a submit that names its task, or that holds the images, was accepted: it is never submitted again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from libs.common.adapters.base import Completed, InputImage, ProviderOutput, Submitted
from libs.common.adapters.registry import adapters
from libs.common.errors import ErrorCode, NotAccepted, UnreadableReply
from tests.contract.answers import over
from tests.contract.cases import ASYNCHRONOUS, CASES
from tests.contract.test_paid_replies import B64, PNG

TASK_ID = "task-0001"
STATUSES = (400, 402, 409, 422, 429, 503)
ERROR = {"message": "Too many requests."}


def _named(name: str) -> dict[str, Any]:
    """The id of a task as the adapter's vendor names it."""
    return {(adapters()[name].task_id_names or ("task_id",))[0]: TASK_ID}


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("name", ASYNCHRONOUS)
async def test_task_that_a_refusal_names_is_followed(name: str, status: int) -> None:
    for body in ({**ERROR, **_named(name)}, {"error": ERROR, "data": _named(name)}):
        answer = await over(name, (status, body)).submit(CASES[name].request("x"))
        assert isinstance(answer, Submitted)
        assert answer.task_id == TASK_ID


@pytest.mark.parametrize("status", STATUSES)
async def test_refusal_of_a_synchronous_vendor_that_names_a_task_is_uncertain(status: int) -> None:
    with pytest.raises(UnreadableReply):
        await over("tuzi_openai", (status, {**ERROR, "task_id": TASK_ID})).submit(CASES["tuzi_openai"].request("x"))


@pytest.mark.parametrize("body", [ERROR, {"error": {**ERROR, "id": "error-0001"}}, {**ERROR, "task_id": ""}, [], {}])
@pytest.mark.parametrize("name", sorted(CASES))
async def test_refusal_that_names_no_task_may_be_submitted_again(name: str, body: Any) -> None:
    with pytest.raises(NotAccepted) as caught:
        await over(name, (429, body)).submit(CASES[name].request("x"))
    assert (caught.value.code, caught.value.is_retryable) == (ErrorCode.RATE_LIMITED, True)


@pytest.mark.parametrize("name", sorted({"kling", "kling_relay", "pollo", "fal", "tuzi_openai"}))
async def test_id_of_a_refusal_itself_is_no_task(name: str) -> None:
    """Of a vendor that does not call its tasks so."""
    with pytest.raises(NotAccepted):
        await over(name, (429, {**ERROR, "id": "error-0001"})).submit(CASES[name].request("x"))


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize(
    "body",
    [
        {"error": ERROR, "data": [{"b64_json": B64}]},
        {"error": ERROR, "images": [B64]},
        {"error": {**ERROR, "details": {"image": f"data:image/png;base64,{B64}"}}},
    ],
)
async def test_images_in_the_body_of_an_error_are_the_outputs(status: int, body: Any) -> None:
    answer = await over("tuzi_openai", (status, body)).submit(CASES["tuzi_openai"].request("x"))
    assert answer == Completed((ProviderOutput(content=PNG),))


@pytest.mark.parametrize("link", ["url", "documentation_url"])
async def test_link_in_the_body_of_an_error_is_no_output(link: str) -> None:
    body = {"error": {**ERROR, link: "https://docs.example.com/errors"}}
    with pytest.raises(NotAccepted):
        await over("tuzi_openai", (429, body)).submit(CASES["tuzi_openai"].request("x"))


URL = "https://delivery.example.com/1.png"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, {"error": ERROR, "images": [{"url": URL}]}),
        (200, {"error": ERROR, "data": {"images": [{"url": URL}]}}),
        (200, {"error": ERROR, "response": {"image_url": URL}}),
        (429, {"data": [{"url": URL}]}),
        (429, {"data": [{"url": "/files/0.png"}]}),
        (429, {"error": ERROR, "response": {"choices": [{"image": {"url": URL}}]}}),
        (429, {"choices": [{"message": {"content": f"![image]({URL})"}}]}),
        (429, URL.encode()),
        (400, {"data": [{"url": URL}]}),
        (400, {"error": ERROR, "output": URL}),
        (200, {"error": ERROR, "output": [URL]}),
        (200, {"error": ERROR, "data": URL}),
        (200, {"error": ERROR, "output_url": URL}),
        (200, {"error": ERROR, "result": {"images": [URL]}}),
        (200, {"error": ERROR, "url": URL}),
        (200, {"error": ERROR, "result": {"url": URL}}),
        (200, {"error": ERROR, "video": {"uri": URL}}),
        (429, {"error": ERROR, "result": {"output": {"url": URL}}}),
        (429, {"error": ERROR, "video": {"url": URL}}),
        (402, {"error": ERROR, "data": {"url": "https://provider.example.com/pay"}}),
    ],
)
async def test_error_that_names_an_output_by_its_url_is_uncertain_and_kept(status: int, body: Any) -> None:
    """What the URL leads to may be an image that is paid for, or a page about the error."""
    error = {"code": "rate_limit_exceeded"}
    body = body | {"error": error} if isinstance(body, dict) and "error" in body else body
    with pytest.raises(UnreadableReply) as caught:
        await over("tuzi_openai", (status, body)).submit(CASES["tuzi_openai"].request("x"))
    assert caught.value.reply["http_status"] == status


@pytest.mark.parametrize(
    "beside",
    [{}, {"url": "https://docs.example/errors"}, {"type": "https://docs.example/e"}, {"data": None}, {"output": ""},
     {"data": "nothing"}, {"images": []}, {"output": {"help": "https://docs.example"}}],
    ids=str,
)  # fmt: skip
async def test_error_beside_what_is_no_output_is_a_refusal(beside: dict[str, Any]) -> None:
    body = {"error": ERROR, **beside}
    with pytest.raises(NotAccepted):
        await over("tuzi_openai", (429, body)).submit(CASES["tuzi_openai"].request("x"))


@pytest.mark.parametrize("status", [400, 429])
async def test_picture_that_the_request_sent_is_no_output_of_a_refusal(status: int) -> None:
    request = replace(
        CASES["tuzi_openai"].request("x"), input_images=(InputImage(f"data:image/png;base64,{B64}", PNG, "image/png"),)
    )
    body = {"error": ERROR, "received": {"image": f"data:image/png;base64,{B64}"}}
    with pytest.raises(UnreadableReply):
        await over("tuzi_openai", (status, body)).submit(request)
