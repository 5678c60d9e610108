"""What is Kling's alone; test_every_adapter.py holds what every adapter must do."""

from __future__ import annotations

from typing import Any

import jwt
import pytest

from libs.common.adapters.http import Reply, code_of_status
from libs.common.adapters.kling import Kling
from libs.common.database.states import TaskState
from libs.common.errors import ErrorCode
from tests.contract.answers import checked


def _reply(status: int, body: object) -> Reply:
    return Reply(status=status, body=body, text=str(body), request_id=None, retry_after_seconds=None)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        *((401, code, ErrorCode.AUTHENTICATION_FAILED) for code in range(1000, 1005)),
        *((429, code, ErrorCode.QUOTA_EXCEEDED) for code in (1100, 1101, 1102)),
        (403, 1103, ErrorCode.AUTHENTICATION_FAILED),
        *((400, code, ErrorCode.INVALID_REQUEST) for code in (1200, 1201)),
        *((404, code, ErrorCode.INVALID_REQUEST) for code in (1202, 1203)),
        *((400, code, ErrorCode.CONTENT_REJECTED) for code in (1300, 1301)),
        *((429, code, ErrorCode.RATE_LIMITED) for code in (1302, 1303)),
        (403, 1304, ErrorCode.AUTHENTICATION_FAILED),
        (500, 5000, ErrorCode.PROVIDER_ERROR),
        (503, 5001, ErrorCode.PROVIDER_UNAVAILABLE),
        (504, 5002, ErrorCode.PROVIDER_TIMEOUT),
        (200, 1301, ErrorCode.CONTENT_REJECTED),
        (200, 7777, ErrorCode.PROVIDER_ERROR),
        (418, 7777, ErrorCode.INVALID_REQUEST),
    ],
)
def test_the_vendors_codes(status: int, code: int, expected: ErrorCode) -> None:
    found = Kling.refine(_reply(status, {"code": code, "message": "no"}))
    assert (found or code_of_status(status)) is expected


@pytest.mark.parametrize("body", [{"code": 0}, {"code": 200}, {"code": "x"}, {}, [], None])
def test_a_good_reply_has_no_code(body: object) -> None:
    assert Kling.refine(_reply(200, body)) is None


def test_the_token_is_signed_short_lived_and_kept_for_a_while() -> None:
    credentials = {"access_key": "ak", "secret_key": "a secret key of thirty-two bytes or more"}
    (token,) = (value.removeprefix("Bearer ") for value in Kling.headers(credentials).values())
    claims = jwt.decode(token, credentials["secret_key"], algorithms=["HS256"])
    assert claims["iss"] == "ak"
    assert 1_500 <= claims["exp"] - claims["nbf"] <= 1_805
    assert Kling.headers(credentials).keys() == {"authorization"}


VIDEO: dict[str, Any] = {"task_result": {"videos": [{"id": "1", "url": "https://a/1.mp4", "duration": "5"}]}}


@pytest.mark.parametrize(
    "body",
    [
        {"code": 0, "data": {"task_id": "t", "task_status": "succeed", **VIDEO}},
        {"task_id": "t", "status": "completed", "data": VIDEO},
        {"data": {"data": {"task_status": "success", **VIDEO}}},
        {"status": "finished", "url": "https://a/1.mp4"},
        {"data": {"status": "succeeded", "video_url": "https://a/1.mp4"}},
    ],
)
async def test_a_result_is_found_wherever_relays_put_it(body: dict[str, Any]) -> None:
    status = await checked("kling", (200, body))
    assert (status.state, [output.url for output in status.outputs]) == (TaskState.SUCCESS, ["https://a/1.mp4"])
