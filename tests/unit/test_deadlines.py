"""What an RPC answers that took too long, or whose commit is unknown, over a real channel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
import pytest
from darkroom.gateway.v1 import gateway_pb2 as messages
from darkroom.gateway.v1.gateway_pb2_grpc import (
    GenerationServiceServicer,
    GenerationServiceStub,
    add_GenerationServiceServicer_to_server,
)
from google.protobuf.message import Message
from structlog.testing import capture_logs

from libs.common.errors import ErrorCode, GenerationError, OutcomeUnknown
from libs.common.rpc.deadlines import after_commit
from libs.common.rpc.errors import answer_of, from_rpc_error
from libs.common.rpc.interceptors import Before, Call
from libs.common.rpc.open_streams import OpenStreams
from libs.common.rpc.sharing import Sharing
from libs.common.rpc.standard import standard

SECONDS = 0.05
Work = Callable[[], Awaitable[None]]


class _Open(Before):
    async def before(self, call: Call) -> None:
        """Lets everybody in."""


def _servicer(work: Work) -> GenerationServiceServicer:
    """Does what the test says, whatever is asked."""

    def answering(answer: Message) -> Any:
        async def method(self: Any, request: Any, context: Any) -> Message:
            if hasattr(request, "__aiter__"):
                async for _ in request:
                    pass
            await work()
            return answer

        return method

    async def watch(self: Any, request: Any, context: Any) -> AsyncIterator[Message]:
        await work()
        yield messages.WatchGenerationResponse()

    methods = {
        "WatchGeneration": watch,
        "CreateGeneration": answering(messages.CreateGenerationResponse(id="gen_1")),
        "RateGeneration": answering(messages.RateGenerationResponse()),
        "GetGeneration": answering(messages.GetGenerationResponse()),
        "UploadBatch": answering(messages.UploadBatchResponse()),
    }
    return cast("GenerationServiceServicer", type("Servicer", (GenerationServiceServicer,), methods)())


@asynccontextmanager
async def _served(work: Work) -> AsyncIterator[GenerationServiceStub]:
    server = grpc.aio.server(
        interceptors=standard(
            _Open(), rpc_timeout_seconds=SECONDS, write_timeout_seconds=5, sharing=Sharing.of_own(OpenStreams())
        )
    )
    add_GenerationServiceServicer_to_server(_servicer(work), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield GenerationServiceStub(channel)
    await server.stop(None)


async def _never() -> None:
    await asyncio.Event().wait()


async def _loses_its_commit() -> None:
    raise OutcomeUnknown("The reply was lost.", {"cause": "OperationalError"})


def _create(stub: GenerationServiceStub, key: str = "", metadata: Any = ()) -> Any:
    request = messages.CreateGenerationRequest(idempotency_key=key)
    return stub.CreateGeneration(request, metadata=metadata, timeout=10)


def _rate(stub: GenerationServiceStub) -> Any:
    return stub.RateGeneration(messages.RateGenerationRequest(), metadata=(("idempotency-key", "k"),), timeout=10)


def _upload(stub: GenerationServiceStub, key: str) -> Any:
    async def parts() -> AsyncIterator[messages.UploadBatchRequest]:
        yield messages.UploadBatchRequest(idempotency_key=key)
        yield messages.UploadBatchRequest()

    return stub.UploadBatch(parts(), timeout=10)


async def _status(call: Any) -> tuple[grpc.StatusCode, GenerationError]:
    with pytest.raises(GenerationError) as caught:
        await answer_of(call)
    assert isinstance(caught.value.__cause__, grpc.aio.AioRpcError)
    return caught.value.__cause__.code(), caught.value


CALLS = [
    pytest.param(_create, False, id="create"),
    pytest.param(lambda stub: _create(stub, "k"), True, id="create with a key"),
    pytest.param(lambda stub: _create(stub, metadata=(("idempotency-key", "k"),)), True, id="key in the metadata"),
    pytest.param(_rate, False, id="an RPC that takes no key"),
]


@pytest.mark.parametrize(("call", "is_retryable"), CALLS)
@pytest.mark.parametrize("work", [_never, _loses_its_commit])
async def test_an_unknown_outcome_is_retryable_only_with_a_key(
    call: Callable[[GenerationServiceStub], Any], is_retryable: bool, work: Work
) -> None:
    async with _served(work) as stub:
        status, error = await _status(call(stub))
    assert status is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (error.code, error.is_retryable) == (ErrorCode.OUTCOME_UNKNOWN, is_retryable)
    assert ("idempotency key" in error.message) is is_retryable


@pytest.mark.parametrize("key", ["", "k"])
async def test_an_upload_is_as_retryable_as_its_first_message_says(key: str) -> None:
    async with _served(_loses_its_commit) as stub:
        status, error = await _status(_upload(stub, key))
    assert (status, error.is_retryable) == (grpc.StatusCode.DEADLINE_EXCEEDED, bool(key))


async def test_a_read_that_takes_too_long_is_retryable() -> None:
    async with _served(_never) as stub:
        status, error = await _status(stub.GetGeneration(messages.GetGenerationRequest(), timeout=10))
    assert status is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (error.code, error.is_retryable) == (ErrorCode.DEADLINE_EXCEEDED, True)


async def test_a_read_whose_commit_is_lost_has_lost_nothing() -> None:
    async with _served(_loses_its_commit) as stub:
        status, error = await _status(stub.GetGeneration(messages.GetGenerationRequest(), timeout=10))
    assert (status, error.is_retryable) == (grpc.StatusCode.UNAVAILABLE, True)


async def test_a_watcher_may_go_on_where_its_stream_lost_a_commit() -> None:
    async with _served(_loses_its_commit) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in stub.WatchGeneration(messages.WatchGenerationRequest(), timeout=10):
                pass
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_failure_after_the_commit_is_not_called_unavailable() -> None:
    async def work() -> None:
        with after_commit(batch_id="batch_1"):
            raise GenerationError(ErrorCode.SERVICE_UNAVAILABLE, "away")

    async with _served(work) as stub:
        status, error = await _status(_create(stub))
    assert (status, error.is_retryable) == (grpc.StatusCode.DEADLINE_EXCEEDED, False)
    assert error.details["batch_id"] == "batch_1"


async def test_a_timeout_within_a_handler_is_not_the_calls() -> None:
    async def work() -> None:
        raise TimeoutError

    async with _served(work) as stub:
        status, error = await _status(_create(stub))
    assert (status, error.code) == (grpc.StatusCode.INTERNAL, ErrorCode.INTERNAL_ERROR)


@pytest.mark.parametrize(
    ("changes_nothing", "code"), [(True, ErrorCode.DEADLINE_EXCEEDED), (False, ErrorCode.OUTCOME_UNKNOWN)]
)
def test_a_deadline_of_the_callers_own_is_told_apart(changes_nothing: bool, code: ErrorCode) -> None:
    error = grpc.aio.AioRpcError(
        grpc.StatusCode.DEADLINE_EXCEEDED, grpc.aio.Metadata(), grpc.aio.Metadata(), "Deadline Exceeded"
    )
    found = from_rpc_error(error, changes_nothing=changes_nothing)
    assert (found.code, found.is_retryable) == (code, changes_nothing)


async def test_a_method_that_a_servicer_leaves_out_is_unimplemented_and_no_error_of_ours() -> None:
    with capture_logs() as lines:
        async with _served(_never) as stub:
            status, error = await _status(stub.ListModels(messages.ListModelsRequest(), timeout=10))
    assert (status, error.code) == (grpc.StatusCode.UNIMPLEMENTED, ErrorCode.UNIMPLEMENTED)
    assert not [line for line in lines if line["log_level"] in {"error", "warning"}]
