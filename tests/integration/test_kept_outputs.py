"""A paid output is never discarded for a matter of form: each that can be had is kept, whatever the others are."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import aiohttp
import av
import pytest
from darkroom.common.v1 import common_pb2
from PIL import Image
from yarl import URL

from libs.common.database.engine import Database
from sandbox.simulators.files import SVG, ZIP
from tests.conftest import quick
from tests.support.infrastructure import Infrastructure
from tests.support.rows import rows
from tests.support.running import CANCELLED, FAILED, SUCCESS, Running
from tests.support.simulator import simulated
from tests.support.stacks import StackOfModule, stack_of_module
from tests.support.waiting import eventually

RESULT_SECONDS = 2


def _adjust(catalog: dict[str, Any]) -> None:
    quick(catalog)
    for provider in catalog["providers"].values():
        provider["storage"]["result_seconds"] = RESULT_SECONDS
    for model in ("flux-schnell", "kling-v1-6"):
        catalog["models"][model]["polling"]["max_duration_seconds"] = 1
    catalog["providers"]["fal"]["storage"]["result_seconds"] = 600


@pytest.fixture(scope="module")
def module_stack(shared: Infrastructure) -> Iterator[StackOfModule]:
    with stack_of_module(shared, "kept_outputs", adjust=_adjust) as found:
        yield found


async def _read(output: common_pb2.Output) -> tuple[bytes, str]:
    """The file, and how it is to be shown."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(URL(output.url, encoded=True), raise_for_status=True) as reply,
    ):
        assert reply.content_type == output.content_type
        return await reply.read(), reply.headers.get("content-disposition", "inline")


async def test_one_output_that_is_gone_costs_none_of_the_others(stack: Running) -> None:
    before = await stack.metric("poller", "darkroom_storage_stored_bytes_total", provider="replicate")
    prompt = simulated("three", task_seconds=0, output_files={"1": "gone"})
    generation = await stack.ended(await stack.create("flux-schnell", prompt, number_of_outputs=3))
    assert generation.status == SUCCESS, generation.error
    assert [output.content_type for output in generation.results] == ["image/png"] * 2
    assert ["/0.png?" in generation.results[0].url, "/2.png?" in generation.results[1].url] == [True, True]
    assert not generation.HasField("error")
    assert generation.cost_usd == pytest.approx(3 * 0.003)
    # Each was uploaded once, however often the missing one was asked for.
    stored = await stack.metric("poller", "darkroom_storage_stored_bytes_total", provider="replicate") - before
    assert stored == sum(output.size_bytes for output in generation.results)
    assert await stack.metric("poller", "darkroom_retries_total", provider="replicate") > 1


@pytest.mark.parametrize(("odd", "content"), [("svg", SVG), ("zip", ZIP)])
async def test_what_browsers_must_not_run_is_kept_as_a_download(stack: Running, odd: str, content: bytes) -> None:
    prompt = simulated(f"beside {odd}", task_seconds=0, output_files={"1": odd})
    generation = await stack.ended(await stack.create("flux-schnell", prompt, number_of_outputs=2))
    assert generation.status == SUCCESS, generation.error
    assert [(output.type, output.content_type) for output in generation.results] == [
        ("image", "image/png"),
        ("image", "application/octet-stream"),
    ]
    assert await _read(generation.results[1]) == (content, "attachment")


async def test_a_video_with_the_brands_of_dash_alone_is_a_video(stack: Running) -> None:
    prompt = simulated("dash", task_seconds=0, output_files={"0": "dash"})
    generation = await stack.ended(await stack.create("kling-v1-6", prompt))
    assert generation.status == SUCCESS, generation.error
    (output,) = generation.results
    content, shown = await _read(output)
    assert (output.type, output.content_type, content[8:12], shown) == ("video", "video/mp4", b"iso5", "inline")
    with av.open(io.BytesIO(content), "r") as container:
        assert len(list(container.decode(video=0))) > 1


