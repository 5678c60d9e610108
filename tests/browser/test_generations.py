"""Generations in the console: found, looked at, cancelled, run again, resolved."""

from __future__ import annotations

import itertools

import pytest
from playwright.async_api import expect

from tests.support.browser import Operator, Stage, needed
from tests.support.running import CANCELLED, FAILED, SUCCESS
from tests.support.simulator import FAILS, simulated
from tests.support.waiting import eventually

pytestmark = [needed, pytest.mark.slow]
_numbers = itertools.count()
LOST_REPLY = [{"operation": "submit", "kind": "reset", "after": True, "times": 1}]


async def test_lists_are_filtered_and_searched(stage: Stage, operator: Operator) -> None:
    words = simulated(f"filtered {next(_numbers)}", task_seconds=0, faults=FAILS)
    failed = await stage.running.create("flux-schnell", words, labels={"team": "owls"}, user_id="u1")
    await stage.running.ended(failed)
    page = await operator.open("/admin/generations")
    await page.get_by_label("Status").select_option("FAILED")
    await page.get_by_label("Model", exact=True).fill("flux-schnell")
    await page.get_by_text("More filters").click()
    await page.get_by_label("Label (name=value)").fill("team=owls")
    await operator.press("Show")
    await expect(page.locator("tbody tr")).to_have_count(1)
    await expect(page.get_by_role("link", name=failed)).to_be_visible()
    await operator.sees("TASK_FAILED")
    request_id = (await stage.running.get(failed)).request_id
    await operator.open(f"/admin/generations?search={request_id}")
    await expect(page.locator("tbody tr")).to_have_count(1)
    await operator.open(f"/admin/generations?search={failed}")
    assert page.url == f"{stage.url}/admin/generations/{failed}"
    await operator.open("/admin/generations?owner=nobody")
    await operator.sees("There are no such generations here.")


async def test_results_are_seen_and_videos_play(stage: Stage, operator: Operator) -> None:
    image = await stage.running.create("flux-pro", simulated("an owl on a bough", task_seconds=0), user_id="pictures")
    video = await stage.running.create("kling-v1-6", simulated("an owl that flies", task_seconds=0), user_id="pictures")
    for made in (image, video):
        assert (await stage.running.ended(made)).status == SUCCESS
    page = await operator.open("/admin/generations?view=gallery&status=SUCCESS&owner=admin")
    picture = page.locator(f'img[src="/admin/generations/{image}/thumbnails/0"]')
    await expect(picture).to_be_visible()

    async def is_drawn() -> bool:
        return bool(await picture.evaluate("one => one.complete && one.naturalWidth > 0"))

    await eventually(is_drawn, within=15, what="the thumbnail is drawn")
    player = page.locator(f'video[src="/admin/generations/{video}/outputs/0"]')

    async def has_begun() -> bool:
        return bool(await player.evaluate("one => one.currentTime > 0 && one.videoWidth > 0"))

    await player.evaluate("one => { one.muted = true; return one.play(); }")
    await eventually(has_begun, within=15, what="the video plays")


async def test_a_life_is_told_as_it_is_lived(stage: Stage, operator: Operator) -> None:
    made = await stage.running.create("flux-pro", simulated(f"slow {next(_numbers)}", task_seconds=2))
    page = await operator.open(f"/admin/generations/{made}")
    await operator.followed()
    await expect(page.locator(".lead")).to_contain_text("success")
    for words in (
        "Accepted",
        "Attempt 1 sent to bfl",
        "Attempt 1: accepted",
        "Handed to the poller",
        "Stored",
        "Ended",
    ):
        await expect(page.locator(".timeline")).to_contain_text(words)
    await expect(page.locator(".gallery img")).to_be_visible()
    await expect(page.get_by_text("Run again…")).to_be_visible()
    row = await stage.row("SELECT state FROM generation_requests WHERE id = :id", id=made)
    assert row == {"state": "SUCCESS"}


async def test_cancel(stage: Stage, operator: Operator) -> None:
    made = await stage.running.create("kling-v1-6", simulated(f"to cancel {next(_numbers)}", task_seconds=60))
    await operator.open(f"/admin/generations/{made}")
    await operator.page.get_by_text("Cancel…").click()
    await operator.press("Cancel it")
    await operator.sees("It was asked to be cancelled.")
    assert (await stage.running.ended(made)).status == CANCELLED
    await expect(operator.page.locator(".lead")).to_contain_text("cancelled")
    row = await stage.row("SELECT state, cancel_requested_at FROM generation_requests WHERE id = :id", id=made)
    assert row["state"] == "CANCELLED"
    assert row["cancel_requested_at"] is not None
    record = await stage.row("SELECT action, outcome FROM audit_records WHERE subject = :id", id=made)
    assert record == {"action": "generation.cancel", "outcome": "done"}


