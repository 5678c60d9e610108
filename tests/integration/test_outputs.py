"""How many outputs there are, and where they are kept."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import StartStack, quick
from tests.support.running import FAILED, SUCCESS, Running
from tests.support.simulator import Simulator, simulated


async def test_several_outputs_are_all_stored(running: Running, simulator: Simulator) -> None:
    prompt = simulated("three", task_seconds=0)
    generation = await running.ended(await running.create("gpt-image-1", prompt, number_of_outputs=3))
    assert generation.status == SUCCESS
    assert len({output.sha256 for output in generation.results}) == 3
    assert generation.cost_usd == pytest.approx(3 * 0.042)
    assert [bill["outputs"] for bill in await simulator.bills(prompt)] == [3]


async def test_an_object_lies_under_the_providers_prefix_and_its_day(running: Running) -> None:
    generation = await running.ended(await running.create("flux-pro", simulated("x", task_seconds=0)))
    day = generation.created_at.ToDatetime()
    assert f"/darkroom/flux/{day:%Y/%m/%d}/{generation.id}/0.jpg?" in generation.results[0].url


@pytest.mark.parametrize("model", ["flux-pro", "dall-e-3"])
async def test_without_storage_the_providers_url_is_the_result(
    start_stack: StartStack, simulator: Simulator, model: str
) -> None:
    def unstored(catalog: dict[str, Any]) -> None:
        quick(catalog)
        for provider in catalog["providers"].values():
            provider["storage"]["upload_to_s3"] = False

    running = await start_stack(adjust=unstored)
    generation = await running.ended(await running.create(model, simulated("x", task_seconds=0)))
    assert generation.status == SUCCESS
    assert generation.results[0].url.startswith(simulator.url)
    assert generation.results[0].sha256 == ""


async def test_results_are_read_from_a_public_base_url_where_one_is_set(start_stack: StartStack) -> None:
    running = await start_stack(settings={"DARKROOM_S3_PUBLIC_BASE_URL": "https://cdn.example.com"})
    generation = await running.ended(await running.create("flux-pro", simulated("x", task_seconds=0)))
    assert generation.results[0].url.startswith("https://cdn.example.com/flux/")
    assert "?" not in generation.results[0].url


async def test_a_result_from_a_host_inside_is_refused(start_stack: StartStack) -> None:
    def guarded(catalog: dict[str, Any]) -> None:
        quick(catalog)
        for provider in catalog["providers"].values():
            provider["storage"] |= {"result_hosts": [], "result_seconds": 1}
        catalog["models"]["flux-pro"]["polling"]["max_duration_seconds"] = 2

    running = await start_stack(adjust=guarded)
    generation = await running.ended(await running.create("flux-pro", simulated("x", task_seconds=0)))
    assert generation.status == FAILED
    assert "not public" in generation.error.message
