"""Pictures to start from, for vendors that take files."""

from __future__ import annotations

import base64

import pytest
from darkroom.common.v1 import common_pb2

from sandbox.simulators import pictures
from tests.support.running import FAILED, SUCCESS, Running
from tests.support.simulator import Simulator, simulated


def _data_url(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


@pytest.mark.parametrize("model", ["gpt-image-1", "sora-2", "flux-kontext-pro", "kling-v1-6"])
async def test_a_picture_travels_to_the_provider(running: Running, simulator: Simulator, model: str) -> None:
    prompt = simulated("warmer", task_seconds=0)
    image = _data_url(pictures.draw("start", 1, 320, 320, "png"))
    generation = await running.ended(await running.create(model, prompt, input_images=[image]))
    assert generation.status == SUCCESS, generation.error
    assert len(await simulator.bills(prompt)) == 1


@pytest.mark.parametrize(
    "url",
    [
        pytest.param(_data_url(b"this is no image"), id="not an image"),
        pytest.param("http://127.0.0.1:9/inside.png", id="an address inside"),
        pytest.param("http://169.254.169.254/latest/meta-data", id="the cloud's metadata"),
        pytest.param("http://localhost/inside.png", id="a name that leads inside"),
    ],
)
async def test_a_picture_that_may_not_be_had_fails_before_anything_is_sent(
    running: Running, simulator: Simulator, url: str
) -> None:
    generation = await running.ended(await running.create("gpt-image-1", "x", input_images=[url]))
    assert (generation.status, generation.attempts) == (FAILED, 0)
    assert generation.error.code == common_pb2.ERROR_CODE_INVALID_REQUEST
    assert await simulator.bills("x") == []
