"""Starts the gateway."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import grpc
from aiohttp import web
from darkroom.dispatcher.v1.dispatcher_pb2_grpc import DispatcherServiceStub
from darkroom.experiments.v1.experiments_pb2_grpc import ExperimentServiceStub
from darkroom.gateway.v1.admin_pb2_grpc import AdminServiceStub, add_AdminServiceServicer_to_server
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub, add_GenerationServiceServicer_to_server
from darkroom.monitor.v1.monitor_pb2_grpc import MonitorServiceStub
from darkroom.poller.v1.poller_pb2_grpc import PollingServiceStub

from libs.common.api_keys import key_secret
from libs.common.database.stores import live_ids
from libs.common.database.stores.accounts import AccountStore
from libs.common.database.stores.api_keys import ApiKeyStore
from libs.common.database.stores.audit import AuditStore
from libs.common.database.stores.batches import BatchStore
from libs.common.database.stores.callbacks import CallbackStore
from libs.common.database.stores.cancelling import CancelStore
from libs.common.database.stores.console_reads import ConsoleReads
from libs.common.database.stores.console_sessions import ConsoleSessionStore
from libs.common.database.stores.dispatching import DispatchStore
from libs.common.database.stores.generations import GenerationStore
from libs.common.database.stores.intake import IntakeStore
from libs.common.database.stores.prepared_images import PreparedImageStore
from libs.common.database.stores.ratings import RatingStore
from libs.common.database.stores.resuming import ResumeStore
from libs.common.database.stores.statistics import StatisticsStore
from libs.common.database.stores.submissions import SubmissionStore
from libs.common.preprocessing.fetching import Fetcher
from libs.common.preprocessing.keeping import Keeper
from libs.common.preprocessing.preparing import Preparer
from libs.common.rpc.channel import open_channel
from libs.common.rpc.nudges import Nudges, batch_nudges
from libs.common.rpc.service import Frame, run
from libs.common.settings import listed
from libs.common.storage.objects import ObjectStore
from services.gateway.api_keys import AdminHandlers
from services.gateway.authentication import Authentication, KeysOnly
from services.gateway.batches.estimates import Estimates
from services.gateway.batches.export import Export
from services.gateway.batches.handlers import Batches
from services.gateway.batches.intake import BatchIntake
from services.gateway.batches.routes import BatchRoutes
from services.gateway.callbacks import Callbacks
from services.gateway.cancels import Cancels
from services.gateway.console.console import Console
from services.gateway.console.parts import Parts
from services.gateway.console.sessions import Sessions
from services.gateway.experiments.ratings import Ratings
from services.gateway.experiments.snapshot import Snapshot
from services.gateway.experiments.taking_part import TakingPart
from services.gateway.first_key import FirstKey
from services.gateway.handlers import GenerationHandlers
from services.gateway.http import Http
from services.gateway.images.preprocess import Images
from services.gateway.intake import BETWEEN_NUDGES_SECONDS, Intake
from services.gateway.openai.routes import openai_routes
from services.gateway.own_server import OwnServer
from services.gateway.quota import admit, admit_batch
from services.gateway.rest.routes import Peers, rest_routes
from services.gateway.upkeep import Upkeep
from services.gateway.watching import Watchers
from services.gateway.webhook_keys import WebhookKeys
from services.gateway.webhooks import Webhooks

# What an answer holds beside an image.
_ROOM_BYTES = 64 * 1024
_FORGET_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class _Stores:
    """What the gateway keeps and reads."""

    keys: ApiKeyStore
    generations: GenerationStore
    intake: IntakeStore
    objects: ObjectStore
    batches: BatchStore
    preparer: Preparer


async def wire(frame: Frame) -> None:
    """Put the gateway together."""
    settings = frame.settings
    database = frame.database
    stores = _Stores(
        ApiKeyStore(database),
        GenerationStore(database),
        IntakeStore(database, admit),
        ObjectStore(settings),
        BatchStore(database, admit_batch),
        Preparer.from_settings(settings, waiting=settings.image_waiting),
    )
    authentication = Authentication(
        stores.keys,
        secret=key_secret(settings),
        cache_seconds=settings.key_cache_seconds,
        delay_seconds=settings.wrong_key_delay_seconds,
    )
    to_poller = open_channel(settings.poller_address, settings)
    poller = PollingServiceStub(to_poller)
    to_experiments = open_channel(settings.experiments_address, settings)
    frame.on_close(to_poller.close)
    frame.on_close(to_experiments.close)
    frame.on_close(stores.objects.close)
    frame.on_close(stores.preparer.close)
    frame.loop("live_ids", partial(live_ids.follow, frame.database), interval_seconds=live_ids.LOOK_SECONDS)
    _serve_rpcs(frame, stores, authentication, poller, _taking_part(frame, to_experiments))
    _serve_http(frame, stores, authentication, poller, to_experiments)
    Upkeep(stores.keys, stores.intake, authentication).run_in(frame)
    first_key = FirstKey(stores.keys, settings)
    frame.loop("first_key", first_key.keep, interval_seconds=settings.readiness_check_seconds)
    frame.on_start(first_key.start)


def _taking_part(frame: Frame, to_experiments: grpc.aio.Channel) -> TakingPart:
    settings = frame.settings
    snapshot = Snapshot(ExperimentServiceStub(to_experiments), stale_seconds=settings.experiment_stale_seconds)
    frame.loop("experiments", snapshot.refresh, interval_seconds=settings.experiment_refresh_seconds)
    return TakingPart(snapshot, frame.catalog)


def _serve_rpcs(
    frame: Frame,
    stores: _Stores,
    authentication: Authentication,
    poller: PollingServiceStub,
    taking_part: TakingPart,
) -> None:
    settings, secret = frame.settings, key_secret(frame.settings)
    to_dispatcher = open_channel(settings.dispatcher_address, settings)
    dispatcher = DispatcherServiceStub(to_dispatcher)
    intake = Intake(stores.intake, dispatcher)
    cancels = Cancels(CancelStore(frame.database), stores.generations, dispatcher, poller)
    watchers = Watchers(stores.generations, interval_seconds=settings.watch_interval_seconds)
    callback_hosts = listed(settings.callback_allowed_hosts)
    nudges = batch_nudges(dispatcher, between_seconds=BETWEEN_NUDGES_SECONDS)
    batches = _batches(frame, stores, nudges)
    frame.serve(
        GenerationHandlers(
            frame.catalog,
            generations=stores.generations,
            submissions=SubmissionStore(frame.database),
            intake=intake,
            cancels=cancels,
            watchers=watchers,
            batches=batches,
            images=_images(frame, stores),
            callbacks=Callbacks(CallbackStore(frame.database), secret=secret),
            taking_part=taking_part,
            ratings=Ratings(RatingStore(frame.database)),
            url_of=stores.objects.url,
            callback_hosts=callback_hosts,
        ),
        add_GenerationServiceServicer_to_server,
        "darkroom.gateway.v1.GenerationService",
    )
    frame.serve(
        AdminHandlers(stores.keys, authentication, secret=secret, callback_hosts=callback_hosts),
        add_AdminServiceServicer_to_server,
        "darkroom.gateway.v1.AdminService",
    )
    for name, hub in (("watch", watchers), ("watch_batches", batches.watchers)):
        frame.loop(name, hub.look, interval_seconds=settings.watch_interval_seconds)
        frame.on_drain(hub.close)
    frame.on_close(to_dispatcher.close)
    frame.on_close(intake.close)
    frame.on_close(nudges.close)
    frame.on_close(cancels.close)


def _batches(frame: Frame, stores: _Stores, nudges: Nudges) -> Batches:
    settings, database = frame.settings, frame.database
    estimates = Estimates(StatisticsStore(database), DispatchStore(database, owner=frame.owner))
    return Batches(
        catalog=frame.catalog,
        store=stores.batches,
        resuming=ResumeStore(database, admit_batch),
        generations=stores.generations,
        intake=BatchIntake(
            stores.batches, frame.catalog, estimates, nudges, callback_hosts=listed(settings.callback_allowed_hosts)
        ),
        nudges=nudges,
        watchers=Watchers(stores.batches, interval_seconds=settings.watch_interval_seconds),
        url_of=stores.objects.url,
    )


def _images(frame: Frame, stores: _Stores) -> Images:
    settings = frame.settings
    fetcher = Fetcher.from_settings(settings)
    frame.on_close(fetcher.close)
    return Images(
        frame.catalog,
        fetcher,
        stores.preparer,
        Keeper(PreparedImageStore(frame.database), stores.objects),
        at_once=max(1, settings.image_waiting // 2),
        answer_bytes=settings.grpc_message_limit_bytes - _ROOM_BYTES,
    )


def _batch_routes(frame: Frame, stores: _Stores, own: OwnServer, authentication: Authentication) -> list[web.RouteDef]:
    return BatchRoutes(
        own, authentication, stores.batches, Export(stores.generations, stores.objects), frame.settings
    ).routes()


def _console(frame: Frame, stores: _Stores, own: OwnServer, peers: Peers, authentication: Authentication) -> Console:
    settings, database = frame.settings, frame.database
    sessions = Sessions(
        ConsoleSessionStore(database),
        authentication,
        secret=key_secret(settings),
        seconds=settings.console_session_seconds,
        idle_seconds=settings.console_idle_seconds,
        cache_seconds=settings.key_cache_seconds,
    )
    parts = Parts(
        generation=GenerationServiceStub(own.channel),
        admin=AdminServiceStub(own.channel),
        monitor=MonitorServiceStub(peers.monitor),
        experiment=ExperimentServiceStub(peers.experiments),
        catalog=frame.catalog,
        reads=ConsoleReads(database),
        generations=stores.generations,
        submissions=SubmissionStore(database),
        callbacks=CallbackStore(database),
        batches=stores.batches,
        accounts=AccountStore(database),
        keys=stores.keys,
        statistics=StatisticsStore(database),
        audit=AuditStore(database),
        objects=stores.objects,
        export=Export(stores.generations, stores.objects),
        preparer=stores.preparer,
        is_stopping=lambda: frame.is_stopping,
    )
    console = Console(settings, parts, sessions, authentication)
    frame.loop("console", console.forget, interval_seconds=_FORGET_SECONDS)
    return console


def _serve_http(
    frame: Frame,
    stores: _Stores,
    authentication: Authentication,
    poller: PollingServiceStub,
    to_experiments: grpc.aio.Channel,
) -> None:
    own = OwnServer()
    to_monitor = open_channel(frame.settings.monitor_address, frame.settings)
    frame.guard(KeysOnly(authentication), private_address=own.address)
    peers = Peers(to_monitor, to_experiments)
    http = Http(
        frame.settings,
        [
            *_console(frame, stores, own, peers, authentication).routes(),
            *Webhooks(frame.catalog, WebhookKeys(), poller).routes(),
            *_batch_routes(frame, stores, own, authentication),
            *rest_routes(own, peers, authentication, frame),
            *openai_routes(own, authentication, frame, stores.generations, stores.objects),
        ],
        is_stopping=lambda: frame.is_stopping,
    )
    frame.on_start(http.start)
    # Before the RPCs that its requests are made of are answered no more.
    frame.on_drain(http.close)
    frame.on_close(to_monitor.close)
    frame.on_close(own.close)


if __name__ == "__main__":
    run("gateway", wire)
