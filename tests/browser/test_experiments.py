"""Experiments in the console: planned with live checks, started, stopped, rolled out."""

from __future__ import annotations

import itertools

import pytest
from playwright.async_api import Page, expect

from tests.support.browser import Operator, Stage, needed
from tests.support.simulator import simulated

pytestmark = [needed, pytest.mark.slow]
_numbers = itertools.count()


async def _filled(page: Page, name: str) -> None:
    await page.get_by_label("Name").first.fill(name)
    for row, (variant, model) in enumerate((("pro", "flux-pro"), ("dev", "flux-dev"))):
        group = page.get_by_role("group", name=f"Variant {row + 1}")
        await group.get_by_label("Name").fill(variant)
        await group.get_by_label("Model").fill(model)


async def _planned(stage: Stage, operator: Operator) -> str:
    """The id of a draft."""
    page = await operator.open("/admin/experiments/new")
    await _filled(page, f"console {next(_numbers)}")
    # The first button of a form is what Enter presses.
    async with page.expect_navigation():
        await page.get_by_role("button", name="Keep it as a draft").last.click()
    await operator.sees("The experiment is planned.")
    return page.url.partition("?")[0].rpartition("/")[2]


async def test_a_plan_is_checked_while_it_is_written(stage: Stage, operator: Operator) -> None:
    page = await operator.open("/admin/experiments/new")
    await page.get_by_label("Name").first.fill("x")
    await expect(page.locator("#check")).to_contain_text("variants")
    await _filled(page, "cheaper")
    await expect(page.locator("#check")).to_contain_text("This can be planned.")
    await page.get_by_label("Users in all").fill("20000")
    await expect(page.locator("#check")).to_contain_text("20,000")
    await page.get_by_role("group", name="Variant 2").get_by_label("Model").fill("no-such")
    await expect(page.locator("#check")).to_contain_text("there is no model")
    # Nothing of it was kept.
    assert not await stage.rows("SELECT FROM experiments WHERE name = 'cheaper'")


async def test_what_is_wrong_is_told_at_its_field_and_what_was_written_stays(stage: Stage, operator: Operator) -> None:
    page = await operator.open("/admin/experiments/new")
    await _filled(page, "kept words")
    await page.get_by_role("group", name="Variant 2").get_by_label("Model").fill("no-such")
    async with page.expect_navigation():
        await page.get_by_role("button", name="Another variant").click()
    await expect(page.get_by_role("group", name="Variant 4")).to_be_visible()
    async with page.expect_navigation():
        await page.get_by_role("button", name="Keep it as a draft").last.click()
    await expect(page.get_by_role("group", name="Variant 2").locator(".fault")).to_contain_text("there is no model")
    await expect(page.get_by_label("Name").first).to_have_value("kept words")
    assert not await stage.rows("SELECT FROM experiments WHERE name = 'kept words'")


async def test_start_pause_and_complete(stage: Stage, operator: Operator) -> None:
    experiment_id = await _planned(stage, operator)
    for button, status in (("Start", "RUNNING"), ("Pause", "PAUSED"), ("Start", "RUNNING")):
        await operator.press(button)
        row = await stage.row("SELECT status FROM experiments WHERE id = :id", id=experiment_id)
        assert row == {"status": status}
    await operator.page.get_by_text("Complete…").click()
    await operator.press("Complete it")
    await operator.sees("The experiment is completed.")
    row = await stage.row("SELECT status, ended_at FROM experiments WHERE id = :id", id=experiment_id)
    assert row["status"] == "COMPLETED"
    assert row["ended_at"] is not None


async def test_a_variant_is_rolled_out(stage: Stage, operator: Operator) -> None:
    experiment_id = await _planned(stage, operator)
    await operator.press("Start")
    page = operator.page
    await page.get_by_text("Roll out…").click()
    await page.get_by_label("All traffic of the experiment goes to").select_option(label="dev")
    await operator.press("Roll it out")
    await operator.sees("All traffic of the experiment now goes to this variant.")
    await operator.sees("100 %")
    row = await stage.row(
        """SELECT weights, reason FROM experiment_allocations WHERE experiment_id = :id
        ORDER BY version DESC LIMIT 1""",
        id=experiment_id,
    )
    assert row == {"weights": [0, 10_000], "reason": "operator"}
    made = await stage.running.create("flux-pro", simulated("rolled out", task_seconds=0), user_id="whoever")
    assert (await stage.running.ended(made)).model_identifier in {"flux-dev", "flux-pro"}
    await operator.page.get_by_text("Complete…").click()
    await operator.press("Complete it")
