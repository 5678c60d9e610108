"""Starts a poller."""

from __future__ import annotations

from functools import partial

from darkroom.dispatcher.v1.dispatcher_pb2_grpc import DispatcherServiceStub
from darkroom.poller.v1.poller_pb2_grpc import add_PollingServiceServicer_to_server

from libs.common.adapters.accounts import Accounts
from libs.common.api_keys import key_secret
from libs.common.database.stores import live_ids
from libs.common.database.stores.callbacks import CallbackQueue
from libs.common.database.stores.polling import PollStore
from libs.common.database.stores.storing import ResultStore
from libs.common.rpc.channel import open_channel
from libs.common.rpc.nudges import batch_nudges
from libs.common.rpc.service import Frame, run
from libs.common.storage.download import Downloader
from libs.common.storage.objects import ObjectStore
from libs.common.storage.results import Results
from services.poller.asking import Asking
from services.poller.callbacks import Callbacks
from services.poller.handlers import PollerHandlers
from services.poller.polling import Polling
from services.poller.storing import Storing

# A task is polled well within a second of its due time.
_TICK_SECONDS = 0.25
_FORGOTTEN_SECONDS = 30.0
_CALLBACKS_SECONDS = 1.0
# What follows an end in its batch may wait so long for company.
_BETWEEN_NUDGES_SECONDS = 0.1
# A try may be redirected; each hop gets its whole time.
_LEASE_OF_A_CALLBACK = 4


async def wire(frame: Frame) -> None:
    """Put a poller together."""
    settings = frame.settings
    poll_store = PollStore(frame.database, owner=frame.owner, lease_seconds=settings.lease_seconds)
    result_store = ResultStore(frame.database, owner=frame.owner, lease_seconds=settings.lease_seconds)
    objects = ObjectStore(settings)
    downloader = Downloader(
        limit_bytes=settings.download_limit_bytes, timeout_seconds=settings.download_timeout_seconds
    )
    accounts = Accounts(frame.catalog)
    results = Results(downloader, objects, limit_bytes=settings.download_limit_bytes)
    to_dispatcher = open_channel(settings.dispatcher_address, settings)
    batches = batch_nudges(DispatcherServiceStub(to_dispatcher), between_seconds=_BETWEEN_NUDGES_SECONDS)
    polling = Polling(poll_store, frame.catalog, Asking(accounts), settings, batches=batches)
    storing = Storing(result_store, frame.catalog, accounts, results, settings, batches=batches)
    frame.loop("live_ids", partial(live_ids.follow, frame.database), interval_seconds=live_ids.LOOK_SECONDS)
    polling.window.refill = frame.loop("poll", polling.claim, interval_seconds=_TICK_SECONDS)
    storing.window.refill = frame.loop("store", storing.claim, interval_seconds=settings.sweep_seconds)
    frame.loop("forgotten", polling.end_forgotten, interval_seconds=_FORGOTTEN_SECONDS)
    callbacks = Callbacks(
        CallbackQueue(
            frame.database,
            owner=frame.owner,
            lease_seconds=settings.callback_timeout_seconds * _LEASE_OF_A_CALLBACK + settings.lease_seconds,
        ),
        settings,
        secret=key_secret(settings),
        url_of=objects.url,
    )
    frame.loop("callbacks", callbacks.claim, interval_seconds=_CALLBACKS_SECONDS)
    polling.storing_loop = storing.window.refill
    for name, renew in (("renew_tasks", polling.renew), ("renew_results", storing.renew)):
        frame.loop(name, renew, interval_seconds=settings.lease_seconds / 3)
    frame.serve(
        PollerHandlers(poll_store, frame.catalog, polling, objects.url),
        add_PollingServiceServicer_to_server,
        "darkroom.poller.v1.PollingService",
    )
    frame.on_drain(polling.drain)
    frame.on_drain(storing.drain)
    frame.on_drain(callbacks.drain)
    frame.on_drain(batches.close)
    frame.on_close(to_dispatcher.close)
    frame.on_close(objects.close)
    frame.on_close(callbacks.close)
    frame.on_close(downloader.close)
    frame.on_close(accounts.close)


if __name__ == "__main__":
    run("poller", wire)
