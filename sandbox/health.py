"""Asks a service for its health, as Kubernetes does."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2


def health(port: int, service: str = "", *, host: str = "127.0.0.1", timeout_seconds: float = 2.0) -> str:
    """What `grpc.health.v1.Health/Check` answers: SERVING, NOT_SERVING, …; UNREACHABLE where nobody does.

    Args:
        port: where it listens.
        service: `` for readiness, `liveness`, or a service's full name.
        host: its address.
        timeout_seconds: how long to wait for an answer.
    """
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_seconds)
        except grpc.RpcError:
            return "UNREACHABLE"
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
