"""What calls hold while they are answered: a share of the calls or streams of a server, given back at their end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from libs.common.errors import ErrorCode, GenerationError
from libs.common.rpc.callers import Callers
from libs.common.rpc.context import when_done
from libs.common.rpc.credentials import is_keyless
from libs.common.rpc.interceptors import Context, Wrapper, answers_of_stream
from libs.common.rpc.open_streams import OpenStream, OpenStreams
from libs.common.rpc.shares import Holder, Limits, Shares, current_holder, network_of_peer
from libs.common.settings import Settings

_HEALTH_LIMITS = Limits(total=50, address=20)
_NEVER_SECONDS = 1e9


@dataclass(frozen=True, slots=True)
class Sharing:
    """The shares of one server.

    Attributes:
        calls: unary calls that need a key.
        streams: streams that need one, in either direction.
        keyless: streams that need none.
        keyless_seconds: how long one of these lasts.
        message_bytes: bytes of the requests of authenticated calls, until their handlers return.
        answer_bytes: bytes of the responses to them, until they are sent.
        open_streams: knows the streams of a key.
        callers: records the peers with authenticated calls.
        counts_values: whether the values of requests are counted. The process counts those of its own calls before.
    """

    calls: Shares
    streams: Shares
    keyless: Shares
    keyless_seconds: float
    message_bytes: Shares
    answer_bytes: Shares
    open_streams: OpenStreams
    callers: Callers
    counts_values: bool = True

    @classmethod
    def of_callers(cls, settings: Settings, open_streams: OpenStreams, callers: Callers) -> Self:
        """Those of a port that others than this process reach."""
        calls = Limits(settings.grpc_concurrent_rpcs, owner=max(1, settings.grpc_concurrent_rpcs // 2))
        streams = Limits(
            settings.streams, settings.streams_per_address, settings.streams_per_key, settings.streams_per_owner
        )
        keyless = Limits(settings.keyless_streams, settings.keyless_streams_per_address)
        return cls(
            Shares("calls", "calls", calls),
            Shares("streams", "open streams", streams),
            Shares("keyless_streams", "open streams without an API key", keyless),
            settings.keyless_stream_seconds,
            Shares("message_bytes", "bytes of requests", bytes_limits(settings)),
            Shares("answer_bytes", "bytes of answers", bytes_limits(settings)),
            open_streams,
            callers,
        )

    @classmethod
    def of_own(cls, open_streams: OpenStreams) -> Self:
        """Without limits: for the address at which a process calls itself, for requests that have shares already."""
        return cls(
            Shares(),
            Shares(),
            Shares(),
            _NEVER_SECONDS,
            Shares(),
            Shares(),
            open_streams,
            Callers(),
            counts_values=False,
        )

    @classmethod
    def of_health(cls, settings: Settings, callers: Callers) -> Self:
        """Those of a port for health alone."""
        keyless = Shares("health_port_streams", "open streams", _HEALTH_LIMITS)
        return cls(
            Shares(), Shares(), keyless, settings.keyless_stream_seconds, Shares(), Shares(), OpenStreams(), callers
        )


def bytes_limits(settings: Settings) -> Limits:
    """Return the limits of bytes of requests or responses in memory: an owner may have half, a key a quarter."""
    total = settings.request_bytes
    return Limits(total, key=total // 4, owner=total // 2)


class ShareOut(Wrapper):
    """Lets each call hold its share, and refuses it with RATE_LIMITED where that is used up.

    Unary calls that need no key (health checks) are never refused. It runs inside the interceptor that checks API keys.
    """

    def __init__(self, sharing: Sharing) -> None:
        self._sharing = sharing

    def unary(self, method: str, behaviour: Any) -> Any:
        """See the class."""
        if is_keyless(method):
            return behaviour
        calls = self._sharing.calls

        async def wrapped(request: Any, context: Context) -> Any:
            if hasattr(request, "__aiter__"):
                with self._stream(context) as stream:
                    return await behaviour(stream.reading(request), context)
            holder = current_holder()
            calls.take(holder)
            # The share is returned when the response is sent, so that unread responses count.
            when_done(context, partial(calls.give_back, holder))
            with self._sharing.callers.calling(context.peer(), holder):
                return await behaviour(request, context)

        return wrapped

    def stream(self, method: str, behaviour: Any) -> Any:
        """See the class."""
        opened = self._keyless_stream if is_keyless(method) else self._stream

        async def wrapped(request: Any, context: Context) -> AsyncIterator[Any]:
            with opened(context):
                async for answer in answers_of_stream(behaviour(request, context)):
                    yield answer

        return wrapped

    @contextmanager
    def _stream(self, context: Context) -> Iterator[OpenStream]:
        sharing = self._sharing
        peer = context.peer()
        holder = current_holder()._replace(address=network_of_peer(peer))
        with (
            sharing.streams.held(holder),
            sharing.callers.calling(peer, holder),
            OpenStream() as stream,
            sharing.open_streams.noted(holder.key, stream.end),
        ):
            yield stream

    @contextmanager
    def _keyless_stream(self, context: Context) -> Iterator[None]:
        seconds = self._sharing.keyless_seconds
        over = GenerationError(ErrorCode.SERVICE_UNAVAILABLE, f"This stream ends after {seconds:g} s: open it again.")
        with self._sharing.keyless.held(Holder(network_of_peer(context.peer()))), OpenStream() as stream:
            timer = asyncio.get_running_loop().call_later(seconds, stream.end, over)
            try:
                yield
            finally:
                timer.cancel()
