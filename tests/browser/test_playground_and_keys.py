"""The playground, the catalog, and keys in the console."""

from __future__ import annotations

import itertools

import pytest
from playwright.async_api import expect

from bench.imaging.pictures import photo, written
from tests.support.browser import Operator, Stage, needed
from tests.support.http import call
from tests.support.running import SUCCESS
from tests.support.simulator import simulated

pytestmark = [needed, pytest.mark.slow]
_numbers = itertools.count()


async def test_one_request_is_sent_and_its_picture_shown(stage: Stage, operator: Operator) -> None:
    page = await operator.open("/admin/models")
    await page.get_by_role("link", name="flux-pro", exact=True).click()
    await expect(page.get_by_label("Model", exact=True)).to_have_value("flux-pro")
    await page.get_by_label("Parameters as JSON").fill('{"no_such": 1}')
    await page.get_by_label("Prompt").fill("x")
    await operator.press("Send")
    await operator.sees("parameters.no_such")
    words = simulated(f"from the playground {next(_numbers)}", task_seconds=0)
    await page.get_by_label("Prompt").fill(words)
    await page.get_by_label("Parameters as JSON").fill('{"seed": 7}')
    await operator.press("Send")
    await expect(page.locator(".gallery img")).to_be_visible()
    row = await stage.row("SELECT id, parameters, labels FROM generation_requests WHERE prompt = :words", words=words)
    assert row["parameters"]["seed"] == 7
    assert row["labels"] == {"console": "playground"}
    assert (await stage.running.ended(row["id"])).status == SUCCESS


async def test_preprocessing_is_shown_before_and_after(stage: Stage, operator: Operator) -> None:
    before = await stage.row("SELECT count(*) AS number FROM prepared_images")
    page = await operator.open("/admin/playground")
    content = written(photo(1_600, 1_200), "png")
    await page.get_by_label("Image file").set_input_files(
        {"name": "owl.png", "mimeType": "image/png", "buffer": content}
    )
    await page.get_by_label("Preset, or a provider").select_option("fast")
    await operator.press("Prepare it")
    await operator.sees("1600 \N{MULTIPLICATION SIGN} 1200")
    await operator.sees("512 \N{MULTIPLICATION SIGN} 384")
    await operator.sees("smaller")
    await expect(page.locator(".before-after img")).to_have_count(2)
    await page.get_by_label("Image file").set_input_files(
        {"name": "owl.png", "mimeType": "image/png", "buffer": b"no image"}
    )
    await operator.press("Prepare it")
    await expect(page.get_by_role("alert")).to_be_visible()
    assert await stage.row("SELECT count(*) AS number FROM prepared_images") == before


async def test_a_key_is_made_bounded_and_revoked(stage: Stage, operator: Operator) -> None:
    owner = f"console owner {next(_numbers)}"
    page = await operator.open("/admin/keys")
    await page.locator("#new > summary").click()
    await page.locator("#new").get_by_label("Owner").fill(owner)
    await page.get_by_label("US dollars a month; empty for no bound").fill("-1")
    await operator.press("Make the key")
    await expect(page.get_by_role("alert")).to_contain_text("monthly_budget_usd")
    assert not await stage.rows("SELECT FROM api_keys WHERE owner = :owner", owner=owner)
    await page.get_by_label("US dollars a month; empty for no bound").fill("25")
    await operator.press("Make the key")
    key = await page.locator("#new-key").inner_text()
    answer = await call(stage.url, "/api/external/generation", key=key)
    assert answer.status == 200
    await operator.open("/admin/keys")
    assert key not in await page.content()
    row = page.locator("tr").filter(has_text=owner)
    await row.get_by_text("Bounds").click()
    await row.get_by_label("At once").fill("7")
    async with page.expect_navigation():
        await row.get_by_role("button", name="Change").click()
    await operator.sees("The bounds of the key are changed.")
    kept = await stage.row(
        "SELECT live_generations, CAST(monthly_budget_usd AS float) AS budget FROM api_keys WHERE owner = :owner",
        owner=owner,
    )
    assert kept == {"live_generations": 7, "budget": 25.0}
    await row.get_by_text("Revoke…").click()
    async with page.expect_navigation():
        await row.get_by_role("button", name="Revoke it").click()
    await operator.sees("The key is revoked.")
    assert (await stage.row("SELECT revoked_at FROM api_keys WHERE owner = :owner", owner=owner))["revoked_at"]
    await operator.open("/admin/audit")
    for action in ("key.create", "key.change", "key.revoke"):
        await operator.sees(action)
