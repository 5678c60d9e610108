"""Webhooks of providers end polling early; lost, doubled, forged and unknown ones do no harm."""

from __future__ import annotations

import io
import json
from typing import Any

import aiohttp
import pytest
from darkroom.gateway.v1 import gateway_pb2

from libs.common.database.engine import Database
from sandbox.simulators.signing import standard_signature
from tests.conftest import StartStack, with_webhooks
from tests.support.rows import rows
from tests.support.running import SUCCESS, Running
from tests.support.simulator import Simulator, simulated
from tests.support.waiting import eventually

REFUSED = "The webhook was refused."
# Polling alone would take a minute.
MODELS = ["flux-pro", "kling-v1-6", "pollo-v1-6", "flux-schnell", "flux-dev-fal"]


def _url(running: Running, provider: str) -> str:
    return f"http://127.0.0.1:{running.stack.plan.ports.gateway_http}/api/webhooks/{provider}"


async def _post(running: Running, provider: str, body: bytes | io.BytesIO, headers: dict[str, str]) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(_url(running, provider), data=body, headers=headers) as reply,
    ):
        text = await reply.text()
        return reply.status, json.loads(text)["detail"] if text else ""


def _secret(running: Running, name: str) -> str:
    return running.stack.plan.environment[name]


def _signed(running: Running, task_id: str, **more: Any) -> tuple[bytes, dict[str, str]]:
    body = json.dumps({"id": task_id, "status": "processing", **more}).encode()
    return body, standard_signature(body, _secret(running, "REPLICATE_WEBHOOK_SECRET"), version="v1,")


async def _task_id(running: Running, generation_id: str) -> str:
    async def found() -> str:
        return (await running.get(generation_id)).provider_task_id

    return await eventually(found, within=10, what="the task was handed over")


async def _webhooks(running: Running, provider: str, **labels: str) -> float:
    return await running.metric("gateway", "darkroom_webhooks_total", provider=provider, **labels)


@pytest.mark.parametrize("model", MODELS)
async def test_a_webhook_ends_what_polling_would_end_a_minute_later(
    hooked: Running, simulator: Simulator, model: str
) -> None:
    prompt = simulated("reported", task_seconds=0.3)
    generation = await hooked.ended(await hooked.create(model, prompt), within=15)
    assert generation.status == SUCCESS, generation.error
    assert generation.results[0].sha256
    assert len(await simulator.bills(prompt)) == 1


async def test_a_failure_that_is_reported_has_its_reason(hooked: Running) -> None:
    prompt = simulated("bad", task_seconds=0.2, faults=[{"operation": "result", "kind": "moderated"}])
    generation = await hooked.ended(await hooked.create("flux-schnell", prompt), within=15)
    assert "NSFW" in generation.error.message


async def test_doubled_webhooks_change_nothing(hooked: Running, simulator: Simulator) -> None:
    prompt = simulated("twice", task_seconds=0.2, webhooks_doubled=1.0)
    ignored = await _webhooks(hooked, "replicate", outcome="ignored")
    generation_id = await hooked.create("flux-schnell", prompt)
    before = await hooked.ended(generation_id, within=15)

    async def both_came() -> bool:
        return await _webhooks(hooked, "replicate", outcome="ignored") == ignored + 1

    await eventually(both_came, within=10, what="both came")
    assert (await hooked.get(generation_id)).updated_at == before.updated_at


async def test_a_lost_webhook_costs_time_and_nothing_else(start_stack: StartStack, simulator: Simulator) -> None:
    def hasty(catalog: dict[str, Any]) -> None:
        with_webhooks(catalog)
        catalog["providers"]["replicate"]["webhooks"]["poll_interval_seconds"] = 1

    running = await start_stack(adjust=hasty, webhooks=True)
    prompt = simulated("lost", task_seconds=0.2, webhooks_lost=1.0)
    generation = await running.ended(await running.create("flux-schnell", prompt), within=15)
    assert generation.status == SUCCESS
    assert await running.metric("gateway", "darkroom_webhooks_total") == 0


async def test_progress_that_is_reported_shows(hooked: Running) -> None:
    generation_id = await hooked.create("flux-schnell", simulated("slow", task_seconds=600))
    body, headers = _signed(hooked, await _task_id(hooked, generation_id), logs="42%|###")
    assert (await _post(hooked, "replicate", body, headers))[0] == 200

    async def shows() -> bool:
        return (await hooked.get(generation_id)).progress >= 42

    await eventually(shows, within=5, what="the progress shows")


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="unsigned"),
        pytest.param({"webhook-id": "x", "webhook-timestamp": "1", "webhook-signature": "v1,AAAA"}, id="old"),
    ],
)
async def test_what_is_not_signed_is_not_believed(hooked: Running, headers: dict[str, str]) -> None:
    generation_id = await hooked.create("flux-schnell", simulated("slow", task_seconds=600))
    task_id = await _task_id(hooked, generation_id)
    body = json.dumps({"id": task_id, "status": "succeeded", "output": "https://evil.example/1.png"}).encode()
    assert await _post(hooked, "replicate", body, headers) == (401, REFUSED)
    assert (await hooked.get(generation_id)).status == gateway_pb2.GENERATION_STATUS_PROCESSING


