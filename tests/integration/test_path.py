"""The path of one generation, from gRPC to a stored result."""

from __future__ import annotations

import io

import aiohttp
import pytest
from darkroom.common.v1 import common_pb2
from PIL import Image

from tests.support.running import SUCCESS, Running
from tests.support.simulator import Simulator, simulated


async def _image(output: common_pb2.Output) -> Image.Image:
    async with aiohttp.ClientSession() as session, session.get(output.url, raise_for_status=True) as reply:
        content = await reply.read()
    assert len(content) == output.size_bytes
    found = Image.open(io.BytesIO(content))
    found.load()
    return found


@pytest.mark.parametrize(
    ("model", "parameters", "kind"),
    [
        pytest.param("flux-pro", {}, "JPEG", id="asynchronous, by polling"),
        pytest.param("flux-dev", {"output_format": "png"}, "PNG", id="asynchronous, png"),
        pytest.param("gpt-image-1", {}, "PNG", id="synchronous, base64 in the reply"),
        pytest.param("dall-e-3", {}, "PNG", id="synchronous, url in the reply"),
        pytest.param("dall-e-3", {"response_format": "b64_json"}, "PNG", id="synchronous, base64 where asked for"),
    ],
)
async def test_a_generation_becomes_a_stored_image(
    running: Running, simulator: Simulator, model: str, parameters: dict[str, str], kind: str
) -> None:
    prompt = simulated("a red apple", task_seconds=0.3)

    generation = await running.ended(await running.create(model, prompt, parameters=parameters))

    assert generation.status == SUCCESS, generation.error
    image = await _image(generation.results[0])
    assert (image.format, image.size) == (kind, (1024, 1024))
    assert (generation.progress, generation.attempts) == (100, 1)
    assert len(await simulator.bills(prompt)) == 1
