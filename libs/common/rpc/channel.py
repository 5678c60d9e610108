"""Channels to peers: the request id goes along, and a peer that is away is found again quickly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from libs.common.rpc.context import REQUEST_ID_KEY, current_request_id

_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.lb_policy_name", "round_robin"),
)


class _SendRequestId(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        metadata = grpc.aio.Metadata(*(client_call_details.metadata or ()))
        metadata.add(REQUEST_ID_KEY, current_request_id())
        details = grpc.aio.ClientCallDetails(
            client_call_details.method,
            client_call_details.timeout,
            metadata,
            client_call_details.credentials,
            client_call_details.wait_for_ready,
        )
        return await continuation(details, request)


def open_channel(address: str) -> grpc.aio.Channel:
    """A channel to a peer at `host:port`."""
    return grpc.aio.insecure_channel(address, options=_OPTIONS, interceptors=[_SendRequestId()])