@pytest.mark.parametrize(("odd", "content_type"), [("tiff", "image/tiff"), ("bmp", "image/bmp")])
async def test_a_picture_in_a_reply_is_stored_whatever_its_format(stack: Running, odd: str, content_type: str) -> None:
    prompt = simulated(f"as {odd}", task_seconds=0, output_files={"0": odd})
    generation = await stack.ended(await stack.create("gpt-image-1", prompt))
    assert generation.status == SUCCESS, generation.error
    (output,) = generation.results
    assert (output.type, output.content_type) == ("image", content_type)
    content, shown = await _read(output)
    assert (Image.open(io.BytesIO(content)).format, shown) == (odd.upper(), "attachment")


async def test_bytes_of_no_known_type_in_a_reply_are_stored_as_a_download(stack: Running) -> None:
    prompt = simulated("a file", task_seconds=0, output_files={"0": "zip", "1": "svg"})
    generation = await stack.ended(await stack.create("gpt-image-1", prompt, number_of_outputs=2))
    assert generation.status == SUCCESS, generation.error
    assert [await _read(output) for output in generation.results] == [(ZIP, "attachment"), (SVG, "attachment")]


async def test_a_page_in_place_of_the_only_file_is_no_result(stack: Running) -> None:
    prompt = simulated("html", task_seconds=0, output_files={"0": "html"})
    generation = await stack.ended(await stack.create("flux-schnell", prompt))
    assert (generation.status, generation.error.code) == (FAILED, common_pb2.ERROR_CODE_PROVIDER_ERROR)
    assert generation.cost_usd == pytest.approx(0.003)


async def test_a_page_beside_a_picture_is_left_out(stack: Running) -> None:
    prompt = simulated("html beside", task_seconds=0, output_files={"0": "html"})
    generation = await stack.ended(await stack.create("flux-schnell", prompt, number_of_outputs=2))
    assert generation.status == SUCCESS, generation.error
    assert [output.content_type for output in generation.results] == ["image/png"]


async def test_a_cancel_between_two_tries_removes_what_is_stored(stack: Running, stack_database: Database) -> None:
    prompt = simulated("cancelled", task_seconds=0, output_files={"1": "gone"})
    generation_id = await stack.create("flux-dev-fal", prompt, number_of_outputs=2)
    sql = "SELECT sources -> 0 -> 'stored' ->> 'object_key' AS key FROM generation_requests WHERE id = :id"

    async def kept() -> str | None:
        (row,) = await rows(stack_database, sql, id=generation_id)
        key: str | None = row["key"]
        return key

    async def is_kept() -> bool:
        return await kept() is not None

    await eventually(is_kept, within=15, what="one of the two is stored")
    key = await kept()
    await stack.cancel(generation_id)
    assert (await stack.ended(generation_id)).status == CANCELLED
    # The sweep of expired objects removes it.
    found = await rows(
        stack_database, "SELECT expires_at <= now() AS is_due FROM prepared_images WHERE object_key = :key", key=key
    )
    assert found == [{"is_due": True}]


async def test_a_cancel_during_a_try_removes_what_that_try_has_stored(stack: Running, stack_database: Database) -> None:
    before = await stack.metric("poller", "darkroom_late_results_total", kind="store")
    prompt = simulated("cancelled in between", task_seconds=0, output_files={"1": "gone"}, result_wait_seconds=1.5)
    generation_id = await stack.create("flux-dev-fal", prompt, number_of_outputs=2)
    sql = "SELECT 1 FROM generation_requests WHERE id = :id AND state = 'STORING' AND lease_owner IS NOT NULL"
    await eventually(lambda: rows(stack_database, sql, id=generation_id), within=15, what="a poller stores it")
    await stack.cancel(generation_id)
    assert (await stack.ended(generation_id)).status == CANCELLED

    async def is_dropped() -> bool:
        return await stack.metric("poller", "darkroom_late_results_total", kind="store") == before + 1

    await eventually(is_dropped, within=15, what="the stored file is removed")
