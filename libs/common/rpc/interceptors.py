"""What happens around every RPC of every service: request id, log line, metrics, error mapping."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, cast

import grpc
import structlog

from libs.common import metrics, tracing
from libs.common.errors import ErrorCode, GenerationError
from libs.common.rpc import errors
from libs.common.rpc.context import REQUEST_ID_KEY, begin_request, metadata_of_context
from libs.common.rpc.unsent import Unsent

log = structlog.get_logger()

Context = grpc.aio.ServicerContext[Any, Any]
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]]
_KINDS = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}


@dataclass(frozen=True, slots=True)
class Call:
    """An RPC being answered. `method` is `/package.Service/Method`.

    `is_stream`: it answers with a stream; `takes_stream`: it is asked with one.
    """

    method: str
    context: Context
    is_stream: bool
    takes_stream: bool = False


class Wrapper(grpc.aio.ServerInterceptor):
    """Base of the interceptors: puts something around a method's behaviour, unary or streaming."""

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The method's handler with its behaviour wrapped."""
        handler = await continuation(handler_call_details)
        # None: there is no such method; gRPC answers by itself.
        if handler is None:
            return None
        wrap = self.stream if handler.response_streaming else self.unary
        return handler_like(
            handler, wrap(handler_call_details.method, behaviour_of(handler)), handler.request_deserializer
        )

    @abstractmethod
    def unary(self, method: str, behaviour: Any) -> Any:
        """The behaviour of a method with one answer, wrapped."""

    @abstractmethod
    def stream(self, method: str, behaviour: Any) -> Any:
        """The behaviour of a method with a stream of answers, wrapped."""


class Around(Wrapper):
    """Base of those whose `around` is entered before the handler runs and left after its last answer."""

    @abstractmethod
    def around(self, call: Call) -> AbstractAsyncContextManager[None]:
        """What happens around a call."""

    def unary(self, method: str, behaviour: Any) -> Any:
        """See the base."""

        async def wrapped(request: Any, context: Context) -> Any:
            call = Call(method, context, is_stream=False, takes_stream=hasattr(request, "__aiter__"))
            async with self.around(call):
                return await behaviour(request, context)

        return wrapped

    def stream(self, method: str, behaviour: Any) -> Any:
        """See the base."""

        async def wrapped(request: Any, context: Context) -> AsyncIterator[Any]:
            async with self.around(Call(method, context, is_stream=True)):
                async for answer in answers_of_stream(behaviour(request, context)):
                    yield answer

        return wrapped


class Before(Wrapper):
    """Base of those whose `before` runs before the handler does. It may refuse the call."""

    @abstractmethod
    async def before(self, call: Call) -> None:
        """What happens before a call."""

    def unary(self, method: str, behaviour: Any) -> Any:
        """See the base."""

        async def wrapped(request: Any, context: Context) -> Any:
            await self.before(Call(method, context, is_stream=False, takes_stream=hasattr(request, "__aiter__")))
            return await behaviour(request, context)

        return wrapped

    def stream(self, method: str, behaviour: Any) -> Any:
        """See the base."""

        async def wrapped(request: Any, context: Context) -> AsyncIterator[Any]:
            await self.before(Call(method, context, is_stream=True))
            async for answer in answers_of_stream(behaviour(request, context)):
                yield answer

        return wrapped


class BoundWrites(Wrapper):
    """Drops a caller that does not take an answer of a stream within `seconds`; outermost, for it does the writing.

    Args:
        seconds: how long a caller may take for one answer.
        unsent: counts the streams that are dropped.
    """

    def __init__(self, seconds: float, unsent: Unsent) -> None:
        self._seconds = seconds
        self._unsent = unsent

    def unary(self, method: str, behaviour: Any) -> Any:
        """As it is: `Together` counts the answers that are not sent."""
        del method
        return behaviour

    def stream(self, method: str, behaviour: Any) -> Any:
        """See the class."""

        async def wrapped(request: Any, context: Context) -> None:
            answers = behaviour(request, context)
            try:
                async for answer in answers:
                    if not await self._write(context, answer, method, answers):
                        return
            finally:
                await answers.aclose()

        return wrapped

    async def _write(self, context: Context, answer: Any, method: str, answers: Any) -> bool:
        write = asyncio.ensure_future(context.write(answer))
        try:
            done, _ = await asyncio.wait([write], timeout=self._seconds)
            if not done:
                metrics.DROPPED_READERS.labels(method).inc()
                log.info("slow reader dropped", method=method)
                # What the stream holds is free from here on. A status can follow once the transport has taken what it
                # was given: when the reader comes back, or its connection ends.
                await answers.aclose()
                self._unsent.dropped(context)
            await write
        finally:
            write.cancel()
        if not done:
            slow = f"Nothing was read for {self._seconds:g} s: watch again, from the last resume token."
            await errors.abort(context, GenerationError(ErrorCode.SERVICE_UNAVAILABLE, slow))
        return bool(done)


