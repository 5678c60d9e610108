"""Answers of the OpenAI face once there is a generation: each names it, whatever goes wrong."""

from __future__ import annotations

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from libs.common.errors import ErrorCode, GenerationError, NotFound, OutcomeUnknown
from services.gateway.openai.errors import GENERATION_ID_HEADER, MADE, refused
from services.gateway.openai.routes import with_openai_errors


@pytest.mark.parametrize(
    "error",
    [
        GenerationError(ErrorCode.S3_UPLOAD_FAILED, "storage is away"),
        GenerationError(ErrorCode.SERVICE_UNAVAILABLE, "the gateway is about to stop"),
        NotFound("id", "There is no generation."),
        RuntimeError("a fault of our own"),
    ],
)
@pytest.mark.parametrize("is_made", [True, False])
async def test_an_error_names_the_generation_that_exists(error: Exception, is_made: bool) -> None:
    async def fail(request: web.Request) -> web.StreamResponse:
        if is_made:
            request[MADE] = "gen_1"
        raise error

    app = web.Application()
    app.router.add_get("/", with_openai_errors(fail))
    async with TestClient(TestServer(app)) as client:
        response = await client.get("/")
        body = await response.json()
    assert response.status >= 400
    assert response.headers.get(GENERATION_ID_HEADER) == ("gen_1" if is_made else None)
    assert body["error"].get("generation_id") == ("gen_1" if is_made else None)
    if is_made:
        # Sent again, the request would make another one: most clients know no more than the status.
        assert response.headers["x-should-retry"] == "false"
        assert response.status in range(400, 500)
        assert response.status not in {408, 409, 425, 429}


@pytest.mark.parametrize(("is_retryable", "status"), [(False, 424), (True, 504)])
def test_a_create_of_unknown_outcome_is_repeated_only_with_an_idempotency_key(is_retryable: bool, status: int) -> None:
    answer = refused(OutcomeUnknown("the time was up", is_retryable=is_retryable))
    assert answer.status == status
