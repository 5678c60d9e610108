"""What becomes of alerts: explained by others, told together, tried again, escalated, by one replica at a time."""

from __future__ import annotations

from aiohttp import web

from libs.common.database.engine import Database
from libs.common.database.stores.alerts import AlertStore, Decision
from tests.support.alerting import Desk
from tests.support.monitors import ALWAYS_DOWN, MakeMonitor
from tests.support.rows import execute, rows
from tests.support.troubles import circuit_opens, most_fail, sent_again, spends, uncertain


async def test_what_explains_another_keeps_it_quiet_and_what_outlives_it_is_told(
    monitor: MakeMonitor, told: Desk
) -> None:
    found = await monitor(changes=ALWAYS_DOWN)
    await circuit_opens(found.database)
    await most_fail(found.database)
    await found.turn()
    assert {alert["type"]: alert["quiet_because"] for alert in await found.alerts()} == {
        "API_DOWN": None,
        "ERROR_RATE_HIGH": "explained by API_DOWN of bfl",
    }
    assert told.counts() == (1, 1, 1)
    await execute(found.database, "UPDATE provider_accounts SET breaker_state = 'CLOSED'")
    await found.turn()
    names = [alert["type"] for request in told.webhook.received for alert in request.json["data"]["alerts"]]
    assert sorted(names) == ["API_DOWN", "API_DOWN", "ERROR_RATE_HIGH"]


async def test_alerts_of_one_turn_go_out_together(monitor: MakeMonitor, told: Desk) -> None:
    found = await monitor()
    await uncertain(found.database)
    await spends(found.database)
    await sent_again(found.database)
    await found.turn()
    assert len(await found.alerts()) == 3
    assert told.counts() == (1, 1, 1)
    assert len(told.webhook.received[0].json["data"]["alerts"]) == 3


async def test_a_notice_is_tried_again_with_the_same_id_and_each_attempt_is_recorded(
    monitor: MakeMonitor, told: Desk
) -> None:
    told.webhook.answer = lambda number: web.Response(status=503 if number == 0 else 204)
    told.mailbox.refuses = True
    found = await monitor()
    await uncertain(found.database)
    await found.turn()
    await execute(found.database, "UPDATE alert_deliveries SET next_attempt_at = now()")
    told.mailbox.refuses = False
    await found.turn()
    attempts = await rows(
        found.database,
        """SELECT d.channel, a.attempt, a.error FROM alert_attempts a JOIN alert_deliveries d ON d.id = a.delivery_id
        ORDER BY d.channel, a.attempt""",
    )
    assert [(a["channel"], a["attempt"], a["error"]) for a in attempts] == [
        ("email", 1, "The mail server answered 451."),
        ("email", 2, None),
        ("slack", 1, None),
        ("webhook", 1, "The receiver answered 503."),
        ("webhook", 2, None),
    ]
    first, second = told.webhook.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert told.counts() == (1, 2, 1)


async def test_a_critical_alert_that_nobody_takes_is_escalated_once(monitor: MakeMonitor, told: Desk) -> None:
    found = await monitor(changes={**ALWAYS_DOWN, "after_seconds: 900": "after_seconds: 0.001"})
    await circuit_opens(found.database)
    for _ in range(4):
        await found.turn()
    assert told.events() == ["alert.firing", "alert.escalated"]


async def test_one_replica_evaluates_and_another_takes_over_when_it_is_gone(
    monitor: MakeMonitor, database: Database
) -> None:
    found = await monitor()
    await found.turn()
    (turn,) = await rows(database, "SELECT owner FROM monitor_turns WHERE name = 'evaluate'")
    assert turn["owner"] == "test"
    other = AlertStore(database, owner="other")

    async def evaluates() -> bool:
        return (
            await other.evaluate(lambda _: Decision(), windows=(), repeat_windows=(), patience_seconds=60) is not None
        )

    assert not await evaluates()
    await execute(database, "UPDATE monitor_turns SET done_at = now() - interval '2 minutes'")
    assert await evaluates()