async def test_run_again_pressed_twice_is_one_request(stage: Stage, operator: Operator) -> None:
    words = simulated(f"again {next(_numbers)}", task_seconds=0)
    made = await stage.running.create("flux-dev", words, parameters={"seed": 7}, labels={"a": "b"}, user_id="u7")
    await stage.running.ended(made)
    page = await operator.open(f"/admin/generations/{made}")
    await page.get_by_text("Run again…").click()
    await page.get_by_role("button", name="Run again").dblclick()
    await operator.sees("It runs again")
    again = page.url.partition("?")[0].rpartition("/")[2]
    assert (await stage.running.ended(again)).status == SUCCESS
    columns = "prompt, parameters, labels, user_id, model_identifier"
    found = await stage.rows(
        f"SELECT {columns} FROM generation_requests WHERE prompt = :words ORDER BY id", words=words
    )
    assert len(found) == 2
    assert found[0] == found[1]
    assert len(await stage.simulator.bills(words)) == 2


async def _uncertain(stage: Stage) -> tuple[str, str, str]:
    """A failed generation, the id of its uncertain submission, and its prompt."""
    words = simulated(f"lost in the console {next(_numbers)}", task_seconds=0, faults=LOST_REPLY)
    made = await stage.running.create("flux-schnell", words)
    ended = await stage.running.ended(made)
    assert ended.status == FAILED
    return made, str(ended.error.details["submission_id"]), words


async def test_run_again_names_the_price_of_a_second_payment(stage: Stage, operator: Operator) -> None:
    made, submission, words = await _uncertain(stage)
    page = await operator.open(f"/admin/generations/{made}")
    await page.get_by_text("Run again…").click()
    await operator.sees("An earlier submission may be billed:")
    await expect(page.locator("#run-again")).to_contain_text(submission)
    assert len(await stage.simulator.bills(words)) == 1
    await page.get_by_role("button", name="Accept a second payment of $0.003 and run again").click()
    await operator.sees("It runs again")
    again = page.url.partition("?")[0].rpartition("/")[2]
    assert (await stage.running.ended(again)).rerun_of_id == made
    assert len(await stage.simulator.bills(words)) == 2
    await operator.open(f"/admin/generations/{made}")
    await expect(page.get_by_role("link", name=again)).to_be_visible()


async def test_an_uncertain_submit_is_shown_and_attached_to_its_task(stage: Stage, operator: Operator) -> None:
    made, submission, words = await _uncertain(stage)
    page = await operator.open("/admin")
    await operator.sees("Submissions to resolve")
    await page.get_by_role("link", name=made).click()
    await page.get_by_label("The task is there: follow it").check()
    await operator.press("Resolve")
    await operator.sees("must be the provider's id of the task")
    (bill,) = await stage.simulator.bills(words)
    await page.get_by_label("The provider's id of the task").fill(bill["task_id"])
    await page.get_by_label("Note").fill("seen in their dashboard")
    await operator.press("Resolve")
    await operator.sees("this generation continues it")
    continued = page.url.partition("?")[0].rpartition("/")[2]
    assert (await stage.running.ended(continued)).status == SUCCESS
    row = await stage.row("SELECT resolution, resolution_note FROM submissions WHERE id = :id", id=submission)
    assert row == {"resolution": "ATTACHED", "resolution_note": "seen in their dashboard"}
    assert len(await stage.simulator.bills(words)) == 1


@pytest.mark.parametrize(
    ("choice", "resolution", "bills"),
    [("It is not there: submit again", "RESUBMITTED", 2), ("Leave it as it is", "DISMISSED", 1)],
)
async def test_an_uncertain_submit_is_sent_again_or_left(
    stage: Stage, operator: Operator, choice: str, resolution: str, bills: int
) -> None:
    made, submission, words = await _uncertain(stage)
    page = await operator.open(f"/admin/generations/{made}")
    await page.get_by_label(choice).check()
    if resolution == "RESUBMITTED":
        await operator.press("Resolve")
        await operator.sees("the price of a second payment")
        await page.get_by_label("the second payment that you accept").fill("1")
    await operator.press("Resolve")
    await operator.sees("The submission is resolved")
    if resolution == "RESUBMITTED":
        await stage.running.ended(page.url.partition("?")[0].rpartition("/")[2])
    row = await stage.row("SELECT resolution FROM submissions WHERE id = :id", id=submission)
    assert row == {"resolution": resolution}
    assert len(await stage.simulator.bills(words)) == bills
