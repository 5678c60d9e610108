"""Starts a dispatcher."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from darkroom.dispatcher.v1.dispatcher_pb2_grpc import add_DispatcherServiceServicer_to_server
from darkroom.poller.v1.poller_pb2_grpc import PollingServiceStub

from libs.common.adapters.accounts import Accounts
from libs.common.database.stores import live_ids
from libs.common.database.stores.accounts import AccountStore
from libs.common.database.stores.batch_progress import BatchProgressStore
from libs.common.database.stores.claiming import ClaimStore
from libs.common.database.stores.dispatching import DispatchStore
from libs.common.database.stores.late_replies import LateReplyStore
from libs.common.database.stores.prepared_images import PreparedImageStore
from libs.common.loops import Loop
from libs.common.preprocessing.fetching import Fetcher
from libs.common.preprocessing.keeping import Keeper
from libs.common.preprocessing.preparing import Preparer
from libs.common.rpc.channel import open_channel
from libs.common.rpc.service import Frame, run
from libs.common.rpc.wakeups import HandedOver, Wakeups, poller_wakeups
from libs.common.storage.download import Downloader
from libs.common.storage.objects import ObjectStore
from libs.common.storage.results import Results
from services.dispatcher.batches import Batches
from services.dispatcher.circuits import Circuits
from services.dispatcher.claims import Claims
from services.dispatcher.handlers import DispatcherHandlers
from services.dispatcher.inputs import InputImages
from services.dispatcher.leases import Leases
from services.dispatcher.lookups import Lookups
from services.dispatcher.preparing import Preparation
from services.dispatcher.submit import Submitter

_FORGOTTEN_SECONDS = 30.0
_EXPIRED_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class _Clients:
    """Clients of vendors, of object storage, and of hosts of input images."""

    accounts: Accounts
    objects: ObjectStore
    downloader: Downloader
    fetcher: Fetcher
    preparer: Preparer
    keeper: Keeper


async def wire(frame: Frame) -> None:
    """Connect the parts of a dispatcher."""
    clients = _clients(frame)
    store, account_store = DispatchStore(frame.database, owner=frame.owner), AccountStore(frame.database)
    circuits = Circuits(account_store, frame.catalog, frame.set_health)
    preparation = Preparation(frame.catalog, clients.accounts, public_url=frame.settings.public_url)
    wakeups = _wakeups(frame)
    leases, lookups = Leases(frame.settings.lease_seconds), Lookups(frame.settings, preparation.adapter_of)
    submitter = Submitter(
        store,
        preparation,
        inputs=InputImages(clients.fetcher, clients.preparer, clients.keeper, clients.objects, frame.settings),
        results=Results(clients.downloader, clients.objects, limit_bytes=frame.settings.download_limit_bytes),
        wakeups=wakeups,
        circuits=circuits,
        leases=leases,
        lookups=lookups,
        late_replies=LateReplyStore(frame.database),
    )
    claims = _claims(frame, submitter, leases, lookups)
    batch_loop = _batch_loop(frame, claims)
    frame.loop("live_ids", partial(live_ids.follow, frame.database), interval_seconds=live_ids.LOOK_SECONDS)
    frame.loop("circuits", circuits.share, interval_seconds=frame.settings.sweep_seconds)
    frame.loop("expired_images", clients.keeper.remove_expired, interval_seconds=_EXPIRED_SECONDS)
    frame.serve(
        DispatcherHandlers(store, account_store, frame.catalog, claims, wake_batches=batch_loop.wake),
        add_DispatcherServiceServicer_to_server,
        "darkroom.dispatcher.v1.DispatcherService",
    )
    for drain in (claims.drain, submitter.close, wakeups.close):
        frame.on_drain(drain)


def _clients(frame: Frame) -> _Clients:
    settings = frame.settings
    objects = ObjectStore(settings)
    clients = _Clients(
        Accounts(frame.catalog),
        objects,
        Downloader(limit_bytes=settings.download_limit_bytes, timeout_seconds=settings.download_timeout_seconds),
        Fetcher.from_settings(settings),
        Preparer.from_settings(settings),
        Keeper(PreparedImageStore(frame.database), objects),
    )
    for client in (objects, clients.downloader, clients.fetcher, clients.preparer, clients.accounts):
        frame.on_close(client.close)
    frame.on_start(clients.preparer.start)
    return clients


def _wakeups(frame: Frame) -> Wakeups[HandedOver]:
    channel = open_channel(frame.settings.poller_address, frame.settings)
    wakeups = poller_wakeups(PollingServiceStub(channel))
    frame.on_close(channel.close)
    return wakeups


def _claims(frame: Frame, submitter: Submitter, leases: Leases, lookups: Lookups) -> Claims:
    settings = frame.settings
    store = ClaimStore(frame.database, owner=frame.owner, lease_seconds=settings.lease_seconds)
    claims = Claims(store, frame.catalog, submitter, settings, leases=leases, lookups=lookups)
    claims.claim_loop = frame.loop("claim", claims.claim, interval_seconds=settings.sweep_seconds)
    frame.loop("rescue", claims.rescue, interval_seconds=settings.lease_seconds / 6)
    frame.loop("forgotten", claims.end_forgotten, interval_seconds=_FORGOTTEN_SECONDS)
    frame.loop("renew", claims.renew, interval_seconds=settings.lease_seconds / 3)
    return claims


def _batch_loop(frame: Frame, claims: Claims) -> Loop:
    store = BatchProgressStore(frame.database)
    batches = Batches(store, frame.catalog, wake_claims=claims.wake, cancel=claims.cancel)
    frame.loop("forget_batches", batches.forget, interval_seconds=_FORGOTTEN_SECONDS)
    return frame.loop("batches", batches.look_after, interval_seconds=frame.settings.sweep_seconds)


if __name__ == "__main__":
    run("dispatcher", wire)
