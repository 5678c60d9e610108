"""What operators ask of the monitor through the gateway: alerts by hand, silences, figures, log levels, health."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from sandbox.plan import SHIPPED_ALERT_RULES
from tests.conftest import StartStack
from tests.support.alerting import desk, rules_text
from tests.support.http import call
from tests.support.running import FAILED, SUCCESS, Running
from tests.support.simulator import FAILS, simulated
from tests.support.waiting import eventually

_MONITORING = "/api/admin/monitoring"


async def _ask(running: Running, path: str, body: dict[str, Any] | None = None, method: str = "") -> Any:
    verb = method or ("GET" if body is None else "POST")
    return await call(running.gateway_url(), path, method=verb, key=running.admin_key, json_body=body)


async def test_an_alert_by_hand_ends_with_its_acknowledgement(running: Running) -> None:
    body = {"type": "DISK_ALMOST_FULL", "severity": "WARNING", "message": "the disk of the database is almost full"}
    made = (await _ask(running, f"{_MONITORING}/alerts", body)).json
    shown = (await _ask(running, f"{_MONITORING}/alerts/{made['id']}")).json
    assert (shown["alert"]["state"], shown["alert"]["type"]) == ("FIRING", "DISK_ALMOST_FULL")
    taken = (await _ask(running, f"{_MONITORING}/alerts/{made['id']}/acknowledge", {"note": "on it"})).json["alert"]
    assert (taken["state"], taken["acknowledgeNote"]) == ("RESOLVED", "on it")
    assert taken["acknowledgedBy"].startswith("admin (key_")
    listed = (await _ask(running, f"{_MONITORING}/alerts?state=RESOLVED&severity=WARNING")).json["alerts"]
    assert made["id"] in {alert["id"] for alert in listed}


async def test_a_rules_name_is_not_for_alerts_by_hand_nor_a_channel_that_is_not_there(running: Running) -> None:
    body = {"type": "API_DOWN", "severity": "WARNING", "message": "x", "channels": ["pigeon"]}
    refused = await _ask(running, f"{_MONITORING}/alerts", body)
    assert refused.status == 400
    assert {violation["field"] for violation in refused.json["violations"]} == {"type", "channels[0]"}


async def test_a_silence_has_an_end_and_can_be_ended(running: Running) -> None:
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    body = {"type": "QUEUE_STALLED", "subject": "nobody", "until": until, "reason": "a planned stop"}
    made = (await _ask(running, f"{_MONITORING}/silences", body)).json["id"]
    (silence,) = [s for s in (await _ask(running, f"{_MONITORING}/silences")).json["silences"] if s["id"] == made]
    assert (silence["reason"], silence["subject"]) == ("a planned stop", "nobody")
    assert (await _ask(running, f"{_MONITORING}/silences/{made}", method="DELETE")).status == 200
    assert made not in {s["id"] for s in (await _ask(running, f"{_MONITORING}/silences")).json["silences"]}
    past = {**body, "until": "2020-01-01T00:00:00Z"}
    assert (await _ask(running, f"{_MONITORING}/silences", past)).status == 400


async def test_statistics_count_what_has_just_happened(running: Running) -> None:
    before = (await _ask(running, f"{_MONITORING}/stats")).json
    good = await running.ended(await running.create("flux-pro", simulated("counted", task_seconds=0.1)))
    prompt = simulated("counted out", task_seconds=0.1, faults=FAILS)
    bad = await running.ended(await running.create("flux-pro", prompt))
    assert (good.status, bad.status) == (SUCCESS, FAILED)
    after = (await _ask(running, f"{_MONITORING}/stats")).json
    for name, least in {"totalRequests": 2, "completedTasks": 1, "failedTasks": 1}.items():
        assert after[name] - before[name] >= least, name
    assert after["p50Seconds"] > 0
    assert after["memoryUsageBytes"] > 100_000_000
    (adapter,) = [stats for stats in after["adapterStats"] if stats["adapterName"] == "bfl"]
    assert adapter["callCount"] >= adapter["successCount"] >= 2

    async def last_error() -> Any:
        stats = (await _ask(running, f"{_MONITORING}/stats")).json["adapterStats"]
        return next(one for one in stats if one["adapterName"] == "bfl").get("lastError")

    assert (await eventually(last_error, within=10, what="the failure is in the error log"))["code"]


async def test_the_range_of_statistics_is_checked(running: Running) -> None:
    wrong = await _ask(running, f"{_MONITORING}/stats?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z")
    assert (wrong.status, wrong.json["violations"][0]["field"]) == (400, "from")
    long_ago = await _ask(running, f"{_MONITORING}/stats?from=2020-01-01T00:00:00Z&to=2020-01-02T00:00:00Z")
    assert (long_ago.status, long_ago.json["totalRequests"]) == (200, 0)


async def test_every_process_says_that_it_runs(running: Running) -> None:
    async def all_ready() -> bool:
        found = (await _ask(running, f"{_MONITORING}/instances")).json["instances"]
        return {"gateway", "dispatcher", "poller", "monitor"} <= {one["service"] for one in found if one["isReady"]}

    await eventually(all_ready, within=10, what="all processes say that they are ready")
    for one in (await _ask(running, f"{_MONITORING}/instances")).json["instances"]:
        assert one["owner"].startswith(f"{one['service']}:")
        assert one["residentBytes"] > 20_000_000


async def test_a_services_log_level_changes_at_work_and_goes_back_by_itself(start_stack: StartStack) -> None:
    running = await start_stack(
        services=("gateway", "monitor"), settings={"DARKROOM_LOG_LEVEL": "info", "DARKROOM_HEARTBEAT_SECONDS": "0.3"}
    )

    def lines() -> int:
        return sum(json.loads(line)["level"] == "debug" for line in running.log("gateway").splitlines())

    async def debugs() -> bool:
        before = lines()
        for _ in range(5):
            await _ask(running, "/api/external/models")
        return lines() > before

    async def does_not() -> bool:
        return not await debugs()

    assert not await debugs()
    body = {"service": "gateway", "level": "debug", "seconds": 2}
    assert (await _ask(running, f"{_MONITORING}/log-level", body)).status == 200
    await eventually(debugs, within=5, what="the gateway logs for debugging")
    await eventually(does_not, within=10, what="it logs as its settings say")


async def test_health_tells_each_component_and_answers_for_the_whole(running: Running) -> None:
    async def known() -> Any:
        return (await _ask(running, "/api/health/detailed")).json["components"].get("services", {}).get("poller")

    await eventually(known, within=10, what="the monitor has looked")
    health = (await _ask(running, "/api/health/detailed")).json
    assert set(health) == {"status", "timestamp", "uptime", "version", "components"}
    components = health["components"]
    assert set(components["services"]) == {"gateway", "dispatcher", "poller", "monitor", "experiments"}
    assert components["services"]["poller"]["status"] == "up"
    # It does not run here: what the whole says, and what gRPC says, follow.
    assert (components["services"]["experiments"]["status"], health["status"]) == ("down", "degraded")

    async def serves() -> bool:
        return await asyncio.to_thread(running.health, "monitor", "system") == "SERVING"

    await eventually(serves, within=10, what="gRPC reports the same")

    async def is_told() -> bool:
        return await asyncio.to_thread(running.health, "monitor", "service:experiments") == "NOT_SERVING"

    await eventually(is_told, within=10, what="gRPC says so of the service")
    assert components["adapters"]["bfl"]["status"] in {"up", "degraded"}
    for component in (components["database"], components["s3"], components["pollingService"]):
        assert component["status"] == "up"
        assert set(component) == {"status", "message", "lastCheck", "responseTime"}
    client = (await running.new_key("acme")).key
    assert (await call(running.gateway_url(), "/api/health/detailed", key=client)).status == 403


async def _told_by_list(running: Running) -> None:
    found = {one["name"]: one for one in (await _ask(running, f"{_MONITORING}/channels")).json["channels"]}
    assert sorted(found) == ["alertmanager", "email", "slack", "webhook"]
    assert {name: one["type"] for name, one in found.items()} == {name: name for name in found}
    assert found["alertmanager"]["missingVariables"] == ["DARKROOM_ALERTMANAGER_URL"]
    assert [one["missingVariables"] for name, one in found.items() if name != "alertmanager"] == [[], [], []]
    assert set(found["email"]["severities"]) == {"CRITICAL", "WARNING"}


async def test_a_test_message_reaches_each_channel(start_stack: StartStack, tmp_path: Any) -> None:
    async with desk(tmp_path) as told:
        rules = tmp_path / "alerts.yaml"
        rules.write_text(rules_text(SHIPPED_ALERT_RULES.read_text(), told))
        running = await start_stack(
            services=("gateway", "monitor"), settings={**told.environment, "DARKROOM_ALERT_RULES": str(rules)}
        )
        await _told_by_list(running)
        channels = ["email", "webhook", "slack"]
        body = {"type": "TEST", "severity": "INFO", "message": "does it ring?", "channels": channels}
        made = (await _ask(running, f"{_MONITORING}/alerts", body)).json["id"]

        async def came() -> bool:
            return told.counts() == (1, 1, 1)

        await eventually(came, within=10, what="each channel has it")
        assert told.events() == ["alert.test"]

        async def recorded() -> bool:
            shown = (await _ask(running, f"{_MONITORING}/alerts/{made}")).json["deliveries"]
            return {delivery["state"] for delivery in shown} == {"DELIVERED"}

        await eventually(recorded, within=5, what="its deliveries are recorded")
        # A file with a fault is refused, and the old one stays.
        rules.write_text("rules: {NOTHING: {threshold: many}}")

        async def refused() -> bool:
            return await running.metric("monitor", "darkroom_alert_rules_reloads_total", outcome="refused") > 0

        await eventually(refused, within=5, what="the fault is told")