class RequestId(Before):
    """Takes the caller's request id or makes one, and sends it back."""

    async def before(self, call: Call) -> None:
        """See the class."""
        structlog.contextvars.clear_contextvars()
        request_id = begin_request(metadata_of_context(call.context).get(REQUEST_ID_KEY))
        told = ((REQUEST_ID_KEY, request_id),)
        if call.is_stream:
            await call.context.send_initial_metadata(told)
        else:
            # With the answer, for a write of its own costs a call a sixth of its time.
            call.context.set_trailing_metadata(told)


class Trace(Around):
    """A span for each call, a child of the caller's."""

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        """See the class."""
        with tracing.served(call.method, metadata_of_context(call.context)) as span:
            try:
                yield
            finally:
                status = _status(call.context)
                span.set_attribute("rpc.grpc.status_code", status.value[0])


class Observe(Around):
    """Counts and times each call, and logs it: a failed one as a warning or an error, the rest for debugging."""

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        """See the class."""
        started = perf_counter()
        active = metrics.RPC_ACTIVE.labels(call.method)
        active.inc()
        try:
            yield
        finally:
            active.dec()
            seconds = perf_counter() - started
            status = _status(call.context)
            metrics.RPC_SECONDS.labels(call.method, status.name).observe(seconds)
            level = "debug" if status is grpc.StatusCode.OK else "info"
            if status in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}:
                level = "error"
            getattr(log, level)("rpc", method=call.method, status=status.name, duration_ms=round(seconds * 1_000, 1))


class MapErrors(Around):
    """Turns what a handler raises into a status: a GenerationError as it is, anything else as an internal error."""

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        """See the class."""
        try:
            yield
        except GenerationError as error:
            await errors.abort(call.context, error)
        except (grpc.aio.AbortError, asyncio.CancelledError, GeneratorExit):
            raise
        except grpc.aio.InternalError as error:
            # gRPC cannot send: the caller has gone.
            log.debug("answer not sent", method=call.method, error=error)
            raise asyncio.CancelledError from error
        except Exception as error:
            if isinstance(error, NotImplementedError) and _status(call.context) is grpc.StatusCode.UNIMPLEMENTED:
                # The generated base class of a servicer that leaves out a method of its proto.
                failure = GenerationError(ErrorCode.UNIMPLEMENTED, "This RPC is not implemented.")
            else:
                log.exception("handler failed", method=call.method)
                failure = GenerationError(ErrorCode.INTERNAL_ERROR, "Darkroom failed; the log says why.")
            await errors.abort(call.context, failure)


async def answers_of_stream(made: Any) -> AsyncIterator[Any]:
    """Yield the responses of a streaming handler; none for a handler that writes to the context, as health's does."""
    if not isinstance(made, AsyncIterator):
        await made
        return
    async for answer in made:
        yield answer


def behaviour_of(handler: grpc.RpcMethodHandler[Any, Any]) -> Any:
    """Return the function that answers the calls of a method's handler."""
    return getattr(handler, _KINDS[handler.request_streaming, handler.response_streaming])


def handler_like(like: grpc.RpcMethodHandler[Any, Any], behaviour: Any, read: Any) -> grpc.RpcMethodHandler[Any, Any]:
    """Return a handler of the same kind with another behaviour.

    Args:
        like: has the kind and the serializer of responses.
        behaviour: answers the calls.
        read: deserializes the requests. None: the behaviour receives bytes.
    """
    make = getattr(grpc, f"{_KINDS[like.request_streaming, like.response_streaming]}_rpc_method_handler")
    return cast("grpc.RpcMethodHandler[Any, Any]", make(behaviour, read, like.response_serializer))


def _status(context: Context) -> grpc.StatusCode:
    code: object = context.code()
    if isinstance(code, grpc.StatusCode):
        return code
    # An aio context holds the bare number until the call has ended, and 0 or None for a call that went well.
    return next((status for status in grpc.StatusCode if status.value[0] == code), grpc.StatusCode.OK)
