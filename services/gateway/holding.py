"""The shares that an HTTP request holds until it ends: of the requests and of the bytes of its API key and owner."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

from aiohttp import web

from libs.common.errors import GenerationError
from libs.common.rpc.open_streams import OpenStreams
from libs.common.rpc.shares import NOBODY, Holder, Limits, Shares, network_of
from libs.common.rpc.sharing import bytes_limits
from libs.common.settings import Settings
from services.gateway.access import Caller
from services.gateway.gate import Gate

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_KEYLESS_BYTES = 64 * 1024**2
_KEYLESS_BYTES_PER_ADDRESS = 8 * 1024**2


@dataclass(frozen=True, slots=True)
class HttpShares:
    """The shares of the HTTP port.

    Attributes:
        requests: requests of keys and owners.
        body_bytes: bytes of the bodies of authenticated requests.
        keyless_body_bytes: bytes of the bodies of other requests: webhooks and the sign-in form.
    """

    requests: Shares
    body_bytes: Shares
    keyless_body_bytes: Shares

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The shares that the settings name."""
        requests = Limits(key=settings.http_requests_per_key, owner=settings.http_requests_per_owner)
        address = _KEYLESS_BYTES_PER_ADDRESS if settings.http_connections_per_address else 0
        keyless = Limits(_KEYLESS_BYTES, address=address)
        return cls(
            Shares("http_requests", "requests in progress", requests),
            Shares("http_body_bytes", "bytes of requests", bytes_limits(settings)),
            Shares("http_keyless_body_bytes", "bytes of requests without an API key", keyless),
        )


class Holding:
    """What one request holds. Given back when its handler has ended.

    Args:
        request: whose.
        shares: of the port.
        open_streams: knows the streams of a key.
        gate: has the connection of the request.
    """

    def __init__(self, request: web.Request, shares: HttpShares, open_streams: OpenStreams, gate: Gate) -> None:
        self._request = request
        self._gate = gate
        self._shares = shares
        self._open_streams = open_streams
        self._held = ExitStack()
        self._holder = NOBODY
        self._bytes_of: tuple[Shares, Holder] | None = None
        self._size_bytes = 0

    def take(self, caller: Caller) -> None:
        """Hold a share of the caller's, once. Raises GenerationError RATE_LIMITED beyond their limits."""
        if self._holder is NOBODY:
            holder = Holder(key=caller.key_id, owner=caller.owner)
            self._held.enter_context(self._shares.requests.held(holder))
            self._holder = holder
            self._gate.know(self._request.protocol)

    def take_bytes(self, size_bytes: int) -> None:
        """Hold bytes of the body against the share of the caller, or of the address. Raises as `take`."""
        if self._bytes_of is None:
            self._bytes_of = self._bytes_holder()
            self._held.callback(self._give_back_bytes)
        shares, holder = self._bytes_of
        shares.take(holder, size_bytes)
        self._size_bytes += size_bytes

    def _bytes_holder(self) -> tuple[Shares, Holder]:
        if self._holder is NOBODY:
            return self._shares.keyless_body_bytes, Holder(network_of(self._request.remote or ""))
        return self._shares.body_bytes, self._holder

    def _give_back_bytes(self) -> None:
        if self._bytes_of is not None:
            shares, holder = self._bytes_of
            shares.give_back(holder, self._size_bytes)

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
    shares = HttpShares.from_settings(settings)

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        held = request[_HOLDING] = Holding(request, shares, open_streams, gate)
        with gate.at_work(request.protocol):
            try:
                return await handler(request)
            finally:
                held.give_back()

    return middleware


def hold(request: web.Request, caller: Caller) -> None:
    """Count a request as the caller's from now on. Raises GenerationError RATE_LIMITED beyond their limits."""
    request[_HOLDING].take(caller)


def hold_bytes(request: web.Request, size_bytes: int) -> None:
    """Count bytes of a body as held until the request ends.

    Raises GenerationError RATE_LIMITED beyond the limits of the caller, or of the address of one without a key.
    """
    request[_HOLDING].take_bytes(size_bytes)


def end_with_key(request: web.Request, caller: Caller) -> None:
    """Cut off the answer to a request, a file or a stream, if the caller's key is revoked or expires meanwhile."""
    request[_HOLDING].end_with_key(caller)
