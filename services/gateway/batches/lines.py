"""A batch as lines of JSON over HTTP: each becomes a request of UploadBatch, so that the two cannot differ."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from aiohttp import web
from darkroom.gateway.v1 import gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub

from libs.common.errors import ErrorCode, GenerationError
from libs.common.rpc.errors import answer_of
from libs.common.settings import Settings
from services.gateway.failures import check_ratio
from services.gateway.rest.reading import Reader

_TYPES = ("application/x-ndjson", "application/jsonl", "application/json", "application/octet-stream", "text/plain",
          "application/x-www-form-urlencoded")  # fmt: skip
_MESSAGE_REQUESTS, _MESSAGE_BYTES = 200, 1024**2
# What the gateway's own RPC gets beyond the time for the upload: for the commit.
_COMMIT_SECONDS = 60.0


class Lines:
    """Reads uploads.

    Args:
        gateway: this process's own RPCs.
        settings: how large a body and a line may be, and how long a client may pause.
    """

    def __init__(self, gateway: GenerationServiceStub, settings: Settings) -> None:
        self._gateway = gateway
        self._settings = settings

    async def upload(self, request: web.Request, metadata: grpc.aio.Metadata) -> gateway_pb2.UploadBatchResponse:
        """Hand the body in as a batch. InvalidRequest for a line that is no request; then nothing was taken in."""
        if not request.content_type.startswith(_TYPES):
            raise web.HTTPUnsupportedMediaType(text="The body must be application/x-ndjson: a request a line.")
        options = gateway_pb2.BatchOptions()
        reader = Reader()
        reader.read_query(options, request.query.items())
        reader.raise_for_found()
        seconds = self._settings.upload_timeout_seconds + _COMMIT_SECONDS
        call: Any = self._gateway.UploadBatch(metadata=metadata, timeout=seconds)
        is_refused, is_sent = False, False
        try:
            first = gateway_pb2.UploadBatchRequest(options=options)
            is_refused = not await self._send(call, first, self._messages(request))
            is_sent = True
        finally:
            # Never as if it had ended: half of a batch is none.
            if not is_sent:
                call.cancel()
        try:
            answer: gateway_pb2.UploadBatchResponse = await answer_of(call)
        except GenerationError as error:
            if not is_refused or error.code is not ErrorCode.INTERNAL_ERROR:
                raise
            # grpc.aio may lose the status of a call that ends while the client writes.
            lost = "The upload was refused before all of it was sent. The reason was lost; no batch was created; retry."
            raise GenerationError(ErrorCode.SERVICE_UNAVAILABLE, lost) from error
        return answer

    async def _send(
        self,
        call: Any,
        first: gateway_pb2.UploadBatchRequest,
        messages: AsyncIterator[gateway_pb2.UploadBatchRequest],
    ) -> bool:
        """Send all messages. Return False if the call was refused before; its status has the reason."""
        try:
            await call.write(first)
            async for message in messages:
                await call.write(message)
            await call.done_writing()
        except (asyncio.InvalidStateError, grpc.aio.AioRpcError):
            return False
        return True

    async def _messages(self, request: web.Request) -> AsyncIterator[gateway_pb2.UploadBatchRequest]:
        message, size_bytes, index = gateway_pb2.UploadBatchRequest(), 0, 0
        async for line in self._lines(request):
            reader = Reader()
            reader.read_json(message.requests.add(), line, f"requests[{index}]")
            reader.raise_for_found()
            index, size_bytes = index + 1, size_bytes + len(line)
            if len(message.requests) >= _MESSAGE_REQUESTS or size_bytes >= _MESSAGE_BYTES:
                yield message
                message, size_bytes = gateway_pb2.UploadBatchRequest(), 0
        if message.requests:
            yield message

    async def _lines(self, request: web.Request) -> AsyncIterator[bytes]:
        """The lines that are not blank. Raises aiohttp's 408 and 413, and as `check_ratio`."""
        left, total_bytes, line_limit = bytearray(), 0, self._settings.http_body_limit_bytes
        while chunk := await self._chunk(request):
            total_bytes += len(chunk)
            check_ratio(request, total_bytes)
            if total_bytes > self._settings.upload_limit_bytes:
                raise web.HTTPRequestEntityTooLarge(max_size=self._settings.upload_limit_bytes, actual_size=total_bytes)
            head, *others = chunk.split(b"\n")
            left += head
            for following in others:
                if left.strip():
                    yield bytes(left)
                left = bytearray(following)
            if len(left) > line_limit:
                raise web.HTTPRequestEntityTooLarge(max_size=line_limit, actual_size=len(left))
        if left.strip():
            yield bytes(left)

    async def _chunk(self, request: web.Request) -> bytes:
        seconds = self._settings.http_body_timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                return await request.content.readany()
        except TimeoutError as error:
            raise web.HTTPRequestTimeout(text=f"The body did not go on within {seconds:g} s.") from error
