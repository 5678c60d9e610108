"""Calls the RPC behind a route, and answers what it answers. Streams go out as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc
from aiohttp import web
from aiohttp_sse import sse_response
from google.protobuf.message import Message

from libs.common.errors import GenerationError
from libs.common.rpc.deadlines import is_repeatable
from libs.common.rpc.errors import answer_of, from_rpc_error
from libs.common.rpc.json import to_json
from services.gateway.access import check_role
from services.gateway.authentication import Authentication
from services.gateway.rest.bindings import Binding
from services.gateway.rest.bodies import Bodies
from services.gateway.rest.callers import caller_of, key_of, metadata_for_peer, metadata_of_request
from services.gateway.rest.problems import problem, problem_response
from services.gateway.rest.reading import Reader

_RESUME_FIELD = "resume_token"
# A watcher that is refused is so at once; after this the stream has begun.
_FIRST_EVENT_SECONDS = 1.0
# Messages of up to this size are read and written in a few milliseconds.
_SMALL_BYTES = 16 * 1024


class Transcoder:
    """Serves routes.

    Args:
        channel: to this process's own gRPC server, so that a route and its RPC cannot differ.
        passed_on: by the full names of services that other processes serve, channels to them.
        authentication: looks at keys first, for it knows where an HTTP request came from.
        bodies: reads them.
        timeout_seconds: for each RPC that is no stream.
        send_timeout_seconds: a reader of events that is slower is dropped.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        passed_on: Mapping[str, grpc.aio.Channel],
        authentication: Authentication,
        bodies: Bodies,
        *,
        timeout_seconds: float,
        send_timeout_seconds: float,
    ) -> None:
        self._channel = channel
        self._passed_on = passed_on
        self._authentication = authentication
        self._bodies = bodies
        self._timeout_seconds = timeout_seconds
        self._send_timeout_seconds = send_timeout_seconds
        # One thread: other requests wait for the interpreter's lock for milliseconds, and not for a whole message.
        self._large_messages = ThreadPoolExecutor(1, "large-messages")

    def routes(self, bindings: list[Binding]) -> list[web.RouteDef]:
        """What is served."""
        return [web.route(binding.verb, binding.path, self._handler(binding)) for binding in bindings]

    def _handler(self, binding: Binding) -> Any:
        serve = self._stream if binding.method.server_streaming else self._unary
        # Whatever a path's variable holds, even a slash that was escaped, is one value.
        channel = self._passed_on.get(binding.method.containing_service.full_name)
        to_peer, channel = channel is not None, channel or self._channel
        make = channel.unary_stream if binding.method.server_streaming else channel.unary_unary
        call = make(
            binding.rpc,
            request_serializer=binding.request.SerializeToString,
            response_deserializer=binding.response.FromString,
        )

        async def handle(request: web.Request) -> web.StreamResponse:
            reader = Reader()
            try:
                caller = await caller_of(request, self._authentication)
                # Before the body is read: what is wrong with it is no business of whoever may not send it.
                check_role(caller, binding.rpc)
                message = await self._read(binding, request, reader)
                metadata = metadata_for_peer(caller) if to_peer else metadata_of_request(request, key_of(request))
                return await serve(binding, call, request, message, metadata)
            except GenerationError as error:
                return problem_response(error, reader.names)

        return handle

    async def _read(self, binding: Binding, request: web.Request, reader: Reader) -> Message:
        body = await self._bodies.read_json(request)
        read = partial(reader.read, binding, body=body, path=request.match_info, query=request.query.items())
        if len(body) <= _SMALL_BYTES:
            return read()
        return await asyncio.get_running_loop().run_in_executor(self._large_messages, read)

    async def _unary(
        self, binding: Binding, call: Any, request: web.Request, message: Message, metadata: grpc.aio.Metadata
    ) -> web.StreamResponse:
        del request
        answer = await answer_of(
            call(message, metadata=metadata, timeout=self._timeout_seconds),
            changes_nothing=is_repeatable(binding.rpc),
        )
        message = answer if binding.response_field is None else getattr(answer, binding.response_field.name)
        if message.ByteSize() <= _SMALL_BYTES:
            return _answer(message)
        return await asyncio.get_running_loop().run_in_executor(self._large_messages, _answer, message)

    async def _stream(
        self, binding: Binding, call: Any, request: web.Request, message: Message, metadata: grpc.aio.Metadata
    ) -> web.StreamResponse:
        resume_token = request.headers.get("last-event-id", "")
        if resume_token.isascii() and resume_token and _RESUME_FIELD in binding.method.input_type.fields_by_name:
            setattr(message, _RESUME_FIELD, resume_token)
        stream = call(message, metadata=metadata)
        try:
            events = aiter(_events(stream))
            first = asyncio.ensure_future(anext(events, None))
            await asyncio.wait([first], timeout=_FIRST_EVENT_SECONDS)
            if first.done():
                first.result()
            return await self._send(request, first, events)
        finally:
            stream.cancel()

    async def _send(
        self, request: web.Request, first: asyncio.Future[Message | None], events: AsyncIterator[Message]
    ) -> web.StreamResponse:
        async with sse_response(request, send_timeout=self._send_timeout_seconds) as response:
            try:
                message = await first
                while message is not None:
                    values = to_json(message)
                    await response.send(
                        json.dumps(values, ensure_ascii=False), event="change", id=values.get("resumeToken")
                    )
                    message = await anext(events, None)
            except GenerationError as error:
                await response.send(json.dumps(problem(error)), event="error")
            except (ConnectionResetError, TimeoutError):
                # The reader has gone, or takes nothing: it goes on from the last id that it saw.
                pass
        return response


async def _events(stream: Any) -> AsyncIterator[Message]:
    try:
        async for message in stream:
            yield message
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error


def _answer(message: Message) -> web.Response:
    body = json.dumps(to_json(message), ensure_ascii=False).encode()
    return web.Response(body=body, content_type="application/json", charset="utf-8")
