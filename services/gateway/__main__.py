"""Starts the gateway."""

from __future__ import annotations

from darkroom.dispatcher.v1.dispatcher_pb2_grpc import DispatcherServiceStub
from darkroom.gateway.v1.gateway_pb2_grpc import add_GenerationServiceServicer_to_server
from darkroom.poller.v1.poller_pb2_grpc import PollingServiceStub

from libs.common.database.stores.cancelling import CancelStore
from libs.common.database.stores.generations import GenerationStore
from libs.common.database.stores.submissions import SubmissionStore
from libs.common.rpc.channel import open_channel
from libs.common.rpc.service import Frame, run
from libs.common.storage.objects import ObjectStore
from services.gateway.cancels import Cancels
from services.gateway.handlers import GenerationHandlers
from services.gateway.http import Http
from services.gateway.intake import Intake
from services.gateway.webhook_keys import WebhookKeys
from services.gateway.webhooks import Webhooks


async def wire(frame: Frame) -> None:
    """Put the gateway together."""
    settings = frame.settings
    to_dispatcher, to_poller = open_channel(settings.dispatcher_address), open_channel(settings.poller_address)
    dispatcher, poller = DispatcherServiceStub(to_dispatcher), PollingServiceStub(to_poller)
    generations = GenerationStore(frame.database)
    objects = ObjectStore(settings)
    intake = Intake(generations, dispatcher)
    cancels = Cancels(CancelStore(frame.database), generations, dispatcher, poller)
    webhooks = Webhooks(frame.catalog, WebhookKeys(), poller)
    http = Http(settings.bind_host, settings.gateway_http_port, webhooks.routes())
    frame.serve(
        GenerationHandlers(
            frame.catalog,
            generations=generations,
            submissions=SubmissionStore(frame.database),
            intake=intake,
            cancels=cancels,
            url_of=objects.url,
        ),
        add_GenerationServiceServicer_to_server,
        "darkroom.gateway.v1.GenerationService",
    )
    frame.on_start(http.start)
    frame.on_close(to_dispatcher.close)
    frame.on_close(to_poller.close)
    frame.on_close(objects.close)
    frame.on_close(intake.close)
    frame.on_close(cancels.close)
    frame.on_close(http.close)


if __name__ == "__main__":
    run("gateway", wire)