async def test_one_signed_with_another_secret_is_not_believed(hooked: Running) -> None:
    body = b'{"id": "x", "status": "failed"}'
    assert (await _post(hooked, "replicate", body, standard_signature(body, "AAAA", version="v1,")))[0] == 401


async def test_unknown_tasks_and_providers_are_not_found_without_detail(hooked: Running) -> None:
    body, headers = _signed(hooked, "nobodys-task")
    assert await _post(hooked, "replicate", body, headers) == (404, REFUSED)
    assert await _post(hooked, "nobody", body, headers) == (404, REFUSED)
    # An account that sends none.
    assert await _post(hooked, "tuzi", body, headers) == (404, REFUSED)


async def test_a_signed_webhook_that_cannot_be_read_is_refused(hooked: Running) -> None:
    body = b"[1, 2"
    headers = standard_signature(body, _secret(hooked, "REPLICATE_WEBHOOK_SECRET"), version="v1,")
    assert (await _post(hooked, "replicate", body, headers))[0] == 400


@pytest.mark.parametrize("text", ["https://a/\ud800", "https://a/\x00"])
async def test_what_utf8_or_postgres_cannot_say_is_cut_out_of_the_report(hooked: Running, text: str) -> None:
    generation_id = await hooked.create("flux-schnell", simulated("odd", task_seconds=600))
    task_id = await _task_id(hooked, generation_id)
    body = json.dumps({"id": task_id, "status": "succeeded", "output": text}).encode()
    headers = standard_signature(body, _secret(hooked, "REPLICATE_WEBHOOK_SECRET"), version="v1,")
    assert (await _post(hooked, "replicate", body, headers))[0] == 200
    # The report is believed, and the result fetched; nothing that cannot be written has ended the task.
    found = await hooked.get(generation_id)
    assert found.status == gateway_pb2.GENERATION_STATUS_PROCESSING
    assert not found.error.code


async def test_a_huge_one_is_refused_before_it_is_read_to_the_end(hooked: Running) -> None:
    assert (await _post(hooked, "replicate", io.BytesIO(b"x" * (2 * 1024**2)), {}))[0] == 413


async def test_an_unsigned_hint_is_confirmed_by_a_check(hooked: Running) -> None:
    generation_id = await hooked.create("kling-v1-6", simulated("forged", task_seconds=600))
    task_id = await _task_id(hooked, generation_id)
    body = json.dumps({"code": 0, "data": {"task_id": task_id, "task_status": "succeed"}}).encode()
    assert (await _post(hooked, "kling", body, {}))[0] == 200

    async def was_checked() -> bool:
        return (await hooked.get(generation_id)).polls >= 1

    await eventually(was_checked, within=5, what="the task was checked at once")
    assert (await hooked.get(generation_id)).status != SUCCESS


async def test_with_the_poller_away_the_vendor_is_told_to_come_again(start_stack: StartStack) -> None:
    running = await start_stack(adjust=with_webhooks, webhooks=True, services=("gateway",))
    body, headers = _signed(running, "some-task")
    assert (await _post(running, "replicate", body, headers))[0] == 503


async def test_a_report_after_a_cancel_is_dropped_and_counted(hooked: Running) -> None:
    # Cancelled at a vendor that cannot cancel: the task runs on and is reported.
    generation_id = await hooked.create("pollo-v1-6", simulated("runs on", task_seconds=600))
    dropped = await hooked.metric("poller", "darkroom_late_results_total", kind="webhook")
    task_id = await _task_id(hooked, generation_id)
    await hooked.cancel(generation_id)
    ended = await hooked.ended(generation_id, within=10)
    body = json.dumps({"taskId": task_id, "generations": [{"status": "succeed", "url": "https://a/1"}]}).encode()
    headers = standard_signature(body, _secret(hooked, "POLLO_WEBHOOK_SECRET"), prefix="x-")
    assert (await _post(hooked, "pollo", body, headers))[0] == 200
    found = await hooked.get(generation_id)
    assert (ended.at_risk_usd > 0, found.at_risk_usd) == (True, 0), "what it cost is known now"
    found.at_risk_usd = ended.at_risk_usd
    assert found == ended
    assert await hooked.metric("poller", "darkroom_late_results_total", kind="webhook") == dropped + 1


async def test_refusals_make_one_row_a_minute(start_stack: StartStack, database: Database) -> None:
    running = await start_stack(services=("gateway", "monitor"), webhooks=True)
    outcomes = [await _post(running, "replicate", b"{}", {}) for _ in range(50)]
    assert outcomes == [(401, REFUSED)] * 50
    assert await _webhooks(running, "replicate", outcome="401") == 50
    outcomes = [await _post(running, "fal", b"{}", {}) for _ in range(50)]

    async def reported() -> list[str]:
        found = await rows(database, "SELECT source FROM error_logs WHERE source LIKE 'adapter:%' ORDER BY source")
        sources = [row["source"] for row in found]
        return sources if "adapter:fal" in sources else []

    # Reported in their order: those of the first provider are there when that of the second is.
    assert await eventually(reported, within=20, what="the refusals are reported") == [
        "adapter:fal",
        "adapter:replicate",
    ]
