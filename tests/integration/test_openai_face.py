"""OpenAI's own Python client works against Darkroom by a change of base URL and key."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Callable
from typing import Any, TypeVar

import aiohttp
import httpx2
import openai
import pytest
import sqlalchemy as sa
from darkroom.gateway.v1 import admin_pb2, gateway_pb2
from PIL import Image

from libs.common.errors import ErrorCode
from sandbox.demo import looked_into
from services.gateway.openai.errors import GENERATION_ID_HEADER, failed, shape_of_failure
from tests.conftest import StartStack
from tests.support.closing import in_progress
from tests.support.http import call
from tests.support.running import SUCCESS, Running
from tests.support.simulator import FAILS, REFUSES, Simulator, simulated
from tests.support.waiting import eventually

T = TypeVar("T")
_CALL_SECONDS = 50.0
pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


async def _with(running: Running, key: str, work: Callable[[openai.OpenAI], T], **options: Any) -> T:
    def whole() -> T:
        # Bounded, for the thread goes on where this is not awaited any longer.
        options.setdefault("timeout", _CALL_SECONDS)
        with openai.OpenAI(api_key=key, base_url=f"{running.gateway_url()}/v1", **options) as client:
            return work(client)

    return await asyncio.wait_for(asyncio.to_thread(whole), 60)


@pytest.fixture
async def key(running: Running) -> str:
    return (await running.new_key("acme")).key


def _body(error: openai.APIStatusError) -> dict[str, Any]:
    assert isinstance(error.body, dict)
    return error.body


def _picture() -> io.BytesIO:
    found = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(found, "PNG")
    found.seek(0)
    found.name = "red.png"
    return found


@pytest.mark.parametrize(
    ("model", "options", "kind"),
    [
        ("gpt-image-1", {"size": "1024x1024", "quality": "high", "n": 2}, "PNG"),
        ("flux-pro", {"size": "1024x768", "quality": "high", "style": "vivid"}, "JPEG"),
        ("flux-dev-fal", {"size": "auto"}, None),
        ("dall-e-3", {"extra_body": {"output_format": "png"}}, None),
    ],
)
async def test_images_of_any_provider(
    running: Running, key: str, model: str, options: dict[str, Any], kind: str | None
) -> None:
    prompt = simulated(f"openai {model}", task_seconds=0.1)
    answer = await _with(running, key, lambda client: client.images.generate(model=model, prompt=prompt, **options))
    assert answer.data is not None
    assert len(answer.data) == options.get("n", 1)
    for image in answer.data:
        assert image.url is not None
        content = base64.b64decode(image.b64_json or "")
        assert kind in (None, looked_into(content, "image").kind)
    url_only = await _with(
        running, key, lambda client: client.images.generate(model=model, prompt=prompt, response_format="url")
    )
    assert url_only.data is not None
    assert url_only.data[0].b64_json is None


async def test_edits_send_the_pictures_along(running: Running, key: str, simulator: Simulator) -> None:
    prompt = simulated("make it blue", task_seconds=0)
    answer = await _with(
        running,
        key,
        lambda client: client.images.edit(model="gpt-image-1", image=[_picture(), _picture()], prompt=prompt),
    )
    assert answer.data is not None
    assert answer.data[0].b64_json
    with pytest.raises(openai.BadRequestError) as caught:
        await _with(
            running, key, lambda c: c.images.edit(model="gpt-image-1", image=_picture(), mask=_picture(), prompt="x")
        )
    assert _body(caught.value)["param"] == "mask"
    broken = io.BytesIO(b"no picture")
    broken.name = "broken.png"
    with pytest.raises(openai.BadRequestError):
        await _with(running, key, lambda c: c.images.edit(model="gpt-image-1", image=broken, prompt="x"))


@pytest.mark.parametrize(
    ("model", "options", "shown"),
    [
        ("sora-2", {"seconds": "4", "size": "1280x720"}, ("4", "1280x720")),
        ("kling-v1-6", {"seconds": "5", "size": "1280x720"}, ("5", "16:9")),
    ],
)
async def test_videos_from_the_order_to_the_file(
    running: Running, key: str, model: Any, options: Any, shown: tuple[str, str]
) -> None:
    prompt = simulated(f"openai video {model}", task_seconds=0.3)
    video = await _with(running, key, lambda client: client.videos.create(model=model, prompt=prompt, **options))
    assert (video.object, video.model, video.status in {"queued", "in_progress"}) == ("video", model, True)
    assert video.seconds == shown[0]
    done = await _with(running, key, lambda client: client.videos.poll(video.id, poll_interval_ms=100))
    assert (done.status, done.progress) == ("completed", 100)
    content = await _with(running, key, lambda client: client.videos.download_content(video.id).read())
    assert looked_into(content, "video").kind == "MP4"
    deleted = await _with(running, key, lambda client: client.videos.delete(video.id))
    assert (deleted.id, deleted.deleted) == (video.id, True)
    with pytest.raises(openai.NotFoundError):
        await _with(running, key, lambda client: client.videos.retrieve(video.id))


async def test_a_picture_may_start_a_video_and_a_delete_stops_one(
    running: Running, key: str, simulator: Simulator
) -> None:
    prompt = simulated("openai stopped", task_seconds=30)
    video = await _with(
        running, key, lambda client: client.videos.create(model="sora-2", prompt=prompt, input_reference=_picture())
    )
    await running.reaches(video.id, gateway_pb2.GENERATION_STATUS_PROCESSING)
    with pytest.raises(openai.NotFoundError):
        await _with(running, key, lambda client: client.videos.download_content(video.id))
    await _with(running, key, lambda client: client.videos.delete(video.id))
    assert (await running.ended(video.id)).status == gateway_pb2.GENERATION_STATUS_CANCELLED


async def test_models_are_the_catalogs(running: Running, key: str) -> None:
    names = await _with(running, key, lambda client: [model.id for model in client.models.list()])
    assert {"flux-pro", "kling-v1-6", "gpt-image-1"} <= set(names)
    assert (await _with(running, key, lambda client: client.models.retrieve("flux-pro"))).owned_by == "bfl"


async def test_an_image_that_takes_too_long_is_not_lost_and_not_sent_again(
    start_stack: StartStack, simulator: Simulator
) -> None:
    running = await start_stack(settings={"DARKROOM_OPENAI_WAIT_SECONDS": "0.5"})
    prompt = simulated("openai slow", task_seconds=2)
    with pytest.raises(openai.APIStatusError) as caught:
        await _with(running, running.admin_key, lambda c: c.images.generate(model="flux-pro", prompt=prompt))
    assert caught.value.status_code == 424
    generation_id = caught.value.response.headers[GENERATION_ID_HEADER]
    assert _body(caught.value)["generation_id"] == generation_id
    assert (await running.ended(generation_id)).status == SUCCESS
    assert len(await simulator.bills(prompt)) == 1


async def test_a_retry_of_the_client_itself_joins_its_first_try(
    running: Running, key: str, simulator: Simulator
) -> None:
    prompt = simulated("openai joined", task_seconds=0.5)
    body = {"model": "flux-pro", "prompt": prompt}
    replies = [
        await call(
            running.gateway_url(), "/v1/images/generations", method="POST", key=key, json_body=body,
            headers={"x-stainless-retry-count": str(count)},
        )
        for count in range(3)
    ]  # fmt: skip
    assert {reply.status for reply in replies} == {200}
    assert len({reply.headers[GENERATION_ID_HEADER] for reply in replies}) == 1
    assert len(await simulator.bills(prompt)) == 1


async def test_a_retry_joins_a_first_try_that_is_not_committed_yet(
    running: Running, key: str, simulator: Simulator
) -> None:
    prompt = simulated("openai joined early", task_seconds=0)
    engine = sa.create_engine(running.stack.environment["DARKROOM_DATABASE_URL"], poolclass=sa.NullPool)
    before = await running.metric("gateway", "darkroom_gateway_repeats_total", reason="client_retry")

    async def has_tried_again() -> bool:
        sql = """SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
            AND query LIKE '%idempotency_keys%'"""
        with engine.connect() as looking:
            return bool(looking.execute(sa.text(sql)).scalar_one())

    async with openai.AsyncOpenAI(
        base_url=running.gateway_url() + "/v1", api_key=key, timeout=2.0, max_retries=4
    ) as client:
        with engine.connect() as blocking:
            blocking.execute(sa.text("LOCK TABLE generation_requests IN SHARE MODE"))
            async with in_progress(client.images.generate(model="flux-pro", prompt=prompt)) as making:
                await eventually(has_tried_again, within=20, what="the client has tried again")
                blocking.rollback()
                assert (await making).data
    assert await running.metric("gateway", "darkroom_gateway_repeats_total", reason="client_retry") > before
    assert len(await simulator.bills(prompt)) == 1


EXCEPTIONS: dict[ErrorCode, type[openai.APIStatusError]] = {
    ErrorCode.INVALID_REQUEST: openai.BadRequestError,
    ErrorCode.INVALID_PARAMETERS: openai.BadRequestError,
    ErrorCode.CONTENT_REJECTED: openai.BadRequestError,
}


@pytest.mark.parametrize("code", list(ErrorCode))
def test_each_failure_of_a_generation_is_an_exception_of_the_clients(code: ErrorCode) -> None:
    shape = shape_of_failure(code)
    expected = EXCEPTIONS.get(code, openai.APIStatusError)
    # Statuses that no client retries automatically.
    assert shape.status in range(400, 500)
    assert shape.status not in {408, 409, 425, 429}
    transport = httpx2.MockTransport(lambda _: httpx2.Response(shape.status, json={}))
    with (
        httpx2.Client(transport=transport) as http,
        openai.OpenAI(api_key="x", base_url="http://127.0.0.1:9", http_client=http) as client,
        pytest.raises(openai.APIStatusError) as raised,
    ):
        client.models.list()
    # The client's own table from status to exception.
    assert raised.type is expected
    answer = failed("gen_1", code, "x")
    # Another try would be another generation.
    assert answer.headers["x-should-retry"] == "false"


async def test_refusals_are_the_clients_own_exceptions(start_stack: StartStack) -> None:
    running = await start_stack()
    key = (await running.new_key("acme")).key
    poor = (await running.new_key("poor", quota=admin_pb2.ApiKeyQuota(monthly_budget_usd=0))).key
    busy = (await running.new_key("busy", quota=admin_pb2.ApiKeyQuota(requests_per_minute=1))).key

    def images(**options: Any) -> Callable[[openai.OpenAI], Any]:
        return lambda c: c.images.generate(**{"model": "flux-pro", "prompt": "x", **options})

    first = images(prompt=simulated("first", task_seconds=0))
    await _with(running, busy, first)
    cases: list[tuple[str, Callable[[openai.OpenAI], Any], type[openai.APIStatusError], str | None, str | None]] = [
        ("wrong-key-000000000000000", images(), openai.AuthenticationError, "invalid_api_key", None),
        (key, images(model="no-such"), openai.NotFoundError, "model_not_found", "model"),
        (key, images(prompt=""), openai.BadRequestError, "invalid_request", "prompt"),
        (key, images(n=11), openai.BadRequestError, "invalid_request", "n"),
        (key, images(size="7x7"), openai.BadRequestError, "invalid_parameters", "size"),
        (key, images(extra_body={"sead": 1}), openai.BadRequestError, "invalid_parameters", "sead"),
        (key, images(stream=True), openai.BadRequestError, "invalid_request", "stream"),
        (key, lambda c: c.videos.retrieve("gen_nobody"), openai.NotFoundError, "not_found", "id"),
        (poor, images(), openai.RateLimitError, "insufficient_quota", None),
        (busy, images(), openai.RateLimitError, "rate_limit_exceeded", None),
        (
            key, images(prompt=simulated("refused", task_seconds=0, faults=REFUSES)),
            openai.BadRequestError, "content_policy_violation", None,
        ),
        (
            key, images(prompt=simulated("failed", task_seconds=0, faults=FAILS)),
            openai.APIStatusError, "task_failed", None,
        ),
    ]  # fmt: skip
    wrong = []
    for given, work, kind, code, param in cases:
        try:
            await _with(running, given, work, max_retries=0)
        except openai.APIStatusError as error:
            if (type(error), error.code, error.param) != (kind, code, param):
                wrong.append(f"{type(error).__name__} {error.code} {error.param}, not {kind.__name__} {code} {param}")
        else:
            wrong.append(f"no error, not {kind.__name__}")
    assert wrong == []


async def test_a_field_of_a_form_that_is_given_twice_is_refused(running: Running, key: str) -> None:
    form = aiohttp.FormData([("model", "gpt-image-1"), ("prompt", "a"), ("prompt", "b")], default_to_multipart=True)
    form.add_field("image", _picture().read(), filename="red.png", content_type="image/png")
    reply = await call(running.gateway_url(), "/v1/images/edits", method="POST", key=key, data=form)
    assert (reply.status, reply.json["error"]["param"]) == (400, "prompt")


@pytest.mark.parametrize("path", ["/v1/models?limit=3", "/v1/models/flux-pro?x=", "/v1/videos/gen_1?a=1"])
async def test_query_parameters_that_a_route_does_not_know_are_refused(running: Running, key: str, path: str) -> None:
    reply = await call(running.gateway_url(), path, key=key)
    assert (reply.status, reply.json["error"]["type"]) == (400, "invalid_request_error")
    assert (await call(running.gateway_url(), "/v1/models?api-version=1", key=key)).status == 200
