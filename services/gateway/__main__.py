"""Starts the gateway."""

from __future__ import annotations

from darkroom.dispatcher.v1.dispatcher_pb2_grpc import DispatcherServiceStub
from darkroom.gateway.v1.gateway_pb2_grpc import add_GenerationServiceServicer_to_server

from libs.common.database.stores.generations import GenerationStore
from libs.common.rpc.channel import open_channel
from libs.common.rpc.service import Frame, run
from libs.common.storage.objects import ObjectStore
from services.gateway.handlers import GenerationHandlers
from services.gateway.intake import Intake


async def wire(frame: Frame) -> None:
    """Put the gateway together."""
    channel = open_channel(frame.settings.dispatcher_address)
    generations = GenerationStore(frame.database)
    objects = ObjectStore(frame.settings)
    intake = Intake(generations, DispatcherServiceStub(channel))
    frame.serve(
        GenerationHandlers(frame.catalog, generations, intake, objects.url),
        add_GenerationServiceServicer_to_server,
        "darkroom.gateway.v1.GenerationService",
    )
    frame.on_close(channel.close)
    frame.on_close(objects.close)
    frame.on_close(intake.close)


if __name__ == "__main__":
    run("gateway", wire)
