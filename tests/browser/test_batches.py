"""Batches in the console: followed, cancelled, resumed, downloaded."""

from __future__ import annotations

import itertools
import json
import zipfile

import pytest
from darkroom.gateway.v1 import gateway_pb2
from playwright.async_api import expect

from tests.support.browser import Operator, Stage, needed
from tests.support.simulator import simulated
from tests.support.waiting import eventually

pytestmark = [needed, pytest.mark.slow]
_numbers = itertools.count()


async def _batch(stage: Stage, *prompts: str, concurrency: int = 10, model: str = "flux-pro") -> str:
    requests = [gateway_pb2.CreateGenerationRequest(model_identifier=model, prompt=words) for words in prompts]
    options = gateway_pb2.BatchOptions(max_concurrency=concurrency)
    answer = await stage.running.gateway.CreateBatch(
        gateway_pb2.CreateBatchRequest(requests=requests, options=options), timeout=60
    )
    return str(answer.batch_id)


async def _ended(stage: Stage, batch_id: str) -> dict[str, object]:
    async def look() -> dict[str, object] | None:
        row = await stage.row("SELECT * FROM generation_batches WHERE id = :id", id=batch_id)
        return row if row["ended_at"] else None

    found = await eventually(look, within=30, what="the batch has ended")
    assert found is not None
    return found


async def test_progress_is_live_and_failures_are_grouped(stage: Stage, operator: Operator) -> None:
    number = next(_numbers)
    good = [simulated(f"owl {number} {place}", task_seconds=0.5) for place in range(4)]
    bad = simulated(f"bad owl {number}", task_seconds=0.5, faults=[{"operation": "result", "kind": "moderated"}])
    batch_id = await _batch(stage, *good, bad, concurrency=2)
    page = await operator.open("/admin/batches")
    await page.get_by_role("link", name=batch_id).click()
    await operator.followed()
    await expect(page.locator(".lead")).to_contain_text("partly failed")
    await expect(page.locator(".lead")).to_contain_text("100 %")
    await expect(page.get_by_role("rowheader", name="CONTENT_REJECTED")).to_be_visible()
    row = await _ended(stage, batch_id)
    assert (row["completed_tasks"], row["failed_tasks"]) == (4, 1)
    await page.get_by_role("link", name="failed", exact=True).click()
    await expect(page.locator(".gallery li")).to_have_count(1)


async def test_cancel_and_resume(stage: Stage, operator: Operator) -> None:
    number = next(_numbers)
    prompts = [simulated(f"long {number} {place}", task_seconds=2.5) for place in range(3)]
    # Its vendor confirms a cancel: nothing is at risk.
    batch_id = await _batch(stage, *prompts, concurrency=1, model="flux-schnell")
    page = await operator.open(f"/admin/batches/{batch_id}")
    await page.get_by_text("Cancel the batch…").click()
    await page.get_by_role("button", name="Cancel the batch").click()
    await operator.sees("The batch was asked to be cancelled.")
    await _ended(stage, batch_id)
    row = await stage.row("SELECT cancel_requested_at FROM generation_batches WHERE id = :id", id=batch_id)
    assert row["cancel_requested_at"] is not None
    await expect(page.get_by_role("rowheader", name="TASK_CANCELLED never submitted")).to_be_visible()
    await page.get_by_text("Resume…").click()
    await operator.press("Resume what did not succeed")
    await operator.sees("The batch goes on with what had not succeeded.")
    await expect(page.locator(".lead")).to_contain_text("completed")
    row = await _ended(stage, batch_id)
    assert row["completed_tasks"] == 3
    actions = await stage.rows("SELECT action FROM audit_records WHERE subject = :id ORDER BY id", id=batch_id)
    assert [one["action"] for one in actions] == ["batch.cancel", "batch.resume"]


async def test_downloads(stage: Stage, operator: Operator) -> None:
    number = next(_numbers)
    batch_id = await _batch(stage, *(simulated(f"kept {number} {place}", task_seconds=0) for place in range(2)))
    await _ended(stage, batch_id)
    page = await operator.open(f"/admin/batches/{batch_id}")
    async with page.expect_download() as coming:
        await page.get_by_role("link", name="Download as JSONL").click()
    lines = (await (await coming.value).path()).read_text().splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["SUCCESS", "SUCCESS"]
    async with page.expect_download() as coming:
        await page.get_by_role("link", name="Download the files as ZIP").click()
    with zipfile.ZipFile(await (await coming.value).path()) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == 3
