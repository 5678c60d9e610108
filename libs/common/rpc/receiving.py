"""Receives the requests of calls: after their callers are authenticated, within the shares of bytes, and parsed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from functools import partial
from math import inf
from typing import Any, cast

import grpc
from google.protobuf.message import DecodeError, Message

from libs.common.errors import ErrorCode, GenerationError
from libs.common.rpc import message_bounds
from libs.common.rpc.arrivals import Arrivals, Unread
from libs.common.rpc.callers import Callers
from libs.common.rpc.context import Context, when_done
from libs.common.rpc.interceptors import Continuation, answers_of_stream, behaviour_of, handler_like
from libs.common.rpc.semaphores import KeyedSemaphores, owner_or_key
from libs.common.rpc.shares import NOBODY, current_holder
from libs.common.rpc.sharing import Sharing
from libs.common.rpc.unsent import Unsent

# Smaller messages do not hold a share of bytes: the number of calls limits their memory.
_SMALL_BYTES = 64 * 1024
_NOTHING = nullcontext()
# How many requests for several items an owner has in progress: pages of lists, batches and estimates. One for 1,000
# items takes a tenth of a second of the event loop's time or more, so of those beyond the size an owner has one.
_FEW_ITEMS, _FEW_AT_ONCE = 100, 4


class Parse(grpc.aio.ServerInterceptor):
    """Reads requests: bytes that are no message are the caller's fault, and are answered as such.

    Args:
        sharing: the shares of bytes: large requests hold them until their handlers return, large responses until they
            are sent. Its callers' messages are counted.
        may_refuse: whether a method has no side effects, so that a response beyond a share may become an error.
    """

    def __init__(self, sharing: Sharing, may_refuse: Callable[[str], bool]) -> None:
        self._message_bytes = sharing.message_bytes
        self._answer_bytes = sharing.answer_bytes
        self._callers = sharing.callers
        self._counts_values = sharing.counts_values
        self._may_refuse = may_refuse
        self._item_requests = KeyedSemaphores()

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Take the reading away from gRPC, which answers UNKNOWN for what cannot be read."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_deserializer is None:
            return handler
        behaviour, read = behaviour_of(handler), handler.request_deserializer
        may_refuse = self._may_refuse(handler_call_details.method)

        def parsed_each(requests: Any, context: Context) -> Any:
            return behaviour(self._each(requests, read, context.peer()), context)

        async def parsed(request: Unread, context: Context) -> Any:
            given = await request.message()
            try:
                with self._held(len(given)):
                    message = await self._read(given, read)
                    async with self._item_limit(message):
                        answer = await behaviour(message, context)
            finally:
                # The traceback of an error keeps the frame's variables alive until the next garbage collection.
                del given
            self._hold_answer(answer, context, may_refuse=may_refuse)
            return answer

        async def parsed_stream(request: Unread, context: Context) -> AsyncIterator[Any]:
            message = await self._read(await request.message(), read)
            async for answer in answers_of_stream(behaviour(message, context)):
                yield answer

        if handler.request_streaming:
            return handler_like(handler, parsed_each, None)
        return handler_like(handler, parsed_stream if handler.response_streaming else parsed, None)

    def _item_limit(self, message: Message) -> AbstractAsyncContextManager[None]:
        """Return the semaphore of the owner for requests of so many items; none for a request of one item."""
        count = _items_of(message)
        holder = current_holder()
        if count is None or holder == NOBODY:
            return _NOTHING
        return self._item_requests.get(owner_or_key(holder), _FEW_AT_ONCE if count <= _FEW_ITEMS else 1)

    async def _read(self, given: bytes, read: Any) -> Any:
        """The message that `read`, the `FromString` of its class, makes of the bytes."""
        if self._counts_values and len(given) > message_bounds.COUNTED_ABOVE_BYTES:
            await message_bounds.check(given, read.__self__.DESCRIPTOR)
        try:
            return read(given)
        except DecodeError as error:
            raise GenerationError(ErrorCode.INVALID_REQUEST, "The request is no message of this RPC's.") from error

    async def _each(self, given: AsyncIterator[bytes], read: Any, peer: str) -> AsyncIterator[Any]:
        with self._callers.receiving(peer) as count:
            async for request in given:
                count(len(request))
                yield await self._read(request, read)

    def _held(self, size_bytes: int) -> AbstractContextManager[None]:
        return self._message_bytes.held(current_holder(), size_bytes) if size_bytes > _SMALL_BYTES else _NOTHING

    def _hold_answer(self, answer: Message, context: Context, *, may_refuse: bool) -> None:
        size_bytes = answer.ByteSize()
        if size_bytes <= _SMALL_BYTES:
            return
        shares, holder = self._answer_bytes, current_holder()
        (shares.take if may_refuse else shares.count)(holder, size_bytes)
        when_done(context, partial(shares.give_back, holder, size_bytes))


class Together(grpc.aio.ServerInterceptor):
    """Interceptors as one, which wraps each method's handler once and not at every call.

    They run before the message of a call is received. grpc.aio would receive the message first, from callers that are
    not authenticated, and without a timeout. `Parse`, which must be among the interceptors, receives it.

    Args:
        interceptors: outermost first.
        arrivals: waits for messages.
        unsent: counts answers that are not sent.
        is_keyless: whether a method, `/package.Service/Method`, is open to callers without a key.
        callers: counts calls of unauthenticated peers, and knows whose connections were reset.
    """

    def __init__(
        self,
        interceptors: Sequence[grpc.aio.ServerInterceptor],
        *,
        arrivals: Arrivals,
        unsent: Unsent,
        callers: Callers,
        is_keyless: Callable[[str], bool],
    ) -> None:
        self._interceptors = interceptors
        self._arrivals = arrivals
        self._unsent = unsent
        self._callers = callers
        self._is_keyless = is_keyless
        self._wrapped: dict[str, Any] = {}

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The method's handler with all of them around it; None, which gRPC answers by itself, where there is none."""
        method = handler_call_details.method
        if method not in self._wrapped:
            found: Any = await continuation(handler_call_details)
            if found is None:
                return None
            for interceptor in reversed(self._interceptors):
                found = await interceptor.intercept_service(_always(found), handler_call_details)
            self._wrapped[method] = self._counted(found) if found.request_streaming else self._unread(found, method)
        return cast("grpc.RpcMethodHandler[Any, Any]", self._wrapped[method])

    def _counted(self, handler: Any) -> Any:
        """Return a handler of a stream of requests that counts its calls."""
        behaviour, callers = behaviour_of(handler), self._callers

        async def counted(requests: Any, context: Context) -> Any:
            _check_connected(callers, context)
            return await behaviour(requests, context)

        async def counted_stream(requests: Any, context: Context) -> AsyncIterator[Any]:
            _check_connected(callers, context)
            async for answer in answers_of_stream(behaviour(requests, context)):
                yield answer

        wrapped = counted_stream if handler.response_streaming else counted
        return handler_like(handler, wrapped, handler.request_deserializer)

    def _unread(self, handler: Any, method: str) -> Any:
        """The same as a handler of a stream of messages, which gRPC calls before the first has come."""
        behaviour, arrivals, is_keyless = behaviour_of(handler), self._arrivals, self._is_keyless(method)
        unsent, callers = self._unsent, self._callers

        async def begun(_: Any, context: Context) -> Any:
            _check_connected(callers, context)
            return await behaviour(Unread(arrivals, context, is_keyless=is_keyless), context)

        async def answered(_: Any, context: Context) -> Any:
            _check_connected(callers, context)
            answer = await behaviour(Unread(arrivals, context, is_keyless=is_keyless), context)
            unsent.answered(context, answer.ByteSize(), is_keyless=is_keyless)
            return answer

        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(begun, None, handler.response_serializer)
        return grpc.stream_unary_rpc_method_handler(answered, None, handler.response_serializer)


def _check_connected(callers: Callers, context: Context) -> None:
    """Count the call. Raise CancelledError, as gRPC does for calls that end, if its connection has been reset."""
    if not callers.count_call(context.peer()):
        raise asyncio.CancelledError


def _always(handler: Any) -> Callable[[grpc.HandlerCallDetails], Awaitable[Any]]:
    async def continuation(_: grpc.HandlerCallDetails) -> Any:
        return handler

    return continuation


def _items_of(message: Message) -> float | None:
    """Return how many items a request is for; infinity if a matrix says it, and None if it is for one."""
    size: int | None = getattr(message, "page_size", None)
    if size is not None:
        return size
    requests = getattr(message, "requests", None)
    if requests is None:
        return None
    return inf if "matrix" in message.DESCRIPTOR.fields_by_name and message.HasField("matrix") else len(requests)
