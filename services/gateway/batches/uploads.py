"""Batches that arrive in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from time import monotonic

from darkroom.gateway.v1 import gateway_pb2

from libs.common.errors import ErrorCode, FieldViolation, GenerationError, InvalidRequest

_MESSAGE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class UploadBounds:
    """What a whole upload may take: `seconds` until its last message has come, and `size_bytes` of messages."""

    seconds: float
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Upload:
    """A stream of which the first message has come."""

    options: gateway_pb2.BatchOptions
    idempotency_key: str
    first: gateway_pb2.UploadBatchRequest
    others: AsyncIterator[gateway_pb2.UploadBatchRequest]

    @classmethod
    async def begun(cls, stream: AsyncIterator[gateway_pb2.UploadBatchRequest], bounds: UploadBounds) -> Upload:
        """Wait for the first message. InvalidRequest where there is none."""
        messages = _bounded(stream, bounds)
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


async def _bounded(
    stream: AsyncIterator[gateway_pb2.UploadBatchRequest], bounds: UploadBounds
) -> AsyncIterator[gateway_pb2.UploadBatchRequest]:
    """The messages. A caller that sends none for a minute is given up, and so is one that exceeds the bounds."""
    messages, ends_at, size_bytes = aiter(stream), monotonic() + bounds.seconds, 0
    while True:
        try:
            async with asyncio.timeout(min(_MESSAGE_SECONDS, ends_at - monotonic())):
                message = await anext(messages)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise _late(bounds, is_over=monotonic() >= ends_at) from error
        size_bytes += message.ByteSize()
        if size_bytes > bounds.size_bytes:
            fault = f"must be at most {bounds.size_bytes:,} bytes together: send several batches"
            raise InvalidRequest([FieldViolation("requests", "size", fault)])
        yield message


def _late(bounds: UploadBounds, *, is_over: bool) -> GenerationError:
    if is_over:
        fault = f"must come within {bounds.seconds:g} s: send several batches"
        return InvalidRequest([FieldViolation("requests", "time", fault)])
    why = f"The next part of the batch did not come within {_MESSAGE_SECONDS:g} s; send it again."
    return GenerationError(ErrorCode.SERVICE_UNAVAILABLE, why)
