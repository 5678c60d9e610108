"""Starts a dispatcher."""

from __future__ import annotations

from functools import partial

from darkroom.dispatcher.v1.dispatcher_pb2_grpc import add_DispatcherServiceServicer_to_server
from darkroom.poller.v1.poller_pb2_grpc import PollingServiceStub

from libs.common.adapters.accounts import Accounts
from libs.common.database.stores import live_ids
from libs.common.database.stores.accounts import AccountStore
from libs.common.database.stores.batch_progress import BatchProgressStore
from libs.common.database.stores.claiming import ClaimStore
from libs.common.database.stores.dispatching import DispatchStore
from libs.common.database.stores.prepared_images import PreparedImageStore
from libs.common.preprocessing.fetching import Fetcher
from libs.common.preprocessing.keeping import Keeper
from libs.common.preprocessing.preparing import Preparer
from libs.common.rpc.channel import open_channel
from libs.common.rpc.service import Frame, run
from libs.common.storage.download import Downloader
from libs.common.storage.objects import ObjectStore
from libs.common.storage.results import Results
from services.dispatcher.batches import Batches
from services.dispatcher.circuits import Circuits
from services.dispatcher.claims import Claims
from services.dispatcher.handlers import DispatcherHandlers
from services.dispatcher.inputs import InputImages
from services.dispatcher.preparing import Preparation
from services.dispatcher.submit import Submitter
from services.dispatcher.wakeups import Wakeups

_FORGOTTEN_SECONDS = 30.0
_EXPIRED_SECONDS = 300.0


async def wire(frame: Frame) -> None:
    """Put a dispatcher together."""
    settings = frame.settings
    channel = open_channel(settings.poller_address, settings)
    wakeups = Wakeups(PollingServiceStub(channel))
    store = DispatchStore(frame.database, owner=frame.owner)
    account_store = AccountStore(frame.database)
    circuits = Circuits(account_store, frame.catalog, frame.set_health)
    objects = ObjectStore(settings)
    downloader = Downloader(
        limit_bytes=settings.download_limit_bytes, timeout_seconds=settings.download_timeout_seconds
    )
    accounts = Accounts(frame.catalog)
    results = Results(downloader, objects, limit_bytes=settings.download_limit_bytes)
    fetcher, preparer = Fetcher.from_settings(settings), Preparer.from_settings(settings)
    keeper = Keeper(PreparedImageStore(frame.database), objects)
    submitter = Submitter(
        store,
        Preparation(frame.catalog, accounts, public_url=settings.public_url),
        inputs=InputImages(fetcher, preparer, keeper, objects, settings),
        results=results,
        wakeups=wakeups,
        circuits=circuits,
    )
    frame.loop("live_ids", partial(live_ids.follow, frame.database), interval_seconds=live_ids.LOOK_SECONDS)
    claim_store = ClaimStore(frame.database, owner=frame.owner, lease_seconds=settings.lease_seconds)
    claims = Claims(claim_store, frame.catalog, submitter, settings)
    claims.claim_loop = frame.loop("claim", claims.claim, interval_seconds=settings.sweep_seconds)
    frame.loop("rescue", claims.rescue, interval_seconds=settings.lease_seconds / 6)
    frame.loop("forgotten", claims.end_forgotten, interval_seconds=_FORGOTTEN_SECONDS)
    frame.loop("circuits", circuits.share, interval_seconds=settings.sweep_seconds)
    frame.loop("renew", claims.renew, interval_seconds=settings.lease_seconds / 3)
    batches = Batches(BatchProgressStore(frame.database), frame.catalog, wake_claims=claims.wake, cancel=claims.cancel)
    batch_loop = frame.loop("batches", batches.look_after, interval_seconds=settings.sweep_seconds)
    frame.loop("forget_batches", batches.forget, interval_seconds=_FORGOTTEN_SECONDS)
    frame.loop("expired_images", keeper.remove_expired, interval_seconds=_EXPIRED_SECONDS)
    frame.serve(
        DispatcherHandlers(store, account_store, frame.catalog, claims, wake_batches=batch_loop.wake),
        add_DispatcherServiceServicer_to_server,
        "darkroom.dispatcher.v1.DispatcherService",
    )
    frame.on_drain(claims.drain)
    frame.on_drain(submitter.close)
    frame.on_drain(wakeups.close)
    frame.on_close(channel.close)
    frame.on_close(objects.close)
    frame.on_close(downloader.close)
    frame.on_close(fetcher.close)
    frame.on_close(preparer.close)
    frame.on_close(accounts.close)


if __name__ == "__main__":
    run("dispatcher", wire)
