"""Pictures that another request of the same batch has made: each vendor gets them as it takes them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

import pytest

from libs.common.adapters.accounts import Accounts
from libs.common.database.records import Json
from libs.common.errors import ErrorCode, GenerationError
from libs.common.settings import Settings
from libs.common.storage.download import Downloader, from_bytes
from libs.common.storage.objects import ObjectStore
from sandbox.simulators import pictures
from services.dispatcher.inputs import LIMIT_BYTES, InputImages
from tests.contract.conftest import adapter

KEY = "made/0.png"
CONTENT = pictures.draw("made", 0, 64, 64, "png")


@pytest.fixture
async def inputs(settings: Settings) -> AsyncIterator[InputImages]:
    objects, downloader = ObjectStore(settings), Downloader(limit_bytes=LIMIT_BYTES, timeout_seconds=5)
    await objects.make_bucket()
    with from_bytes(CONTENT, "image", limit_bytes=LIMIT_BYTES) as media:
        await objects.put(KEY, media)
    yield InputImages(downloader, objects)
    await downloader.close()
    await objects.close()


def _output(size_bytes: int = len(CONTENT)) -> Json:
    return {"type": "image", "object_key": KEY, "content_type": "image/png", "size_bytes": size_bytes}


@pytest.mark.parametrize(
    ("provider", "output", "begins"),
    [
        pytest.param("kling", _output(), "data:image/png;base64,", id="in the request"),
        pytest.param("kling", _output(LIMIT_BYTES + 1), "http", id="too large for a request"),
        pytest.param("pollo", _output(), "http", id="where URLs alone are taken"),
        pytest.param(
            "kling", {"type": "image", "url": "https://vendor.example/1.png"}, "https://vendor", id="not ours"
        ),
    ],
)
async def test_it_goes_as_the_vendor_takes_it(
    inputs: InputImages, accounts: Accounts, provider: str, output: Json, begins: str
) -> None:
    (image,) = await inputs.resolve([], [output], adapter(accounts, provider))
    assert image.url.startswith(begins)
    assert (KEY in image.url) == (begins == "http")


async def test_a_vendor_that_takes_files_gets_the_file(inputs: InputImages, accounts: Accounts) -> None:
    (image,) = await inputs.resolve([], [_output()], adapter(accounts, "tuzi"))
    assert hashlib.sha256(image.content).digest() == hashlib.sha256(CONTENT).digest()


@pytest.mark.parametrize(
    ("output", "code"),
    [
        pytest.param(None, ErrorCode.INVALID_REQUEST, id="fewer were made"),
        pytest.param(_output(LIMIT_BYTES + 1), ErrorCode.INVALID_REQUEST, id="too large a file"),
        pytest.param({**_output(), "object_key": "gone/0.png"}, ErrorCode.NOT_FOUND, id="deleted since"),
    ],
)
async def test_what_cannot_be_had_fails_before_anything_is_sent(
    inputs: InputImages, accounts: Accounts, output: Json | None, code: ErrorCode
) -> None:
    with pytest.raises(GenerationError) as raised:
        await inputs.resolve([], [output], adapter(accounts, "tuzi"))
    assert (raised.value.code, raised.value.is_retryable) == (code, False)
