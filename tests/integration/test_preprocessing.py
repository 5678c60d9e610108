"""Images prepared by the running services: by RPC, over REST, and on their way to a provider."""

from __future__ import annotations

import asyncio
import io
from base64 import b64decode, b64encode
from typing import Any

import aiohttp
import grpc
import pytest
from darkroom.common.v1 import common_pb2
from darkroom.gateway.v1 import images_pb2
from PIL import ExifTags, Image

from bench.imaging.pictures import CORNERS, opened, photo, png_of_zeros, quarters, written
from libs.client.images import preprocess_config
from tests.support.http import call
from tests.support.running import FAILED, SUCCESS, Running
from tests.support.simulator import Simulator, simulated


def _phone_picture(width: int = 3_000, height: int = 2_000) -> bytes:
    """Lies on its side, and says where it was taken."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    return written(quarters(width, height), "JPEG", exif=exif, quality=90)


def _data_url(content: bytes) -> str:
    return f"data:image/jpeg;base64,{b64encode(content).decode()}"


async def _preprocess(running: Running, source: bytes | str, **config: Any) -> images_pb2.PreprocessImageResponse:
    given = {"content": source} if isinstance(source, bytes) else {"url": source}
    request = images_pb2.PreprocessImageRequest(config=preprocess_config(**config), **given)
    return await running.gateway.PreprocessImage(request, timeout=30)


async def test_an_image_is_prepared_and_the_report_says_how(running: Running) -> None:
    content = _phone_picture()
    answer = await _preprocess(running, content, preset="fast")
    assert (answer.format, answer.width, answer.height, answer.quality) == ("jpeg", 341, 512, 70)
    source = (answer.source.format, answer.source.width, answer.source.height, answer.source.size_bytes)
    assert source == ("jpeg", 3_000, 2_000, len(content))
    image = opened(b64decode(answer.base64))
    assert (image.size, image.getexif().get_ifd(ExifTags.IFD.GPSInfo), answer.content) == ((341, 512), {}, b"")
    said = {step.step: list(step.changes) for step in answer.steps}
    assert said["decoding"] == ["decoded at 1500x1000", "turned it upright (orientation 6)"]
    assert said["resizing"] == ["fit 2000x3000 to 341x512"]


async def test_a_url_works_without_credentials_and_is_found_again(running: Running) -> None:
    content = written(photo(640, 480, seed=3), "PNG")
    first, second = [await _preprocess(running, content) for _ in range(2)]
    assert first.url.partition("?")[0] == second.url.partition("?")[0]
    assert first.url_expires_at.ToDatetime() < second.url_expires_at.ToDatetime()
    async with aiohttp.ClientSession() as session, session.get(first.url) as reply:
        assert (reply.status, reply.content_type) == (200, "image/png")
        assert opened(await reply.read()).size == (640, 480)


@pytest.mark.parametrize("preset", ["fast", "standard", "high", "pollo-optimized", "bfl", "kling", "tuzi-video"])
async def test_presets_of_ours_of_vendors_and_of_the_catalog(running: Running, preset: str) -> None:
    answer = await _preprocess(running, _phone_picture(), preset=preset)
    sizes = {"fast": (341, 512), "standard": (683, 1024), "high": (1365, 2048), "pollo-optimized": (1920, 1080)}
    sizes |= {"bfl": (1365, 2048), "kling": (1707, 2560), "tuzi-video": (1280, 720)}
    assert (answer.width, answer.height) == sizes[preset]
    assert answer.format == ("png" if preset == "high" else "jpeg")
    if preset == "pollo-optimized":
        assert answer.size_bytes <= 5_000_000


async def test_over_rest_it_is_json(running: Running) -> None:
    config = {
        "format": "webp",
        "resize": {"maxWidth": 100},
        "compression": {"maxSizeKB": 20},
        "output": {"kind": "buffer"},
    }
    body = {"content": b64encode(_phone_picture(600, 400)).decode(), "config": config}
    path = "/api/external/images/preprocess"
    reply = await call(running.gateway_url(), path, method="POST", key=running.admin_key, json_body=body)
    assert reply.status == 200, reply.json
    assert (reply.status, reply.json["format"], reply.json["width"], reply.json["height"]) == (200, "webp", 100, 150)
    assert Image.open(io.BytesIO(b64decode(reply.json["content"]))).format == "WEBP"


@pytest.mark.parametrize(
    ("request_fields", "fields"),
    [
        pytest.param({}, ["content"], id="no image"),
        pytest.param({"content": b"text"}, ["content"], id="not an image"),
        pytest.param({"content": png_of_zeros(20_000, 4)}, ["content"], id="too wide"),
        pytest.param({"url": "ftp://x/y.png"}, ["url"], id="no such URL"),
        pytest.param({"content": b"x", "config": {"preset": "fancy"}}, ["config.preset"], id="preset"),
        pytest.param(
            {"content": b"x", "config": {"format": "bmp", "resize": {"width": 0}, "compression": {"quality": 101}}},
            ["config.format", "config.resize.width", "config.compression.quality"],
            id="all faults at once",
        ),
        pytest.param(
            {"content": b"x", "config": {"output": {"expires_in_seconds": 60}}},
            ["config.output.expires_in_seconds"],
            id="gone in a minute",
        ),
    ],
)
async def test_bad_input_is_told_by_field(running: Running, request_fields: dict[str, Any], fields: list[str]) -> None:
    config = preprocess_config(**request_fields.pop("config", {}))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running.gateway.PreprocessImage(
            images_pb2.PreprocessImageRequest(config=config, **request_fields), timeout=30
        )
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [field for field in fields if f"{field}:" not in (raised.value.details() or "")] == []


@pytest.mark.parametrize("claimed", ["png", "jpeg", "webp", "gif", "avif", "heic"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "AVIF"])
async def test_what_an_image_is_called_says_nothing(running: Running, claimed: str, kind: str) -> None:
    url = f"data:image/{claimed};base64,{b64encode(written(quarters(), kind)).decode()}"
    answer = await _preprocess(running, url, format="png", output={"kind": "buffer"})
    assert (answer.source.format, opened(answer.content).format) == (kind.lower(), "PNG")


@pytest.mark.parametrize("host", ["127.0.0.1:9", "169.254.169.254", "localhost", "[::1]", "2130706433"])
async def test_the_gateway_fetches_nothing_from_inside(running: Running, host: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="is refused") as raised:
        await _preprocess(running, f"http://{host}/x.png")
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_on_its_way_an_image_becomes_what_the_provider_needs(running: Running, simulator: Simulator) -> None:
    wants = {
        "kling-v1-6": ("JPEG", (1707, 2560)),
        "pollo-v1-6": ("JPEG", (1920, 1080)),
        "sora-2": ("JPEG", (1280, 720)),
    }
    prompts = {model: simulated(f"a phone's picture for {model}", task_seconds=0) for model in wants}
    for model, prompt in prompts.items():
        generation_id = await running.create(model, prompt, input_images=[_data_url(_phone_picture())])
        generation = await running.ended(generation_id)
        assert generation.status == SUCCESS, generation.error
        (image,) = await simulator.images(prompt)
        assert (image.format, image.size) == wants[model]
        assert not image.getexif()
        # Upright, what lay at the bottom left is at the top left.
        top_left = image.getpixel((image.width // 4, image.height // 4))
        assert isinstance(top_left, tuple)
        assert max(abs(a - b) for a, b in zip(top_left, CORNERS[2], strict=True)) < 12


async def test_a_request_may_ask_for_less(running: Running, simulator: Simulator) -> None:
    prompt = simulated("a small one", task_seconds=0)
    wish = preprocess_config(format="png", resize={"width": 400, "height": 400, "mode": "cover", "focal_y": 0.0})
    images = [_data_url(_phone_picture())]
    generation = await running.ended(await running.create("kling-v1-6", prompt, input_images=images, preprocess=wish))
    assert generation.status == SUCCESS, generation.error
    (image,) = await simulator.images(prompt)
    assert (image.format, image.size) == ("PNG", (400, 400))


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"output": {"kind": "url"}}, "preprocess.output"),
        ({"format": "webp"}, "preprocess.format"),
        ({"resize": {"width": 5_000}}, "preprocess.resize.width"),
        ({"compression": {"max_size_kb": 20_000}}, "preprocess.compression.max_size_kb"),
        ({"preset": "none"}, "preprocess.preset"),
        ({"resize": {"mode": "sideways"}}, "preprocess.resize.mode"),
    ],
)
async def test_a_request_may_not_ask_for_more(running: Running, config: dict[str, Any], field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running.create("kling-v1-6", "x", preprocess=preprocess_config(**config))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"{field}:" in (raised.value.details() or "")


async def test_an_image_that_cannot_be_taken_fails_with_its_index_and_costs_nothing(
    running: Running, simulator: Simulator
) -> None:
    prompt = simulated("broken", task_seconds=0)
    broken = written(photo(400, 300), "JPEG")[:5_000]
    images = [_data_url(content) for content in (_phone_picture(600, 400), broken)]
    generation = await running.ended(await running.create("gpt-image-1", prompt, input_images=images))
    assert (generation.status, generation.attempts) == (FAILED, 0)
    assert generation.error.code == common_pb2.ERROR_CODE_INVALID_REQUEST
    assert generation.error.message == "input_images[1]: The image ends before its pixels do"
    assert await simulator.bills(prompt) == []


async def test_too_many_at_once_are_told_to_wait(running: Running) -> None:
    content = written(photo(1_200, 900), "PNG")
    client = await running.client("crowd")
    request = images_pb2.PreprocessImageRequest(
        content=content, config=preprocess_config(format="webp", output={"kind": "buffer"})
    )

    async def one(number: int) -> str:
        request.config.compression.quality = 50 + number
        own = images_pb2.PreprocessImageRequest()
        own.CopyFrom(request)
        try:
            await client.PreprocessImage(own, timeout=60)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"

    outcomes = await asyncio.gather(*(one(number) for number in range(24)))
    assert set(outcomes) == {"OK", "RESOURCE_EXHAUSTED"}
    assert outcomes.count("RESOURCE_EXHAUSTED") <= 8, "one owner has half of 32 places"
