"""The vendors' own public Python clients work against the simulators: so the simulators speak their wire formats."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from typing import TypeVar

import fal_client
import httpx
import openai
import pytest
from fal_client import client as fal_module
from PIL import Image
from replicate.client import Client as ReplicateClient

from sandbox.catalog import simulated as simulated_catalog
from sandbox.demo import looked_into
from sandbox.plan import SHIPPED_CATALOG
from sandbox.simulators import VENDORS
from tests.support.infrastructure import Infrastructure
from tests.support.simulator import Simulator, simulated

T = TypeVar("T")
PROMPT = simulated("a red apple", task_seconds=0.3)


@pytest.fixture
def keys(shared: Infrastructure) -> dict[str, str]:
    return dict(simulated_catalog(SHIPPED_CATALOG.read_text(), shared.simulators_url).credentials)


async def _blocking(work: Callable[[], T]) -> T:
    return await asyncio.wait_for(asyncio.to_thread(work), 30)


async def test_openai_makes_an_image(simulator: Simulator, keys: dict[str, str]) -> None:
    base_url = f"{simulator.url}{VENDORS['tuzi_openai']}/v1"
    with openai.OpenAI(api_key=keys["TUZI_API_KEY"], base_url=base_url) as client:
        answer = await _blocking(lambda: client.images.generate(model="dall-e-3", prompt=PROMPT, response_format="url"))
    assert answer.data is not None
    assert str(answer.data[0].url).startswith("http")


async def test_openai_edits_an_image(simulator: Simulator, keys: dict[str, str]) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
    base_url = f"{simulator.url}{VENDORS['tuzi_openai']}/v1"
    with openai.OpenAI(api_key=keys["TUZI_API_KEY"], base_url=base_url) as client:
        answer = await _blocking(
            lambda: client.images.edit(
                model="gpt-image-1", prompt=PROMPT, image=[("a.png", buffer.getvalue(), "image/png")]
            )
        )
    assert answer.data is not None
    assert answer.data[0].b64_json


# OpenAI has announced the end of its own service; relays go on speaking its format.
@pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")
async def test_openai_makes_a_video(simulator: Simulator, keys: dict[str, str]) -> None:
    base_url = f"{simulator.url}{VENDORS['openai_video']}/v1"

    with openai.OpenAI(api_key=keys["TUZI_API_KEY"], base_url=base_url) as client:

        def work() -> bytes:
            video = client.videos.create_and_poll(model="sora-2", prompt=PROMPT, seconds="4", poll_interval_ms=100)
            assert video.status == "completed"
            return client.videos.download_content(video.id).read()

        content = await _blocking(work)
    assert looked_into(content, "video").kind == "MP4"


async def test_replicate_runs_a_prediction(simulator: Simulator, keys: dict[str, str]) -> None:
    base_url = f"{simulator.url}{VENDORS['replicate']}"

    def work(transport: httpx.HTTPTransport) -> object:
        client = ReplicateClient(api_token=keys["REPLICATE_API_TOKEN"], base_url=base_url, transport=transport)
        prediction = client.predictions.create(model="black-forest-labs/flux-schnell", input={"prompt": PROMPT})
        prediction.wait()
        assert prediction.status == "succeeded"
        return prediction.output

    with httpx.HTTPTransport() as transport:
        output = await _blocking(lambda: work(transport))
    assert isinstance(output, list)
    assert str(output[0]).startswith("http")


async def test_fal_client_waits_for_its_result(
    simulator: Simulator, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The client builds https URLs from a host name; the simulator has neither.
    monkeypatch.setattr(fal_module, "QUEUE_URL_FORMAT", f"{simulator.url}{VENDORS['fal']}/")
    client = fal_client.SyncClient(key=keys["FAL_KEY"])
    try:
        result = await _blocking(lambda: client.subscribe("fal-ai/flux/dev", arguments={"prompt": PROMPT}))
    finally:
        # The client has no public way to close its connections.
        client._client.close()  # noqa: SLF001
    assert result["images"][0]["url"].startswith("http")
