"""Errors and alerts in the console: found, resolved, acknowledged, silenced, tested."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from darkroom.common.v1 import common_pb2
from darkroom.monitor.v1 import monitor_pb2
from darkroom.monitor.v1.monitor_pb2_grpc import MonitorServiceStub
from playwright.async_api import expect

from libs.common.ids import new_id
from tests.support.browser import Operator, Stage, needed
from tests.support.simulator import simulated
from tests.support.waiting import eventually

pytestmark = [needed, pytest.mark.slow]
_numbers = itertools.count()


async def _logged(stage: Stage, message: str, generation_id: str, times: int = 3) -> None:
    entries = []
    for back in range(times):
        entry = monitor_pb2.ErrorEntry(
            id=new_id("log"),
            level=monitor_pb2.ERROR_LEVEL_ERROR,
            source="adapter:bfl",
            code=common_pb2.ERROR_CODE_PROVIDER_ERROR,
            message=message,
            generation_id=generation_id,
            stack="Traceback",
        )
        entry.occurred_at.FromDatetime(datetime.now(UTC) - timedelta(hours=back))
        entries.append(entry)
    stub = MonitorServiceStub(stage.running.channel("monitor"))
    await stub.LogError(monitor_pb2.LogErrorRequest(errors=entries), timeout=60)


async def test_an_error_is_found_followed_and_resolved(stage: Stage, operator: Operator) -> None:
    word = f"flamingo{chr(97 + next(_numbers))}"
    made = await stage.running.create("flux-pro", simulated("hit by an error", task_seconds=0))
    await stage.running.ended(made)
    await _logged(stage, f"The provider said {word}", made)
    page = await operator.open("/admin/monitoring/errors")
    await page.get_by_label("Words").fill(word)
    await operator.press("Show")
    await expect(page.locator("tbody tr")).to_have_count(1)
    bars = await page.locator(".spark .bars").get_attribute("d") or ""
    assert bars.count("M") == 3
    await page.get_by_role("link", name="PROVIDER_ERROR").click()
    await operator.sees("Each time it was seen")
    await page.get_by_role("link", name=made).first.click()
    await expect(page.locator(".timeline")).to_contain_text(word)
    await page.go_back()
    await page.get_by_label("What was done").fill("asked them to stop")
    await operator.press("Mark as resolved")
    await operator.sees("asked them to stop")
    row = await stage.row("SELECT resolved_at, resolution_note FROM error_groups WHERE message LIKE :w", w=f"%{word}%")
    assert row["resolved_at"] is not None
    assert row["resolution_note"] == "asked them to stop"
    await operator.open(f"/admin/monitoring/errors?text={word}")
    await operator.sees("There are no such errors.")


async def _raised(stage: Stage) -> tuple[str, str]:
    """The id and the type of an alert that fires."""
    kind = f"BY_HAND_{next(_numbers)}"
    request = monitor_pb2.SendAlertRequest(
        type=kind, severity=monitor_pb2.ALERT_SEVERITY_WARNING, message="Somebody should look."
    )
    stub = MonitorServiceStub(stage.running.channel("monitor"))
    return (await stub.SendAlert(request, timeout=60)).id, kind


async def test_an_alert_is_acknowledged(stage: Stage, operator: Operator) -> None:
    alert_id, kind = await _raised(stage)
    page = await operator.open("/admin/monitoring/alerts")
    await page.get_by_role("link", name=kind, exact=True).click()
    await page.get_by_label("Words for the others").fill("I am on it")
    await operator.press("Acknowledge")
    await operator.sees("The alert is acknowledged.")
    await operator.sees("I am on it")
    row = await stage.row(
        "SELECT acknowledged_at, acknowledged_by, acknowledge_note FROM system_alerts WHERE id = :id", id=alert_id
    )
    assert row["acknowledged_at"] is not None
    assert row["acknowledged_by"].startswith("admin (key_")
    assert row["acknowledge_note"] == "I am on it"


async def test_alerts_are_silenced_for_a_time_and_told_again(stage: Stage, operator: Operator) -> None:
    kind = f"NOISY_{next(_numbers)}"
    page = await operator.open("/admin/monitoring/alerts")
    await page.get_by_text("Silence alerts for a time").click()
    await page.get_by_label("Kind; empty for all").fill(kind)
    await page.get_by_label("For", exact=True).select_option("4")
    await page.get_by_label("Why").fill("known and harmless")
    await operator.press("Silence")
    await operator.sees("Alerts of this kind keep quiet until then.")
    row = await stage.row("SELECT reason, until, created_at FROM alert_silences WHERE type = :kind", kind=kind)
    assert row["reason"] == "known and harmless"
    assert abs((row["until"] - row["created_at"]) - timedelta(hours=4)) < timedelta(minutes=1)
    await operator.sees(kind)
    async with page.expect_navigation():
        await page.locator("li").filter(has_text=kind).get_by_role("button", name="End it").click()
    await operator.sees("The silence has ended.")
    row = await stage.row("SELECT until <= now() AS is_over FROM alert_silences WHERE type = :kind", kind=kind)
    assert row == {"is_over": True}


async def test_a_channel_is_tested_and_the_mail_arrives(stage: Stage, operator: Operator) -> None:
    before = len(stage.told.mailbox.messages)
    await operator.open("/admin/monitoring/alerts")
    await operator.press("Send a test to email")
    await operator.sees("A test was sent")
    await expect(operator.page.locator("tbody")).to_contain_text("delivered")

    async def has_come() -> bool:
        return len(stage.told.mailbox.messages) > before

    await eventually(has_come, within=15, what="the mail has come")
    alert_id = operator.page.url.partition("?")[0].rpartition("/")[2]
    body = stage.told.mailbox.messages[-1].get_body(("plain",))
    assert body is not None
    assert f"{stage.url}/admin/monitoring/alerts/{alert_id}" in body.get_content()
    row = await stage.row("SELECT channel, event, state FROM alert_deliveries WHERE alert_id = :id", id=alert_id)
    assert row == {"channel": "email", "event": "test", "state": "DELIVERED"}
