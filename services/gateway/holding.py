"""What an HTTP request holds while it is answered: a share of its API key's and owner's requests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

from aiohttp import web

from libs.common.errors import GenerationError
from libs.common.rpc.open_streams import OpenStreams
from libs.common.rpc.shares import Holder, Limits, Shares
from libs.common.settings import Settings
from services.gateway.access import Caller
from services.gateway.gate import Gate

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Holding:
    """What one request holds. Given back when its handler has ended.

    Args:
        request: whose.
        shares: of keys and owners.
        open_streams: knows the streams of a key.
    """

    def __init__(self, request: web.Request, shares: Shares, open_streams: OpenStreams) -> None:
        self._request = request
        self._shares = shares
        self._open_streams = open_streams
        self._held = ExitStack()
        self._is_held = False

    def take(self, caller: Caller) -> None:
        """Hold a share of the caller's, once. Raises GenerationError RATE_LIMITED beyond their limits."""
        if not self._is_held:
            self._held.enter_context(self._shares.held(Holder(key=caller.key_id, owner=caller.owner)))
            self._is_held = True

    def end_with_key(self, caller: Caller) -> None:
        """Close the connection if the caller's key ends before the request does."""
        self._held.enter_context(self._open_streams.noted(caller.key_id, self._cut_off))

    def give_back(self) -> None:
        """Give back all of it."""
        self._held.close()

    def _cut_off(self, error: GenerationError) -> None:
        # The answer has begun, so that it cannot say why it ends.
        del error
        if self._request.transport is not None:
            self._request.transport.abort()


_HOLDING = web.RequestKey("holding", Holding)


def holding(settings: Settings, open_streams: OpenStreams, gate: Gate) -> Any:
    """Return the middleware that counts each request against shares and marks its connection as busy."""
    limits = Limits(key=settings.http_requests_per_key, owner=settings.http_requests_per_owner)
    shares = Shares("http_requests", "requests in progress", limits)

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        held = request[_HOLDING] = Holding(request, shares, open_streams)
        with gate.at_work(request.protocol):
            try:
                return await handler(request)
            finally:
                held.give_back()

    return middleware


def hold(request: web.Request, caller: Caller) -> None:
    """Count a request as the caller's from now on. Raises GenerationError RATE_LIMITED beyond their limits."""
    request[_HOLDING].take(caller)


def end_with_key(request: web.Request, caller: Caller) -> None:
    """Cut off the answer to a request, a file or a stream, if the caller's key is revoked or expires meanwhile."""
    request[_HOLDING].end_with_key(caller)
