"""Starts the monitor service."""

from __future__ import annotations

from darkroom.monitor.v1.monitor_pb2_grpc import add_MonitorServiceServicer_to_server

from libs.common.rpc.service import Frame, run
from services.monitor.handlers import MonitorHandlers


async def wire(frame: Frame) -> None:
    """Put the service together."""
    frame.serve(MonitorHandlers(), add_MonitorServiceServicer_to_server, "darkroom.monitor.v1.MonitorService")


if __name__ == "__main__":
    run("monitor", wire)
