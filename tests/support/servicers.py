"""A gRPC service of one method, for tests of servers."""

from __future__ import annotations

from typing import Any

import grpc
from darkroom.monitor.v1.monitor_pb2_grpc import MonitorServiceServicer, add_MonitorServiceServicer_to_server


def serve_log_error(server: grpc.aio.Server, behaviour: Any) -> int:
    """Have a server answer `MonitorService.LogError` by a handler, on a port of its own, which is returned."""
    # A generated servicer of which one method is written.
    service: Any = MonitorServiceServicer
    servicer = service()
    servicer.LogError = behaviour
    add_MonitorServiceServicer_to_server(servicer, server)
    return server.add_insecure_port("127.0.0.1:0")
