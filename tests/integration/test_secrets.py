"""Secrets reach no log, no error and no metric."""

from __future__ import annotations

import aiohttp
from sqlalchemy import make_url

from tests.conftest import StartStack
from tests.support.http import call
from tests.support.running import FAILED
from tests.support.simulator import simulated


async def test_no_credential_shows_anywhere(start_stack: StartStack) -> None:
    running = await start_stack(settings={"DARKROOM_LOG_LEVEL": "trace"}, webhooks=True)
    environment = running.stack.environment
    secrets = [
        environment["BFL_API_KEY"],
        environment["TUZI_API_KEY"],
        # It goes along with each submit.
        environment["BFL_WEBHOOK_SECRET"],
        environment["DARKROOM_S3_SECRET_ACCESS_KEY"],
        str(make_url(environment["DARKROOM_DATABASE_URL"]).password),
        environment["DARKROOM_KEY_SECRET"],
        environment["DARKROOM_SERVICE_TOKEN"],
        environment["DARKROOM_ADMIN_KEY"],
    ]
    told = ""
    for model in ("flux-pro", "gpt-image-1"):
        for kind in ("400", "500", "reset", "html"):
            prompt = simulated(
                "x", task_seconds=0, faults=[{"operation": "submit", "kind": kind, "after": kind == "500"}]
            )
            generation = await running.ended(await running.create(model, prompt))
            assert generation.status == FAILED
            told += str(generation)
    await running.ended(await running.create("flux-pro", simulated("x", task_seconds=0)))
    made = await running.new_key("acme")
    secrets += [made.key, made.callback_secret]
    for key in (made.key, f"{made.key}-wrong"):
        told += str(await call(running.gateway_url(), "/api/external/models?x=1", key=key))
        told += str(await call(running.gateway_url(), "/v1/models/none", headers={"authorization": f"Bearer {key}"}))
    for service in ("gateway", "dispatcher", "poller"):
        told += running.log(service)
        url = f"http://127.0.0.1:{running.stack.plan.ports.metrics[service]}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as reply:
            told += await reply.text()
    assert "generation accepted" in told
    assert [secret for secret in secrets if secret in told] == []
