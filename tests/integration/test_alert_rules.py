"""Each rule: rows make it fire once, it reaches people, keeps quiet, and ends by itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from libs.common.database.engine import Database
from libs.common.settings import Settings
from sandbox.processes import free_port
from tests.support.alerting import Desk
from tests.support.away import Door, healthy_server
from tests.support.buckets import ACCESS_DENIED, refusing_bucket
from tests.support.monitors import ALWAYS_DOWN, MakeMonitor, Monitor
from tests.support.rows import execute
from tests.support.troubles import (
    circuit_opens,
    credentials_are_refused,
    key_spends,
    most_fail,
    sent_again,
    spends,
    tasks_are_missing,
    tasks_time_out,
    uncertain,
    waits,
)
from tests.support.waiting import eventually

_OLD = "UPDATE statistics SET at = at - interval '2 hours' WHERE period = 'minute'"
CASES: dict[str, tuple[Callable[[Database], Awaitable[None]], str]] = {
    "ERROR_RATE_HIGH": (most_fail, _OLD),
    "TASK_TIMEOUT": (tasks_time_out, _OLD),
    "RETRIES_EXCEEDED": (sent_again, "UPDATE submissions SET started_at = now() - interval '2 hours'"),
    "API_DOWN": (circuit_opens, "UPDATE provider_accounts SET breaker_state = 'CLOSED'"),
    "QUEUE_STALLED": (waits, "UPDATE generation_requests SET released_at = now()"),
    "BUDGET_SPENT": (spends, "UPDATE provider_accounts SET spend_usd = 1"),
    "SUBMISSION_UNCERTAIN": (
        uncertain,
        "UPDATE submissions SET resolution = 'DISMISSED', resolved_at = now() WHERE state = 'UNCERTAIN'",
    ),
    "TASKS_MISSING": (tasks_are_missing, "UPDATE poll_tasks SET missing_since = NULL, retry_count = 0"),
    "CREDENTIALS_REFUSED": (
        credentials_are_refused,
        "UPDATE provider_accounts SET polls_paused_at = NULL, polls_probe_at = NULL",
    ),
}


@pytest.mark.parametrize("rule", CASES)
async def test_a_rule_fires_once_is_told_everywhere_keeps_quiet_and_ends_by_itself(
    rule: str, monitor: MakeMonitor, told: Desk
) -> None:
    found = await monitor(changes=ALWAYS_DOWN)
    await found.turn()
    assert await found.alerts() == []

    make, clear = CASES[rule]
    await make(found.database)
    await found.turn()
    (alert,) = await found.alerts()
    assert (alert["type"], alert["subject"].removeprefix("provider:"), alert["state"]) == (rule, "bfl", "FIRING")
    assert alert["value"] > alert["threshold"]
    assert told.counts() == (1, 1, 1)
    assert told.events() == ["alert.firing"]
    _says_what(told, alert)

    for _ in range(3):
        await found.turn()
    assert told.counts() == (1, 1, 1), "within its interval it is not told again"

    await execute(found.database, clear)
    await found.turn()
    (alert,) = await found.alerts()
    assert alert["state"] == "RESOLVED"
    assert told.events() == ["alert.firing", "alert.resolved"]
    assert told.counts() == (2, 2, 2)
    await found.turn()
    assert told.counts() == (2, 2, 2)


def _says_what(told: Desk, alert: Mapping[str, Any]) -> None:
    """Each channel says what, how much against which threshold, since when, and where to look."""
    (mail,) = told.mailbox.messages
    text, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert text is not None
    assert html is not None
    assert alert["type"] in mail["Subject"]
    for part in (text.get_content(), html.get_content()):
        for word in (alert["message"], "threshold", "UTC", f"https://console.example/monitoring/alerts/{alert['id']}"):
            assert word in part, (word, part)
    payload = told.webhook.received[0].verified(told.secret)
    (shown,) = payload["data"]["alerts"]
    assert (shown["id"], shown["message"], shown["threshold"]) == (alert["id"], alert["message"], alert["threshold"])
    blocks = told.slack.received[0].json["blocks"]
    assert [block["type"] for block in blocks] == ["header", "section"]
    assert alert["message"] in blocks[1]["text"]["text"]


@pytest.mark.parametrize("rule", ["STORAGE_DOWN", "SERVICE_DOWN"])
async def test_what_is_away_is_told_everywhere_once_and_its_return_too(
    rule: str, monitor: MakeMonitor, told: Desk, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, service = await Door.to(str(settings.s3_endpoint_url)), free_port()
    monkeypatch.setenv("DARKROOM_S3_ENDPOINT_URL", f"http://127.0.0.1:{storage.port}")
    monkeypatch.setenv("DARKROOM_POLLER_ADDRESS", f"127.0.0.1:{service}")
    monkeypatch.setenv("DARKROOM_SERVICE_TOKEN", "x" * 40)
    found = await monitor(changes=ALWAYS_DOWN, settings=Settings())
    server = await healthy_server(service)
    await found.turn()
    assert await found.alerts() == []

    if rule == "STORAGE_DOWN":
        await storage.close()
    else:
        await server.stop(grace=None)
    await _until(found, lambda alerts: [alert["state"] for alert in alerts] == ["FIRING"])
    (alert,) = await found.alerts()
    assert (alert["type"], alert["subject"], alert["severity"]) == (
        rule,
        "poller" if rule == "SERVICE_DOWN" else "",
        "CRITICAL",
    )
    assert (told.counts(), told.events()) == ((1, 1, 1), ["alert.firing"])
    await found.turn()
    assert told.counts() == (1, 1, 1)

    if rule == "STORAGE_DOWN":
        await storage.open()
    else:
        server = await healthy_server(service)
    await _until(found, lambda alerts: [alert["state"] for alert in alerts] == ["RESOLVED"])
    assert (told.counts(), told.events()) == ((2, 2, 2), ["alert.firing", "alert.resolved"])
    await server.stop(grace=None)
    await storage.close()


@pytest.mark.slow
async def test_a_bucket_that_takes_no_objects_is_told_with_its_cause_and_so_is_its_end(
    monitor: MakeMonitor, settings: Settings
) -> None:
    async with refusing_bucket() as bucket:
        bucket.refusals["PUT"] = ACCESS_DENIED
        settings = settings.model_copy(update={"s3_endpoint_url": bucket.url})
        found = await monitor(changes=ALWAYS_DOWN, settings=settings)
        await _until(found, lambda alerts: ("STORAGE_DOWN", "FIRING") in _states(alerts))
        (alert,) = [alert for alert in await found.alerts() if alert["type"] == "STORAGE_DOWN"]
        assert "AccessDenied on PutObject (bucket darkroom)" in alert["message"]
        bucket.refusals.clear()
        await _until(found, lambda alerts: ("STORAGE_DOWN", "RESOLVED") in _states(alerts))


def _states(alerts: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(alert["type"], alert["state"]) for alert in alerts]


async def _until(found: Monitor, is_so: Callable[[list[dict[str, Any]]], bool]) -> None:
    """Turn until the alerts are so: a channel needs a moment to find its server again."""

    async def turned() -> bool:
        await found.turn()
        return is_so(await found.alerts())

    await eventually(turned, within=15, what="the alerts are so")


async def test_a_key_that_has_spent_its_month_is_told_by_its_owner(monitor: MakeMonitor, told: Desk) -> None:
    found = await monitor()
    await key_spends(found.database)
    await found.turn()
    (alert,) = await found.alerts()
    assert (alert["type"], alert["subject"], alert["value"]) == ("BUDGET_SPENT", "key:key_1", 0.95)
    assert "$95.00 of the $100.00 that a key of acme" in alert["message"]
    assert "$10.00 reserved, $70.00 spent, $15.00 at risk" in alert["message"]
    assert told.counts() == (1, 1, 1)
