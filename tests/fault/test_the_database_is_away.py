"""Law 8: with the database away, health says so at once, people are told, and no error raised meanwhile is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from sandbox.plan import SERVICES, SHIPPED_ALERT_RULES
from tests.conftest import StartStack
from tests.support.alerting import Desk, desk, rules_text
from tests.support.http import call
from tests.support.running import Running
from tests.support.waiting import eventually

_ANSWER_SECONDS = 2


@pytest.mark.timeout(300)
async def test_it_is_told_while_it_lasts_and_written_down_afterwards(start_stack: StartStack, tmp_path: Path) -> None:
    async with desk(tmp_path) as told:
        rules = tmp_path / "alerts.yaml"
        rules.write_text(rules_text(SHIPPED_ALERT_RULES.read_text(), told).replace("threshold: 10,", "threshold: 1,"))
        running = await start_stack(
            services=SERVICES, own_postgres=True, settings={**told.environment, "DARKROOM_ALERT_RULES": str(rules)}
        )
        assert running.stack.postgres is not None

        async def ask(path: str) -> Any:
            return await call(running.gateway_url(), path, key=running.admin_key)

        async def healthy() -> bool:
            return bool((await ask("/api/health")).json["status"] == "healthy")

        await eventually(healthy, within=20, what="all is well")

        await asyncio.to_thread(running.stack.postgres.stop)

        async def unhealthy() -> bool:
            health = await call(running.gateway_url(), "/api/health", key="")
            return (health.status, health.json["status"]) == (503, "unhealthy")

        await eventually(unhealthy, within=_ANSWER_SECONDS, what="health says 503")

        async def everybody_knows() -> bool:
            return all(number >= 1 for number in told.counts())

        await eventually(everybody_knows, within=10, what="DATABASE_DOWN is delivered")
        assert told.events() == ["alert.firing"]
        (alert,) = told.webhook.received[0].json["data"]["alerts"]
        assert (alert["type"], alert["severity"]) == ("DATABASE_DOWN", "CRITICAL")
        with pytest.raises(grpc.aio.AioRpcError):
            await running.create("flux-pro", "in vain")

        await asyncio.to_thread(running.stack.postgres.start)
        await _is_told_and_written_down(running, told, alert["id"])


async def _is_told_and_written_down(running: Running, told: Desk, alert_id: str) -> None:
    """Its end is told once, its notices are recorded, and each service's errors of meanwhile are in the log."""

    async def ask(path: str) -> Any:
        return await call(running.gateway_url(), path, key=running.admin_key)

    async def it_is_over() -> bool:
        return "alert.resolved" in told.events()

    await eventually(it_is_over, within=30, what="its end is told")
    assert told.events().count("alert.firing") == 1, "nobody is woken twice"
    shown = (await ask(f"/api/admin/monitoring/alerts/{alert_id}")).json
    assert shown["alert"]["state"] == "RESOLVED"

    async def recorded() -> bool:
        deliveries = (await ask(f"/api/admin/monitoring/alerts/{alert_id}")).json["deliveries"]
        return {(delivery["event"], delivery["state"]) for delivery in deliveries} == {
            ("firing", "DELIVERED"),
            ("resolved", "DELIVERED"),
        }

    await eventually(recorded, within=5, what="both notices are recorded")

    async def written() -> bool:
        found = (await ask("/api/admin/monitoring/errors?text=%22waits+for+the+database%22")).json["errors"]
        return {"gateway", "dispatcher", "poller", "monitor"} <= {group["example"]["source"] for group in found}

    await eventually(written, within=20, what="the errors of each service are in the log")
    assert await running.metric("gateway", "darkroom_errors_dropped_total") == 0
