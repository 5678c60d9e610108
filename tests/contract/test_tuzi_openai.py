"""TuziOpenAI against the wire format of OpenAI's image endpoint."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from libs.common.adapters.accounts import Accounts
from libs.common.adapters.base import SubmitRequest
from libs.common.adapters.http import Reply
from libs.common.adapters.tuzi_openai import TuziOpenAI, TuziOpenAIParameters
from libs.common.errors import ErrorCode, NotAccepted
from tests.contract.conftest import adapter
from tests.support.simulator import Simulator, simulated


@pytest.fixture
async def tuzi(accounts: Accounts, simulator: Simulator) -> TuziOpenAI:
    found = adapter(accounts, "tuzi")
    assert isinstance(found, TuziOpenAI)
    return found


def _request(prompt: str, *, model: str = "gpt-image-1", outputs: int = 1, **parameters: object) -> SubmitRequest:
    return SubmitRequest("sub_1", model, prompt, (), outputs, TuziOpenAIParameters.model_validate(parameters))


async def test_base64_becomes_bytes_of_an_image(tuzi: TuziOpenAI, simulator: Simulator) -> None:
    prompt = simulated("x", task_seconds=0)
    completed = await tuzi.submit(_request(prompt, outputs=3))
    assert len(completed.outputs) == 3
    for output in completed.outputs:
        assert output.content is not None
        assert Image.open(io.BytesIO(output.content)).format == "PNG"
    assert [bill["outputs"] for bill in await simulator.bills(prompt)] == [3]


async def test_a_url_stays_a_url(tuzi: TuziOpenAI) -> None:
    completed = await tuzi.submit(_request(simulated("x", task_seconds=0), model="dall-e-3", style="natural"))
    assert completed.outputs[0].url is not None
    assert completed.outputs[0].url.startswith("http")


@pytest.mark.parametrize(
    ("model", "size"), [("gpt-image-1", "16:9"), ("gpt-image-1", "3:4"), ("dall-e-3", "9:16"), ("dall-e-3", "1:1")]
)
async def test_a_ratio_becomes_a_size_that_the_model_takes(tuzi: TuziOpenAI, model: str, size: str) -> None:
    completed = await tuzi.submit(_request(simulated("x", task_seconds=0), model=model, size_or_ratio=size))
    assert completed.outputs


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("moderated", ErrorCode.CONTENT_REJECTED),
        ("error_in_ok", ErrorCode.QUOTA_EXCEEDED),
    ],
)
async def test_refusals_in_the_vendors_own_words(
    tuzi: TuziOpenAI, simulator: Simulator, kind: str, code: ErrorCode
) -> None:
    prompt = simulated("x", task_seconds=0, faults=[{"operation": "submit", "kind": kind}])
    with pytest.raises(NotAccepted) as caught:
        await tuzi.submit(_request(prompt))
    assert caught.value.code is code
    assert await simulator.bills(prompt) == []


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (401, {"error": {"code": "invalid_api_key", "message": "no"}}, ErrorCode.AUTHENTICATION_FAILED),
        (429, {"error": {"code": "insufficient_quota", "message": "no"}}, ErrorCode.QUOTA_EXCEEDED),
        (429, {"error": {"type": "rate_limit_exceeded", "code": None}}, ErrorCode.RATE_LIMITED),
        (400, {"error": {"code": "moderation_blocked"}}, ErrorCode.CONTENT_REJECTED),
        (200, {"error": {"message": "该令牌额度已用尽"}}, ErrorCode.QUOTA_EXCEEDED),
        (200, {"error": {"message": "upstream failed"}}, ErrorCode.PROVIDER_ERROR),
        (200, {"data": [{"b64_json": "eA=="}]}, None),
        (500, {"error": {"message": "?"}}, None),
        (502, None, None),
        (400, ["error"], None),
        (400, {"error": "words"}, None),
    ],
)
def test_the_vendors_own_codes_come_before_the_status(status: int, body: object, code: ErrorCode | None) -> None:
    reply = Reply(status=status, body=body, text=str(body), request_id=None, retry_after_seconds=None)
    assert TuziOpenAI.refine(reply) is code
