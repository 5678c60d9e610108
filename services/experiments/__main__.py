"""Starts the experiments service."""

from __future__ import annotations

from darkroom.experiments.v1.experiments_pb2_grpc import add_ExperimentServiceServicer_to_server

from libs.common.rpc.service import Frame, run
from services.experiments.handlers import ExperimentHandlers


async def wire(frame: Frame) -> None:
    """Put the service together."""
    frame.serve(
        ExperimentHandlers(), add_ExperimentServiceServicer_to_server, "darkroom.experiments.v1.ExperimentService"
    )


if __name__ == "__main__":
    run("experiments", wire)
