"""Batches that arrive in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from darkroom.gateway.v1 import gateway_pb2

from libs.common.errors import ErrorCode, FieldViolation, GenerationError, InvalidRequest

_MESSAGE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Upload:
    """A stream of which the first message has come."""

    options: gateway_pb2.BatchOptions
    idempotency_key: str
    first: gateway_pb2.UploadBatchRequest
    others: AsyncIterator[gateway_pb2.UploadBatchRequest]

    @classmethod
    async def begun(cls, stream: AsyncIterator[gateway_pb2.UploadBatchRequest]) -> Upload:
        """Wait for the first message. InvalidRequest where there is none."""
        messages = _patiently(stream)
        first = await anext(messages, None)
        if first is None:
            raise InvalidRequest([FieldViolation("requests", "required", "must be at least one")])
        return cls(first.options, first.idempotency_key, first, messages)

    async def requests(self) -> AsyncIterator[gateway_pb2.CreateGenerationRequest]:
        """All requests in their order. InvalidRequest where a later message has what belongs into the first."""
        for request in self.first.requests:
            yield request
        async for message in self.others:
            if message.HasField("options") or message.idempotency_key:
                fault = "must be set in the first message only"
                raise InvalidRequest([FieldViolation("options", "first", fault)])
            for request in message.requests:
                yield request


async def _patiently(
    stream: AsyncIterator[gateway_pb2.UploadBatchRequest],
) -> AsyncIterator[gateway_pb2.UploadBatchRequest]:
    """The messages; a caller that sends none for a minute is given up."""
    messages = aiter(stream)
    while True:
        try:
            async with asyncio.timeout(_MESSAGE_SECONDS):
                message = await anext(messages)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            why = f"The next part of the batch did not come within {_MESSAGE_SECONDS:g} s; send it again."
            raise GenerationError(ErrorCode.SERVICE_UNAVAILABLE, why) from error
        yield message
