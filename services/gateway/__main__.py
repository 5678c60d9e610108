"""Starts the gateway."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TypeVar

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
from libs.common.database.stores.billing import BillingStore
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
from libs.common.rpc.service import Frame, run
from libs.common.rpc.wakeups import batch_wakeups
from libs.common.settings import listed
from libs.common.storage.objects import ObjectStore
from services.gateway.api_keys import AdminHandlers
from services.gateway.authentication import Authentication, KeysOnly
from services.gateway.batches.estimates import Estimates
from services.gateway.batches.export import Export
from services.gateway.batches.handlers import Batches
from services.gateway.batches.intake import BatchIntake
from services.gateway.batches.routes import BatchRoutes
from services.gateway.batches.upload_shares import UploadShares
from services.gateway.batches.uploads import UploadBounds
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
from services.gateway.images.kept_bytes import KeptBytes
from services.gateway.images.preprocess import Images
from services.gateway.intake import BETWEEN_WAKEUPS_SECONDS, Intake
from services.gateway.openai.routes import openai_routes
from services.gateway.own_server import OwnServer
from services.gateway.quota import admit, admit_batch
from services.gateway.reruns import Reruns
from services.gateway.rest.routes import Peers, rest_routes
from services.gateway.revoking import LOOK_SECONDS, Revoking
from services.gateway.sending import Downloads
from services.gateway.submissions import Submissions
from services.gateway.upkeep import Upkeep
from services.gateway.watching import Change, Source, Watchers
from services.gateway.webhook_keys import WebhookKeys
from services.gateway.webhooks import Webhooks

# What an answer holds beside an image.
_ROOM_BYTES = 64 * 1024
_FORGET_SECONDS = 300.0
Told = TypeVar("Told", bound=Change)


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
    frame.on_start(stores.preparer.start)
    frame.on_close(stores.preparer.close)
    frame.loop("live_ids", partial(live_ids.follow, frame.database), interval_seconds=live_ids.LOOK_SECONDS)
    _serve_rpcs(frame, stores, authentication, poller, _taking_part(frame, to_experiments))
    _serve_http(frame, stores, authentication, poller, to_experiments)
    Upkeep(stores.keys, stores.intake, authentication).run_in(frame)
    revoking = Revoking(stores.keys, authentication, frame.open_streams)
    frame.loop("revoked_keys", revoking.look, interval_seconds=LOOK_SECONDS)
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
    to_dispatcher = open_channel(frame.settings.dispatcher_address, frame.settings)
    frame.on_close(to_dispatcher.close)
    dispatcher = DispatcherServiceStub(to_dispatcher)
    frame.serve(
        _generation_handlers(frame, stores, dispatcher, poller, taking_part),
        add_GenerationServiceServicer_to_server,
        "darkroom.gateway.v1.GenerationService",
    )
    secret, hosts = key_secret(frame.settings), listed(frame.settings.callback_allowed_hosts)
    frame.serve(
        AdminHandlers(stores.keys, authentication, secret=secret, callback_hosts=hosts),
        add_AdminServiceServicer_to_server,
        "darkroom.gateway.v1.AdminService",
    )


def _generation_handlers(
    frame: Frame,
    stores: _Stores,
    dispatcher: DispatcherServiceStub,
    poller: PollingServiceStub,
    taking_part: TakingPart,
) -> GenerationHandlers:
    intake, hosts = Intake(stores.intake, dispatcher), listed(frame.settings.callback_allowed_hosts)
    submissions = Submissions(frame.catalog, SubmissionStore(frame.database), BillingStore(frame.database), intake.wake)
    frame.on_close(intake.close)
    return GenerationHandlers(
        frame.catalog,
        generations=stores.generations,
        submissions=submissions,
        intake=intake,
        cancels=_cancels(frame, stores, dispatcher, poller),
        watchers=_watchers(frame, "watch", stores.generations),
        batches=_batches(frame, stores, dispatcher),
        images=_images(frame, stores),
        callbacks=Callbacks(CallbackStore(frame.database), secret=key_secret(frame.settings)),
        taking_part=taking_part,
        ratings=Ratings(RatingStore(frame.database)),
        reruns=Reruns(frame.catalog, stores.keys, stores.generations, intake, callback_hosts=hosts),
        url_of=stores.objects.url,
        callback_hosts=hosts,
    )


def _cancels(frame: Frame, stores: _Stores, dispatcher: DispatcherServiceStub, poller: PollingServiceStub) -> Cancels:
    cancels = Cancels(CancelStore(frame.database), stores.generations, dispatcher, poller)
    frame.on_close(cancels.close)
    return cancels


def _watchers(frame: Frame, name: str, source: Source[Told]) -> Watchers[Told]:
    watchers = Watchers(source, interval_seconds=frame.settings.watch_interval_seconds)
    frame.loop(name, watchers.look, interval_seconds=frame.settings.watch_interval_seconds)
    frame.on_drain(watchers.close)
    return watchers


def _batches(frame: Frame, stores: _Stores, dispatcher: DispatcherServiceStub) -> Batches:
    settings, database = frame.settings, frame.database
    hosts, shares = listed(settings.callback_allowed_hosts), UploadShares.from_settings(settings)
    wakeups = batch_wakeups(dispatcher, between_seconds=BETWEEN_WAKEUPS_SECONDS)
    estimates = Estimates(StatisticsStore(database), DispatchStore(database, owner=frame.owner))
    intake = BatchIntake(stores.batches, frame.catalog, estimates, wakeups, shares, callback_hosts=hosts)
    frame.on_close(wakeups.close)
    frame.on_close(intake.close)
    return Batches(
        catalog=frame.catalog,
        store=stores.batches,
        resuming=ResumeStore(database, admit_batch),
        generations=stores.generations,
        intake=intake,
        shares=shares,
        upload_bounds=UploadBounds(settings.upload_timeout_seconds, settings.upload_limit_bytes),
        wakeups=wakeups,
        watchers=_watchers(frame, "watch_batches", stores.batches),
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
        KeptBytes(settings.image_kept_bytes_per_owner),
        at_once=max(1, settings.image_waiting // 2),
        answer_bytes=settings.grpc_message_limit_bytes - _ROOM_BYTES,
    )


def _downloads(frame: Frame, stores: _Stores) -> Downloads:
    return Downloads(stores.objects, write_seconds=frame.settings.watch_write_timeout_seconds)


def _batch_routes(frame: Frame, stores: _Stores, own: OwnServer, authentication: Authentication) -> list[web.RouteDef]:
    export = Export(stores.generations, stores.objects)
    downloads = _downloads(frame, stores)
    return BatchRoutes(
        own, authentication, stores.batches, export, downloads=downloads, settings=frame.settings
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
        downloads=_downloads(frame, stores),
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
        open_streams=frame.open_streams,
        is_stopping=lambda: frame.is_stopping,
    )
    frame.on_start(http.start)
    # Before the RPCs that its requests are made of are answered no more.
    frame.on_drain(http.close)
    frame.on_close(to_monitor.close)
    frame.on_close(own.close)


if __name__ == "__main__":
    run("gateway", wire)
