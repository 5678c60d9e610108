"""Callbacks: signed, in order, again until they are taken, and never to where they must not go."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest
from aiohttp import web
from darkroom.gateway.v1 import gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub
from standardwebhooks import WebhookVerificationError

from libs.common.database.engine import Database
from tests.conftest import StartStack
from tests.support.receiver import Receiver, receiver
from tests.support.rows import execute
from tests.support.running import Running
from tests.support.simulator import FAILS, simulated
from tests.support.waiting import eventually

DEAD, DELIVERED, PENDING = (
    gateway_pb2.CALLBACK_STATE_DEAD,
    gateway_pb2.CALLBACK_STATE_DELIVERED,
    gateway_pb2.CALLBACK_STATE_PENDING,
)


@pytest.fixture
async def hook() -> AsyncIterator[Receiver]:
    async with receiver() as found:
        yield found


async def _callbacks(running: Running, generation_id: str) -> list[gateway_pb2.Callback]:
    """Oldest first."""
    request = gateway_pb2.ListCallbacksRequest(generation_id=generation_id)
    return list(reversed((await running.gateway.ListCallbacks(request, timeout=60)).callbacks))


async def _reach(running: Running, generation_id: str, *states: int, within: float = 10) -> list[gateway_pb2.Callback]:
    async def reached() -> bool:
        return [callback.state for callback in await _callbacks(running, generation_id)] == list(states)

    await eventually(reached, within=within, what=f"the callbacks of {generation_id} are {states}")
    return await _callbacks(running, generation_id)


async def _make_due(database: Database) -> None:
    await execute(database, "UPDATE callbacks SET next_attempt_at = now() WHERE state = 'PENDING'")


async def test_each_change_comes_signed_once_and_in_order(running: Running, hook: Receiver) -> None:
    made = await running.new_key("acme", callback_url=hook.url)
    stub = GenerationServiceStub(running.channel_of(made.key))
    request = gateway_pb2.CreateGenerationRequest(
        model_identifier="flux-pro", prompt=simulated("told", task_seconds=0.3), labels={"team": "red"}
    )
    generation_id = (await stub.CreateGeneration(request, timeout=60)).id
    await _reach(running, generation_id, DELIVERED, DELIVERED)

    number = generation_id.removeprefix("gen_")
    assert hook.events() == [(f"cb_{number}_1", "generation.processing"), (f"cb_{number}_2", "generation.success")]
    secret = (await stub.GetCallbackSecret(gateway_pb2.GetCallbackSecretRequest(), timeout=60)).secret
    assert secret == made.callback_secret
    payloads = [request.verified(secret) for request in hook.received]
    assert [payload["data"]["status"] for payload in payloads] == ["PROCESSING", "SUCCESS"]
    end = payloads[1]["data"]
    assert (end["id"], end["labels"], end["costUsd"]) == (generation_id, {"team": "red"}, 0.04)
    assert end["results"][0]["sha256"] == (await running.get(generation_id)).results[0].sha256
    other = (await running.new_key("other")).callback_secret
    with pytest.raises(WebhookVerificationError):
        hook.received[0].verified(other)


async def test_a_request_names_its_own_url_and_a_failure_its_reason(running: Running, hook: Receiver) -> None:
    prompt = simulated("told of a failure", task_seconds=0.2, faults=FAILS)
    generation_id = await running.create("flux-pro", prompt, callback_url=hook.url)
    await _reach(running, generation_id, DELIVERED, DELIVERED)
    data = hook.received[-1].json["data"]
    assert (data["status"], data["error"]["code"]) == ("FAILED", "TASK_FAILED")


async def test_what_is_cancelled_before_it_left_is_told_as_that_alone(start_stack: StartStack, hook: Receiver) -> None:
    running = await start_stack(services=("gateway", "poller"))
    generation_id = await running.create("flux-pro", "x", callback_url=hook.url)
    await running.cancel(generation_id)
    await _reach(running, generation_id, DELIVERED)
    assert [event for _, event in hook.events()] == ["generation.cancelled"]


async def test_a_receiver_that_fails_is_asked_again_and_later_ones_wait_for_it(
    start_stack: StartStack, hook: Receiver, database: Database
) -> None:
    running = await start_stack()
    hook.answer = lambda number: web.Response(status=500 if number < 2 else 200)
    generation_id = await running.create("flux-pro", simulated("again", task_seconds=0.1), callback_url=hook.url)
    await running.ended(generation_id)

    async def tried() -> bool:
        return (await _callbacks(running, generation_id))[0].last_http_status == 500

    await eventually(tried, within=10, what="the first was refused")
    (first, second) = await _reach(running, generation_id, PENDING, PENDING)
    assert second.attempts == 0
    assert first.next_attempt_at.ToSeconds() > first.created_at.ToSeconds()

    async def delivered() -> bool:
        await _make_due(database)
        return all(callback.state == DELIVERED for callback in await _callbacks(running, generation_id))

    await eventually(delivered, within=10, what="both are delivered")
    identifier = hook.events()[0][0]
    assert [event for event, _ in hook.events()] == [identifier] * 3 + [identifier[:-1] + "2"]
    assert len({request.headers["webhook-timestamp"] for request in hook.received}) >= 1


async def test_after_a_day_it_is_a_dead_letter_that_can_be_replayed(
    start_stack: StartStack, hook: Receiver, database: Database
) -> None:
    running = await start_stack()
    hook.answer = lambda _: web.Response(status=503)
    generation_id = await running.create("flux-pro", simulated("dead", task_seconds=0.1), callback_url=hook.url)
    await running.ended(generation_id)
    await execute(database, "UPDATE callbacks SET give_up_at = now()")

    async def dead() -> bool:
        await _make_due(database)
        return {callback.state for callback in await _callbacks(running, generation_id)} == {DEAD}

    await eventually(dead, within=10, what="both are given up")
    listed = await running.gateway.ListCallbacks(gateway_pb2.ListCallbacksRequest(state=DEAD), timeout=60)
    assert len(listed.callbacks) == 2

    hook.answer = lambda _: web.Response(status=200)
    hook.received.clear()
    for callback in reversed(listed.callbacks):
        answer = await running.gateway.ReplayCallback(gateway_pb2.ReplayCallbackRequest(id=callback.id), timeout=60)
        assert answer.callback.state == PENDING
    await _reach(running, generation_id, DELIVERED, DELIVERED)
    assert [identifier for identifier, _ in hook.events()] == [c.id for c in reversed(listed.callbacks)]


async def test_a_receiver_that_is_gone_is_not_asked_again(running: Running, hook: Receiver) -> None:
    hook.answer = lambda _: web.Response(status=410)
    generation_id = await running.create("flux-pro", simulated("gone", task_seconds=0.1), callback_url=hook.url)
    found = await _reach(running, generation_id, DEAD, DEAD)
    assert found[0].attempts == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/", "http://[::1]/", "http://169.254.169.254/latest/meta-data", "http://2130706433/x",
        "ftp://example.com/", "http://user:password@example.com/", "nonsense", "http://",
    ],
)  # fmt: skip
async def test_a_url_that_must_not_be_called_is_refused_at_once(running: Running, url: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.create("flux-pro", "x", callback_url=url)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "callback_url" in (caught.value.details() or "")


async def test_a_name_that_leads_inside_and_a_redirect_that_does_are_dead_letters(
    running: Running, hook: Receiver
) -> None:
    by_name = await running.create("flux-pro", simulated("name", task_seconds=0.1), callback_url="http://localhost:9/")
    found = await _reach(running, by_name, DEAD, DEAD, within=15)
    assert "not public" in found[0].last_error

    hook.answer = lambda _: web.Response(status=307, headers={"location": "http://10.0.0.1/inside"})
    redirected = await running.create("flux-pro", simulated("hop", task_seconds=0.1), callback_url=hook.url)
    found = await _reach(running, redirected, DEAD, DEAD)
    assert "not public" in found[0].last_error


async def test_a_poller_that_dies_while_it_delivers_loses_nothing(
    start_stack: StartStack, hook: Receiver, database: Database
) -> None:
    running = await start_stack()
    generation_id = await running.create("flux-pro", simulated("killed", task_seconds=0.1))
    await running.ended(generation_id)
    running.stack.kill("poller")
    # As a poller leaves it that died with the request under way.
    await execute(
        database,
        """INSERT INTO callbacks (id, generation_id, sequence, owner, api_key_id, event, url, give_up_at,
            lease_owner, lease_until, lease_token, attempts)
        VALUES ('cb_1_2', :id, 2, 'admin', 'key_first', 'generation.success', :url, now() + interval '1 day',
            'poller:dead', now() + interval '1 second', 1, 1)""",
        id=generation_id,
        url=hook.url,
    )
    await running.restart("poller")
    (found,) = await _reach(running, generation_id, DELIVERED)
    assert (found.attempts, len(hook.received)) == (2, 1)
