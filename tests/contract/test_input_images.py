"""Input images on their way to each vendor: handed in, or made by another request of the same batch."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from bench.imaging.pictures import opened, quarters, written
from libs.common.adapters.accounts import Accounts
from libs.common.adapters.base import InputImage
from libs.common.database.engine import Database
from libs.common.database.records import ImageFrom, Json, MadeImage
from libs.common.database.stores.prepared_images import PreparedImageStore
from libs.common.errors import ErrorCode, GenerationError, InvalidRequest
from libs.common.imaging.faults import ImageFault
from libs.common.imaging.sizes import Size
from libs.common.preprocessing.fetching import Fetcher
from libs.common.preprocessing.keeping import Keeper
from libs.common.preprocessing.plans import ImagePlan, plan
from libs.common.preprocessing.preparing import Preparer
from libs.common.settings import Settings
from libs.common.storage.download import from_bytes
from libs.common.storage.objects import ObjectStore
from services.dispatcher.inputs import IN_REQUEST_BYTES, InputImages, all_of
from services.dispatcher.outcomes import Job
from tests.contract.conftest import adapter
from tests.support.catalogs import MODEL
from tests.support.closing import closing
from tests.support.http import serving
from tests.unit.test_outcomes import CLAIMED

KEY = "made/0.png"
CONTENT = written(quarters(640, 480), "PNG")


def _data_url(content: bytes) -> str:
    return f"data:image/png;base64,{b64encode(content).decode()}"


URL = _data_url(CONTENT)


@asynccontextmanager
async def _inputs(settings: Settings, database: Database, **changes: Any) -> AsyncIterator[InputImages]:
    settings = settings.model_copy(update=changes)
    async with (
        closing(ObjectStore(settings)) as objects,
        closing(Fetcher.from_settings(settings)) as fetcher,
        closing(Preparer.from_settings(settings)) as preparer,
    ):
        await objects.make_bucket()
        with from_bytes(CONTENT, "image", limit_bytes=10**8) as media:
            await objects.put(KEY, media)
        yield InputImages(fetcher, preparer, Keeper(PreparedImageStore(database), objects), objects, settings)


@pytest.fixture
async def inputs(settings: Settings, database: Database) -> AsyncIterator[InputImages]:
    async with _inputs(settings, database) as found:
        yield found


@pytest.fixture
def job(accounts: Accounts) -> Callable[..., Job]:
    """A job for a provider; with `wish` its images are prepared, without they go as they come."""

    def make(provider_id: str, *made: Json | None, wish: Json | None = None, **claimed: Any) -> Job:
        found = adapter(accounts, provider_id)
        catalog = accounts.catalog.current
        provider = catalog.providers[provider_id]
        model = next(model for model in catalog.models.values() if model.provider == provider_id)
        needs = catalog.image_needs(model, catalog.parameters(model, {}))
        assert needs is not None
        images = None if wish is None else plan(needs, wish, catalog.presets)
        declared = tuple(ImageFrom("maker", number) for number in range(len(made)))
        images_made = tuple(MadeImage("maker", number, output) for number, output in enumerate(made))
        claimed = {"images_from": declared, "made_images": images_made, **claimed}
        return Job(replace(CLAIMED, **claimed), MODEL, provider, found, images=images)

    return make


def _output(size_bytes: int = len(CONTENT)) -> Json:
    return {"type": "image", "object_key": KEY, "content_type": "image/png", "size_bytes": size_bytes}


@pytest.mark.parametrize(
    ("provider", "output", "begins"),
    [
        pytest.param("kling", _output(), "data:image/png;base64,", id="in the request"),
        pytest.param("kling", _output(IN_REQUEST_BYTES + 1), "http", id="too large for a request"),
        pytest.param("pollo", _output(), "http", id="where URLs alone are taken"),
        pytest.param(
            "kling", {"type": "image", "url": "https://vendor.example/1.png"}, "https://vendor", id="not ours"
        ),
    ],
)
async def test_one_that_is_not_prepared_goes_as_the_vendor_takes_it(
    inputs: InputImages, job: Callable[..., Job], provider: str, output: Json, begins: str
) -> None:
    (image,) = await inputs.resolve([], job(provider, output))
    assert image.url.startswith(begins)
    assert (KEY in image.url) == (begins == "http")


async def test_a_vendor_that_takes_files_gets_the_file(inputs: InputImages, job: Callable[..., Job]) -> None:
    (image,) = await inputs.resolve([], job("tuzi", _output()))
    assert (image.content, image.content_type) == (CONTENT, "image/png")


@pytest.mark.parametrize("provider", ["kling", "tuzi", "pollo", "bfl", "tuzi-video"])
@pytest.mark.parametrize("source", ["handed in", "made"])
async def test_it_is_prepared_as_the_vendor_needs_it(
    inputs: InputImages, job: Callable[..., Job], provider: str, source: str
) -> None:
    images, made = ([InputImage(URL)], []) if source == "handed in" else ([], [_output()])
    (image,) = await inputs.resolve(images, job(provider, *made, wish={}))
    expected: dict[str, tuple[str, Size]] = {
        "pollo": ("JPEG", Size(640, 360)),
        "tuzi-video": ("PNG", Size(1280, 720)),
    }
    content = image.content or await _content_of(image.url)
    found = opened(content)
    assert (found.format, found.size) == expected.get(provider, ("PNG", Size(640, 480)))
    assert bool(image.content) == (provider in {"tuzi", "tuzi-video"})
    assert image.url.startswith("http") == (provider == "pollo")


async def _content_of(url: str) -> bytes:
    if url.startswith("data:"):
        return b64decode(url.partition(",")[2])
    fetcher = Fetcher.from_settings(Settings(image_allowed_hosts="127.0.0.1"))
    try:
        return await fetcher.fetch(url)
    finally:
        await fetcher.close()


async def test_what_a_request_asks_for_holds_within_the_bounds(inputs: InputImages, job: Callable[..., Job]) -> None:
    asked = job("kling", wish={"preset": "fast", "resize": {"width": 400, "height": 400}, "format": "webp"})
    (image,) = await inputs.resolve([InputImage(URL)], asked)
    found = opened(b64decode(image.url.partition(",")[2]))
    # It takes no WebP, so it gets what it would get without the wish.
    assert (found.format, found.size) == ("PNG", (400, 300))


async def test_each_image_that_cannot_be_had_is_named_by_its_index(
    inputs: InputImages, job: Callable[..., Job]
) -> None:
    small, text = written(quarters(100, 80), "PNG"), b"this is no image"
    urls = [
        URL,
        *(f"data:image/png;base64,{b64encode(one).decode()}" for one in (small, text)),
        "data:image/png;base64,A",
    ]
    with pytest.raises(InvalidRequest) as raised:
        await inputs.resolve([InputImage(url) for url in urls], job("kling", wish={}))
    found = [(violation.field, violation.rule) for violation in raised.value.violations]
    assert found == [
        ("input_images[1]", "dimensions"),
        ("input_images[2]", "not_an_image"),
        ("input_images[3]", "available"),
    ]
    assert "at least 300" in raised.value.message


@pytest.mark.parametrize("wish", [None, {}], ids=["as it comes", "prepared"])
@pytest.mark.parametrize(
    "output",
    [
        pytest.param(None, id="fewer were made"),
        pytest.param(_output(30_000_001), id="too large a file"),
        pytest.param({**_output(), "object_key": "gone/0.png"}, id="deleted since"),
        pytest.param({"type": "image", "url": "http://127.0.0.1:9/inside.png"}, id="inside"),
    ],
)
async def test_what_cannot_be_had_fails_before_anything_is_sent(
    inputs: InputImages, job: Callable[..., Job], output: Json | None, wish: Json | None
) -> None:
    with pytest.raises(GenerationError) as raised:
        await inputs.resolve([], job("tuzi", output, wish=wish))
    assert (raised.value.code, raised.value.is_retryable) == (ErrorCode.INVALID_REQUEST, False)
    assert [violation.field for violation in raised.value.violations] == ["input_images[0]"]


async def test_fewer_images_than_declared_are_refused_before_anything_is_sent(
    inputs: InputImages, job: Callable[..., Job]
) -> None:
    asked = job("tuzi", _output())
    lost = replace(asked, claimed=replace(asked.claimed, made_images=()))
    with pytest.raises(GenerationError, match="declares 1 input images") as raised:
        await inputs.resolve([InputImage(URL)], lost)
    assert raised.value.code is ErrorCode.INTERNAL_ERROR


async def test_an_image_that_its_request_may_do_without_is_left_out_and_a_fault_is_not(
    inputs: InputImages, job: Callable[..., Job]
) -> None:
    asked = job("tuzi", _output(), None)
    left_out = MadeImage("maker", 1, is_left_out=True)
    without = replace(asked.claimed, made_images=(asked.claimed.made_images[0], left_out))
    (image,) = await inputs.resolve([], replace(asked, claimed=without))
    assert image.content == CONTENT
    deleted = MadeImage("maker", 1, None, "The result of the request 'maker' of the batch was deleted by its owner.")
    with_fault = replace(asked.claimed, made_images=(asked.claimed.made_images[0], deleted))
    with pytest.raises(InvalidRequest, match=r"input_images\[1\]: The result of the request 'maker'"):
        await inputs.resolve([], replace(asked, claimed=with_fault))


async def test_a_template_image_of_a_batch_is_fetched_and_prepared_once(
    settings: Settings, database: Database, job: Callable[..., Job]
) -> None:
    fetched = []

    async def serve(request: web.Request) -> web.Response:
        fetched.append(request.path)
        return web.Response(body=CONTENT, content_type="image/png")

    async with (
        serving([web.get("/template.png", serve)]) as base,
        _inputs(settings, database, image_allowed_hosts="127.0.0.1") as inputs,
    ):
        image, keys = InputImage(f"{base}/template.png"), set()
        for batch_id, times in (("batch_1", 1), ("batch_2", 2), (None, 4)):
            asked = job("pollo", wish={}, batch_id=batch_id)
            keys |= {(await inputs.resolve([image], asked))[0].url.partition("?")[0] for _ in range(3)}
            # Outside of a batch it may have changed since.
            assert len(fetched) == times + (1 if batch_id is None else 0)
    async with _inputs(settings, database, image_allowed_hosts="127.0.0.1") as another:
        (image,) = await another.resolve([InputImage(URL)], job("pollo", wish={}))
        assert {image.url.partition("?")[0]} == keys, "another process finds what the first one has uploaded"


async def test_what_is_asked_for_is_held_to_the_bounds_of_whatever_model_it_comes_to(job: Callable[..., Job]) -> None:
    found: ImagePlan | None = job("kling", wish={"resize": {"width": 9_000, "mode": "fill"}}).images
    assert found is not None
    assert found.config.resize.max_width == 4_096
    broken = job("kling", wish={"resize": {"mode": "sideways"}}).images
    assert broken is not None
    assert broken.config.resize.mode == "fit"


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (GenerationError(ErrorCode.INTERNAL_ERROR, "ours"), ErrorCode.INTERNAL_ERROR),
        (GenerationError(ErrorCode.S3_UPLOAD_FAILED, "away"), ErrorCode.S3_UPLOAD_FAILED),
        (GenerationError(ErrorCode.NOT_FOUND, "gone"), ErrorCode.INVALID_REQUEST),
        (ImageFault("corrupt", "is broken"), ErrorCode.INVALID_REQUEST),
    ],
)
def test_an_image_is_blamed_for_its_own_faults_alone(fault: Exception, code: ErrorCode) -> None:
    with pytest.raises(GenerationError) as raised:
        all_of([InputImage("https://a/b.png"), ImageFault("animated", "moves"), fault])
    assert raised.value.code is code
