"""Channels to the gateway: each call carries the API key, and each create an idempotency key, since gRPC repeats it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import grpc

from libs.client.retrying import new_idempotency_key

# For clients that send an idempotency key with every create, as this one does. It is published beside the protos.
_SERVICE_CONFIG = resources.files("darkroom.gateway.v1").joinpath("service_config_with_keys.json").read_text()
_IDEMPOTENCY_KEY = "idempotency-key"
_OPTIONS = (
    ("grpc.service_config", _SERVICE_CONFIG),
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", 64 * 1024**2),
)


# One object for each kind of call: gRPC takes each interceptor for one kind alone.
class _OnCalls(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, api_key: str) -> None:
        self._api_key = api_key

    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        needs_key = _takes_key(request) and not request.idempotency_key
        return await continuation(_completed(client_call_details, self._api_key, needs_key=needs_key), request)


class _OnStreams(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, api_key: str) -> None:
        self._api_key = api_key

    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(_completed(client_call_details, self._api_key), request)


class _OnUploads(grpc.aio.StreamUnaryClientInterceptor):
    def __init__(self, api_key: str) -> None:
        self._api_key = api_key

    async def intercept_stream_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request_iterator: Any
    ) -> Any:
        # A key in the first message counts before this one.
        return await continuation(_completed(client_call_details, self._api_key, needs_key=True), request_iterator)


def _takes_key(request: Any) -> bool:
    return "idempotency_key" in request.DESCRIPTOR.fields_by_name


def _completed(
    details: grpc.aio.ClientCallDetails, api_key: str, *, needs_key: bool = False
) -> grpc.aio.ClientCallDetails:
    """The call with its API key, and with an idempotency key where it creates something and has none.

    The key stays the same for all repeats that the service config asks of gRPC, which happen below this.
    """
    metadata = grpc.aio.Metadata(*(details.metadata or ()))
    metadata.add("authorization", f"Bearer {api_key}")
    if needs_key and not metadata.get_all(_IDEMPOTENCY_KEY):
        metadata.add(_IDEMPOTENCY_KEY, new_idempotency_key())
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
        _OnCalls(api_key),
        _OnStreams(api_key),
        _OnUploads(api_key),
    ]
    if tls:
        roots = root_certificates.read_bytes() if root_certificates else None
        return grpc.aio.secure_channel(
            address, grpc.ssl_channel_credentials(roots), options=_OPTIONS, interceptors=interceptors
        )
    return grpc.aio.insecure_channel(address, options=_OPTIONS, interceptors=interceptors)
