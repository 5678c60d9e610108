"""Channels to peers: request id and credentials go along, and a peer that is away is found again quickly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from libs.common.rpc.context import REQUEST_ID_KEY, current_request_id
from libs.common.rpc.credentials import AUTHORIZATION, channel_credentials, service_tokens
from libs.common.settings import Settings

_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.lb_policy_name", "round_robin"),
)


class _Introduce(grpc.aio.UnaryUnaryClientInterceptor):
    """Sends the request id, and the token where there is one."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        metadata = grpc.aio.Metadata(*(client_call_details.metadata or ()))
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
        return await continuation(details, request)


def open_channel(address: str, settings: Settings) -> grpc.aio.Channel:
    """A channel to a service at `host:port`, which is shown who calls."""
    credentials = channel_credentials(settings)
    token = next(iter(service_tokens(settings)), None)
    if credentials is not None:
        return grpc.aio.secure_channel(address, credentials, options=_OPTIONS, interceptors=[_Introduce(None)])
    return grpc.aio.insecure_channel(address, options=_OPTIONS, interceptors=[_Introduce(token)])
