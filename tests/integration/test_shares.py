"""No address, key or owner takes more than its share: streams, calls without a message, connections, requests."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from typing import Any

import aiohttp
import grpc
import pytest
from darkroom.gateway.v1 import admin_pb2, gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from sandbox.processes import free_port
from tests.conftest import StartStack
from tests.support.closing import cancelling
from tests.support.console import SESSION, visitor
from tests.support.http import call
from tests.support.relays import relay
from tests.support.running import Running
from tests.support.waiting import eventually, promptly

SMALL = {
    "DARKROOM_STREAMS": "6",
    "DARKROOM_STREAMS_PER_ADDRESS": "5",
    "DARKROOM_STREAMS_PER_OWNER": "4",
    "DARKROOM_STREAMS_PER_KEY": "3",
    "DARKROOM_KEYLESS_STREAMS": "4",
    "DARKROOM_KEYLESS_STREAMS_PER_ADDRESS": "2",
    "DARKROOM_HTTP_REQUESTS_PER_KEY": "3",
    "DARKROOM_HTTP_REQUESTS_PER_OWNER": "4",
}
# The stubs know nothing of its methods.
HealthStub: Any = health_pb2_grpc.HealthStub
CHECK = health_pb2.HealthCheckRequest()


async def _begun(stream: Any) -> grpc.StatusCode | None:
    """None once it has begun; else with what it was refused."""
    try:
        await stream.read()
    except grpc.aio.AioRpcError as error:
        return error.code()
    return None


def _watch(stub: GenerationServiceStub, generation_id: str) -> Any:
    return stub.WatchGeneration(gateway_pb2.WatchGenerationRequest(id=generation_id))


async def _created(stub: GenerationServiceStub) -> str:
    asked = gateway_pb2.CreateGenerationRequest(model_identifier="flux-pro", prompt="x")
    return (await stub.CreateGeneration(asked, timeout=60)).id


async def test_streams_have_a_share_of_key_owner_and_address(start_stack: StartStack) -> None:
    running = await start_stack(services=("gateway",), settings=SMALL)
    keys = [(await running.new_key(owner)).key for owner in ("acme", "acme", "umbrella")]
    first, second, other = (GenerationServiceStub(running.channel_of(key)) for key in keys)
    of_acme, of_other = await _created(first), await _created(other)
    async with AsyncExitStack() as open_streams:

        def opened(stub: GenerationServiceStub, generation_id: str) -> Any:
            return open_streams.enter_context(cancelling(_watch(stub, generation_id)))

        kept = [opened(first, of_acme) for _ in range(3)]
        assert [await _begun(stream) for stream in kept] == [None] * 3
        refused = opened(first, of_acme)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await refused.read()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "at most 3" in (caught.value.details() or "")
        status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
        assert status is not None
        info, retry = ErrorInfo(), RetryInfo()
        for detail in status.details:
            detail.Unpack(info)
            detail.Unpack(retry)
        assert (info.reason, info.metadata["share"]) == ("RATE_LIMITED", "key")
        assert retry.retry_delay.seconds > 0

        assert await _begun(opened(second, of_acme)) is None
        assert await _begun(opened(second, of_acme)) is grpc.StatusCode.RESOURCE_EXHAUSTED, "the owner's share"
        assert await _begun(opened(other, of_other)) is None
        assert await _begun(opened(other, of_other)) is grpc.StatusCode.RESOURCE_EXHAUSTED, "the address's share"
        # Unary calls of all of them go on.
        for stub in (first, second, other):
            await _created(stub)
        async with (
            relay(running.gateway_port(), "127.0.0.2") as port,
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        ):
            elsewhere = GenerationServiceStub(channel)
            request = gateway_pb2.WatchGenerationRequest(id=of_other)
            with cancelling(elsewhere.WatchGeneration(request, metadata=(("x-api-key", keys[2]),))) as stream:
                assert await _begun(stream) is None
        kept[0].cancel()

        async def there_is_room() -> bool:
            with cancelling(_watch(first, of_acme)) as stream:
                return await _begun(stream) is None

        await eventually(there_is_room, within=5, what="what was given back can be taken")
        assert await running.metric("gateway", "darkroom_shares_refused_total", kind="streams", share="key") >= 1
        assert await running.metric("gateway", "darkroom_shares_held", kind="streams") >= 4


async def test_uploads_hold_a_stream(start_stack: StartStack) -> None:
    running = await start_stack(services=("gateway",), settings=SMALL)
    stub = await running.client("acme")
    async with AsyncExitStack() as open_streams:

        async def upload() -> Any:
            stream = open_streams.enter_context(cancelling(stub.UploadBatch()))
            await stream.write(gateway_pb2.UploadBatchRequest())
            return stream

        for _ in range(3):
            await upload()

        async def held() -> bool:
            return await running.metric("gateway", "darkroom_shares_held", kind="streams") == 3

        await eventually(held, within=5, what="three uploads are open")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.UploadBatch(iter([gateway_pb2.UploadBatchRequest()]), timeout=60)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_streams_without_a_key_are_few_and_end_and_checks_are_always_answered(start_stack: StartStack) -> None:
    probed = free_port()
    settings = {**SMALL, "DARKROOM_KEYLESS_STREAM_SECONDS": "2", "DARKROOM_HEALTH_PORT": str(probed)}
    running = await start_stack(services=("gateway",), settings=settings)
    health = HealthStub(running.channel_of(""))
    async with AsyncExitStack() as open_streams:
        watched = [open_streams.enter_context(cancelling(health.Watch(CHECK))) for _ in range(3)]
        # Streams that are opened at once may arrive in any order.
        begun = {stream: await _begun(stream) for stream in watched}
        assert Counter(begun.values()) == {None: 2, grpc.StatusCode.RESOURCE_EXHAUSTED: 1}
        assert (await health.Check(CHECK, timeout=5)).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async with asyncio.timeout(15):
                await next(stream for stream, code in begun.items() if code is None).read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

        async with grpc.aio.insecure_channel(f"127.0.0.1:{probed}") as channel:
            port = HealthStub(channel)
            crowd = [open_streams.enter_context(cancelling(port.Watch(CHECK))) for _ in range(300)]
            codes = await asyncio.gather(*map(_begun, crowd))
            assert codes.count(None) == 20
            assert (await port.Check(CHECK, timeout=5)).status == health_pb2.HealthCheckResponse.SERVING


async def _never() -> AsyncIterator[Any]:
    await asyncio.Event().wait()
    yield


async def test_calls_whose_message_does_not_come_are_given_up(start_stack: StartStack) -> None:
    settings = {**SMALL, "DARKROOM_GRPC_MESSAGE_SECONDS": "1"}
    running = await start_stack(services=("gateway",), settings=settings)
    keyless = running.channel_of("")
    check: Any = keyless.stream_unary("/grpc.health.v1.Health/Check")
    async with AsyncExitStack() as open_calls:
        waiting = [open_calls.enter_context(cancelling(check(_never()))) for _ in range(50)]

        async def all_but_four_refused() -> bool:
            return bool(sum(made.done() for made in waiting) >= 46)

        # While these calls arrive, one with a message may be taken for the one that waits longest.
        await eventually(all_but_four_refused, within=10, what="only four wait")
        assert (await HealthStub(keyless).Check(CHECK, timeout=5)).status == health_pb2.HealthCheckResponse.SERVING
        codes = [await made.code() for made in waiting]
        # Four may wait: those before them were too many, and they were too late.
        assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) >= 46
        assert set(codes) <= {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED}

        create = "/darkroom.gateway.v1.GenerationService/CreateGeneration"
        unknown: Any = open_calls.enter_context(cancelling(keyless.stream_unary(create)(_never())))
        assert await unknown.code() is grpc.StatusCode.UNAUTHENTICATED
        known: Any = open_calls.enter_context(cancelling(running.channel("gateway").stream_unary(create)(_never())))
        assert await known.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_requests_over_http_have_a_share_of_key_and_owner(start_stack: StartStack) -> None:
    running = await start_stack(services=("gateway",), settings=SMALL)
    first, second, other = [(await running.new_key(owner)).key for owner in ("acme", "acme", "umbrella")]
    stub = GenerationServiceStub(running.channel_of(first))
    generation_id = await _created(stub)
    path = f"/api/external/generation/{generation_id}/events"
    image = {"model": "flux-pro", "prompt": "x"}
    async with aiohttp.ClientSession(running.gateway_url()) as session, AsyncExitStack() as held:

        async def opened(key: str) -> int:
            reply = await held.enter_async_context(session.get(path, headers={"x-api-key": key}))
            return reply.status

        assert [await opened(first) for _ in range(4)] == [200, 200, 200, 429]
        reply = await call(running.gateway_url(), "/v1/images/generations", method="POST", key=first, json_body=image)
        assert (reply.status, reply.json["error"]["code"]) == (429, "rate_limit_exceeded")
        reply = await call(running.gateway_url(), "/api/external/models", key=first)
        assert (reply.status, reply.json["code"], reply.headers["retry-after"]) == (429, "RATE_LIMITED", "5")
        assert [await opened(second) for _ in range(2)] == [200, 429]
        assert (await call(running.gateway_url(), "/api/external/models", key=other)).status == 200
        assert (await call(running.gateway_url(), "/api/health")).status == 200
        # Over gRPC the streams of the process itself count for nobody.
        with cancelling(_watch(stub, generation_id)) as stream:
            assert await _begun(stream) is None

    async def over() -> bool:
        return await running.metric("gateway", "darkroom_shares_held", kind="http_requests") == 0

    await eventually(over, within=5, what="all is given back")


async def _connect(running: Running, source: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    port = running.stack.plan.ports.gateway_http
    return await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))


async def _answered(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bool:
    reader, writer = connection
    writer.write(b"GET /api/health HTTP/1.1\r\nhost: x\r\n\r\n")
    try:
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
    except (ConnectionError, asyncio.IncompleteReadError):
        return False
    return True


async def _is_open(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bool:
    return not connection[0].at_eof() and await _answered(connection)


@pytest.mark.parametrize(("per_address", "reason"), [("0", "the oldest of all"), ("3", "the oldest of its address")])
async def test_the_oldest_idle_connection_makes_room(start_stack: StartStack, per_address: str, reason: str) -> None:
    settings = {"DARKROOM_HTTP_CONNECTIONS": "4", "DARKROOM_HTTP_CONNECTIONS_PER_ADDRESS": per_address}
    running = await start_stack(services=("gateway",), settings=settings)
    async with AsyncExitStack() as held:

        async def opened(source: str) -> Any:
            connection = await _connect(running, source)
            held.enter_context(closing(connection[1]))
            assert await _answered(connection)
            return connection

        other = await opened("127.0.0.2")
        kept = [await opened("127.0.0.1") for _ in range(3)]
        # Used again, so that another one is the oldest of its address.
        assert await _answered(kept[0])
        late = await opened("127.0.0.1")
        closed = other if per_address == "0" else kept[1]
        for connection in (other, *kept, late):
            assert await _is_open(connection) is (connection is not closed), reason
    assert await running.metric("gateway", "darkroom_http_connections_cut_off_total", reason="idle") == 1


async def _refused(running: Running, key: str) -> bool:
    reply = await call(running.gateway_url(), "/api/external/models", key=key)
    return reply.status == 401


async def test_a_revoked_key_ends_its_streams_on_every_replica(start_stack: StartStack) -> None:
    # Long, so that what is shown is not the cache's doing.
    running = await start_stack(services=("gateway",), settings={"DARKROOM_KEY_CACHE_SECONDS": "600"})
    replica = await running.stack_replica("gateway")
    made, kept = await running.new_key("acme"), (await running.new_key("acme")).key
    here = GenerationServiceStub(running.channel_of(made.key))
    there = GenerationServiceStub(running.channel_of(made.key, replica=replica))
    await there.ListModels(gateway_pb2.ListModelsRequest(), timeout=60, wait_for_ready=True)
    generation_id = await _created(here)
    url = f"{running.gateway_url(replica)}/api/external/generation/{generation_id}/events"
    async with AsyncExitStack() as held, aiohttp.ClientSession() as session:
        streams = [held.enter_context(cancelling(_watch(stub, generation_id))) for stub in (here, there)]
        others = held.enter_context(
            cancelling(_watch(GenerationServiceStub(running.channel_of(kept, replica=replica)), generation_id))
        )
        upload = held.enter_context(cancelling(there.UploadBatch()))
        await upload.write(gateway_pb2.UploadBatchRequest())
        for stream in (*streams, others):
            assert await _begun(stream) is None
        events = await held.enter_async_context(session.get(url, headers={"x-api-key": made.key}))
        assert await events.content.readuntil(b"\r\n\r\n")
        body = {"model": "flux-pro", "prompt": "x"}
        waiting = asyncio.create_task(
            call(running.gateway_url(), "/v1/images/generations", method="POST", key=made.key, json_body=body)
        )

        async def waits() -> bool:
            return await running.metric("gateway", "darkroom_shares_held", kind="http_requests") == 1

        await eventually(waits, within=10, what="the OpenAI call waits")
        await running.admin.RevokeApiKey(admin_pb2.RevokeApiKeyRequest(id=made.api_key.id), timeout=60)

        async def ended() -> bool:
            return all(stream.done() for stream in (*streams, upload)) and waiting.done()

        pending = [asyncio.create_task(_begun(stream)) for stream in streams]
        await promptly(ended, within=1, what="all streams of the key have ended")
        assert await asyncio.gather(*pending) == [grpc.StatusCode.UNAUTHENTICATED] * 2
        assert await upload.code() is grpc.StatusCode.UNAUTHENTICATED
        rest = await events.content.read()
        assert b"event: error" in rest
        assert b"AUTHENTICATION_FAILED" in rest
        assert (await waiting).status == 401
        assert not others.done()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await there.ListModels(gateway_pb2.ListModelsRequest(), timeout=60)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_live_pages_end_with_the_key_and_have_a_share(start_stack: StartStack) -> None:
    running = await start_stack(services=("gateway",), settings={"DARKROOM_HTTP_REQUESTS_PER_KEY": "80"})
    made = await running.new_key("ops", role=admin_pb2.API_KEY_ROLE_ADMIN)
    async with visitor(running.gateway_url()) as ops, aiohttp.ClientSession() as session, AsyncExitStack() as held:
        await ops.sign_in(made.key)
        cookies = {"cookie": f"{SESSION}={ops.cookies[SESSION]}", "accept": "text/event-stream"}

        async def opened() -> Any:
            return await held.enter_async_context(session.get(f"{running.gateway_url()}/admin", headers=cookies))

        pages = await asyncio.gather(*(opened() for _ in range(60)))
        assert [page.status for page in pages].count(200) == 50
        live = [page for page in pages if page.status == 200]
        await running.admin.RevokeApiKey(admin_pb2.RevokeApiKeyRequest(id=made.api_key.id), timeout=60)

        async def ended() -> bool:
            return await running.metric("gateway", "darkroom_shares_held", kind="live_pages") == 0

        await eventually(ended, within=5, what="no page is live")
        for page in live:
            with pytest.raises(aiohttp.ClientPayloadError):
                await page.read()
