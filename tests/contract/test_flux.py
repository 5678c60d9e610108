"""Flux against Black Forest Labs' wire format."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest

from bench.imaging.pictures import quarters, written
from libs.common.adapters.accounts import Accounts
from libs.common.adapters.base import InputImage, SubmitRequest, Submitted, Task, TaskStatus
from libs.common.adapters.flux import Flux, FluxParameters
from libs.common.adapters.states import state_of
from libs.common.database.states import TaskState
from libs.common.errors import ErrorCode, GenerationError, NotAccepted
from tests.contract.answers import checked
from tests.contract.conftest import adapter
from tests.support.simulator import Simulator, simulated
from tests.support.waiting import eventually


@pytest.fixture
async def flux(accounts: Accounts, simulator: Simulator) -> Flux:
    found = adapter(accounts, "bfl")
    assert isinstance(found, Flux)
    return found


def _request(
    prompt: str, *, model: str = "flux-pro-1.1", images: tuple[InputImage, ...] = (), **parameters: Any
) -> SubmitRequest:
    return SubmitRequest("sub_1", model, prompt, images, 1, FluxParameters.model_validate(parameters))


async def _ended(flux: Flux, submitted: Submitted, model: str = "flux-pro-1.1") -> TaskStatus:
    async def look() -> TaskStatus | None:
        status = await flux.check_task(Task(submitted.task_id, model, submitted.check_url, 20.0))
        return status if status.state.has_ended else None

    found = await eventually(look, within=10, what="the task has ended")
    assert found is not None
    return found


async def test_a_submit_names_a_task_and_where_to_ask_for_it(flux: Flux, simulator: Simulator) -> None:
    prompt = simulated("a red apple", task_seconds=0.3)
    submitted = await flux.submit(_request(prompt))
    assert submitted.check_url is not None
    assert submitted.task_id in submitted.check_url
    assert len(await simulator.bills(prompt)) == 1

    status = await _ended(flux, submitted)

    assert status.state is TaskState.SUCCESS
    assert status.outputs[0].url is not None
    assert "sample.jpeg" in status.outputs[0].url


async def test_progress_comes_in_percent(flux: Flux) -> None:
    submitted = await flux.submit(_request(simulated("slow", task_seconds=2)))

    async def look() -> TaskStatus | None:
        status = await flux.check_task(Task(submitted.task_id, "flux-pro-1.1", submitted.check_url, 1.0))
        return status if status.state is TaskState.PROCESSING else None

    status = await eventually(look, within=5, what="the task is processed")
    assert status is not None
    assert status.progress is not None
    assert 0 < status.progress < 100


async def test_without_a_polling_url_the_task_is_found_by_its_id(flux: Flux) -> None:
    submitted = await flux.submit(_request(simulated("x", task_seconds=0)))
    status = await flux.check_task(Task(submitted.task_id, "flux-pro-1.1", None, 1.0))
    assert status.state is TaskState.SUCCESS


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("flux-pro-1.1", {"size_or_ratio": "16:9"}),
        ("flux-pro-1.1", {"size_or_ratio": "512x256", "seed": 7, "output_format": "png"}),
        ("flux-pro-1.1-ultra", {"size_or_ratio": "21:9"}),
        ("flux-kontext-pro", {"size_or_ratio": "1024x1024"}),
    ],
)
async def test_sizes_and_ratios_are_what_the_model_takes(flux: Flux, model: str, parameters: dict[str, Any]) -> None:
    submitted = await flux.submit(_request(simulated("x", task_seconds=0), model=model, **parameters))
    assert (await _ended(flux, submitted, model)).state is TaskState.SUCCESS


async def test_an_input_image_goes_along(flux: Flux) -> None:
    image = f"data:image/png;base64,{b64encode(written(quarters(), 'PNG')).decode()}"
    submitted = await flux.submit(
        _request(simulated("x", task_seconds=0), model="flux-kontext-pro", images=(InputImage(image),))
    )
    assert submitted.task_id


async def test_a_host_that_cannot_be_reached_was_sent_nothing(accounts: Accounts) -> None:
    provider = accounts.catalog.current.providers["bfl"]
    nowhere = provider.model_copy(update={"id": "nowhere", "base_url": "http://127.0.0.1:9"})
    with pytest.raises(NotAccepted) as caught:
        await accounts.adapter(nowhere).submit(_request("x"))
    assert (caught.value.code, caught.value.is_retryable) == (ErrorCode.PROVIDER_UNAVAILABLE, True)


async def test_credentials_go_to_no_host_that_the_catalog_does_not_name(flux: Flux) -> None:
    with pytest.raises(GenerationError, match="does not name"):
        await flux.check_task(Task("t", "flux-pro-1.1", "https://evil.example.com/v1/get_result?id=t", 1.0))


@pytest.mark.parametrize("word", sorted(Flux.states))
def test_every_word_of_the_vendor_has_a_state(word: str) -> None:
    assert state_of(word, Flux.states) is Flux.states[word]


async def test_samples_that_come_as_a_list_are_all_outputs() -> None:
    urls = ["https://delivery.example.com/1.png", "https://delivery.example.com/2.png"]
    status = await checked("flux", (200, {"id": "t", "status": "Ready", "result": {"sample": urls}}))
    assert status.state is TaskState.SUCCESS
    assert [output.url for output in status.outputs] == urls


@pytest.mark.parametrize("status", [400, 404, 429, 500])
async def test_a_result_beside_an_error_of_http_is_the_result(status: int) -> None:
    url = "https://delivery.example.com/1.png"
    found = await checked("flux", (status, {"id": "t", "status": "Ready", "result": {"sample": url}}))
    assert (found.state, [output.url for output in found.outputs]) == (TaskState.SUCCESS, [url])
    with pytest.raises(GenerationError):
        await checked("flux", (status, {"id": "another", "status": "Ready", "result": {"sample": url}}))
    with pytest.raises(GenerationError):
        await checked("flux", (status, {"id": "t", "status": "Ready"}))
