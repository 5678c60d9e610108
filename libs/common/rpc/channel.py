"""Channels to peers: request id and credentials go along, and a peer that is away is found again quickly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import Any

import grpc

from libs.common import metrics, tracing
from libs.common.rpc.context import REQUEST_ID_KEY, current_request_id
from libs.common.rpc.credentials import AUTHORIZATION, channel_credentials, edge_credentials, service_tokens
from libs.common.settings import Settings

_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.lb_policy_name", "round_robin"),
    # A server permits 100 calls at once on a connection (`grpc_concurrent_streams`). Source: gRFC A105.
    ("grpc.service_config", '{"connectionScaling": {"maxConnectionsPerSubchannel": 10}}'),
)


class _Introduce(grpc.aio.UnaryUnaryClientInterceptor):
    """Sends the request id, and the token where there is one; counts and times each call."""

    def __init__(self, token: str | None) -> None:
        self._token = token
        self._counting: set[asyncio.Future[None]] = set()

    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        metadata = grpc.aio.Metadata(*(client_call_details.metadata or ()))
        if not metadata.get_all(REQUEST_ID_KEY):
            metadata.add(REQUEST_ID_KEY, current_request_id())
        if self._token is not None:
            metadata.add(AUTHORIZATION, f"Bearer {self._token}")
        details = grpc.aio.ClientCallDetails(
            client_call_details.method,
            client_call_details.timeout,
            metadata,
            client_call_details.credentials,
            client_call_details.wait_for_ready,
        )
        started = perf_counter()
        call = await continuation(details, request)
        # The status is known when the call has ended; whoever made it does not wait for the count.
        counting = asyncio.ensure_future(_count(client_call_details.method, call, started))
        self._counting.add(counting)
        counting.add_done_callback(self._counting.discard)
        return call


async def _count(method: bytes | str, call: Any, started: float) -> None:
    try:
        status = (await call.code()).name
    except asyncio.CancelledError:
        status = grpc.StatusCode.CANCELLED.name
    name = method.decode() if isinstance(method, bytes) else method
    metrics.RPC_CLIENT_SECONDS.labels(name, status).observe(perf_counter() - started)


def open_channel(address: str, settings: Settings) -> grpc.aio.Channel:
    """A channel to a service at `host:port`, which is shown who calls."""
    credentials = channel_credentials(settings)
    token = next(iter(service_tokens(settings)), None)
    if credentials is not None:
        interceptors = [*tracing.client_interceptors(), _Introduce(None)]
        return grpc.aio.secure_channel(address, credentials, options=_OPTIONS, interceptors=interceptors)
    interceptors = [*tracing.client_interceptors(), _Introduce(token)]
    return grpc.aio.insecure_channel(address, options=_OPTIONS, interceptors=interceptors)


def open_edge_channel(address: str, settings: Settings) -> grpc.aio.Channel:
    """A channel to a gateway, for what it answers to anybody: its health."""
    credentials = edge_credentials(settings)
    if credentials is not None:
        return grpc.aio.secure_channel(address, credentials, options=_OPTIONS)
    return grpc.aio.insecure_channel(address, options=_OPTIONS)
