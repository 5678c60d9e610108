"""Channels to the gateway: the API key goes along, and what failed on the way is sent again where that is safe."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

_SERVICE = "darkroom.gateway.v1.GenerationService"
_READS = (
    "GetGeneration", "ListGenerations", "ListModels", "ListCallbacks", "GetBatch", "ListBatches", "EstimateCost",
    "PreprocessImage",
)  # fmt: skip
# What creates is sent with an idempotency key, so that a repeat makes nothing twice.
_REPEATABLE = (*_READS, "CreateGeneration", "CancelGeneration", "CreateBatch", "CancelBatch", "ResumeBatch")
# Source: https://github.com/grpc/grpc/blob/master/doc/service_config.md
_SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{"service": _SERVICE, "method": method} for method in _REPEATABLE],
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.2s",
                    "maxBackoff": "3s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)
_OPTIONS = (
    ("grpc.service_config", _SERVICE_CONFIG),
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", 64 * 1024**2),
)


# One object for each kind of call: gRPC takes each interceptor for one kind alone.
class _KeyOnCalls(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, api_key: str) -> None:
        self._api_key = api_key

    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(_with_key(client_call_details, self._api_key), request)


class _KeyOnStreams(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, api_key: str) -> None:
        self._api_key = api_key

    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(_with_key(client_call_details, self._api_key), request)


class _KeyOnUploads(grpc.aio.StreamUnaryClientInterceptor):
    def __init__(self, api_key: str) -> None:
        self._api_key = api_key

    async def intercept_stream_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request_iterator: Any
    ) -> Any:
        return await continuation(_with_key(client_call_details, self._api_key), request_iterator)


def _with_key(details: grpc.aio.ClientCallDetails, api_key: str) -> grpc.aio.ClientCallDetails:
    metadata = grpc.aio.Metadata(*(details.metadata or ()))
    metadata.add("authorization", f"Bearer {api_key}")
    return grpc.aio.ClientCallDetails(
        details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
    )


def open_channel(
    address: str, api_key: str, *, tls: bool = False, root_certificates: Path | None = None
) -> grpc.aio.Channel:
    """A channel to a gateway.

    Args:
        address: `host:port`.
        api_key: sent with each call.
        tls: whether the gateway speaks TLS.
        root_certificates: who has signed its certificate, as PEM; None: whom the system trusts.
    """
    interceptors: list[grpc.aio.ClientInterceptor] = [
        _KeyOnCalls(api_key),
        _KeyOnStreams(api_key),
        _KeyOnUploads(api_key),
    ]
    if tls:
        roots = root_certificates.read_bytes() if root_certificates else None
        return grpc.aio.secure_channel(
            address, grpc.ssl_channel_credentials(roots), options=_OPTIONS, interceptors=interceptors
        )
    return grpc.aio.insecure_channel(address, options=_OPTIONS, interceptors=interceptors)
